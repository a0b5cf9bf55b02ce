"""A project's deployments: under which name and for whom they are made, what is kept of them, and runs they start."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import httpx
import pyarrow as pa
import pytest

from flows.project.project import Project
from tests.projects import ROOT, give_prefect_database
from warehouse import Append, Upsert


def test_projects_with_other_names_have_deployments_of_their_own() -> None:
    from flows.pipelines.triggers import deployment_name

    alike = ("news-de", "news_de", "news de", "news/de", "News-DE", "-news-de", "news--de", "!", "project")
    names = [deployment_name(name) for name in ("Отзывы", "Письма", "評価", "Café", "caf", *alike)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z0-9-]+", name) for name in names), "Prefect refuses other keys of artifacts"
    assert [deployment_name(name) for name in ("news-de", "r8", "project")] == ["news-de", "r8", "project"]


def test_annotators_who_answered_all_there_is_wait_for_no_hour(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.exceptions import ObjectNotFound

    from flows.pipelines import triggers

    def no_deployment(*_: str) -> None:
        raise ObjectNotFound(Exception())

    def due() -> str:
        return triggers.start_cycle_if_due(project).partition(", but there is no deployment")[0]

    monkeypatch.setattr(triggers, "_started", no_deployment)
    answer_one(project, "answered", "confirmed")
    assert due() == "", "somebody has a task, and one answer is not enough"
    answer_one(project, "answered", "answered")
    assert due() == "; a cycle is due, all 2 tasks answered"
    with (project.root / "siftline.toml").open("a", encoding="utf-8") as settings:
        settings.write("[schedule]\nnew_labels = 0\n")
    assert triggers.start_cycle_if_due(Project(project.root)) == "", "answers are to start none"
    answer_one(project, *["answered"] * project.settings.select.budget)
    assert due() == "", "no further task may come"


def test_the_same_news_start_one_cycle_and_others_another(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.client.schemas.objects import FlowRun
    from prefect.logging import disable_run_logger
    from prefect.states import Completed, Failed, Scheduled

    from flows.pipelines import triggers

    keys: list[str] = []
    run = FlowRun(flow_id=uuid4(), state=Scheduled())

    def started(_: str, key: str) -> FlowRun:
        keys.append(key)
        return run

    def unreachable(*_: str) -> None:
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(triggers, "_started", started)
    answer_one(project, "answered", "answered")
    due = "; a cycle is due, all 2 tasks answered: "
    assert triggers.start_cycle_if_due(project) == f"{due}started as run {run.id}"
    run.state = Failed()
    assert triggers.start_cycle_if_due(project) == f"{due}run {run.id} failed, another one waits for an hour"
    run.state = Completed()
    assert triggers.start_cycle_if_due(project) == "", "it has been"
    assert len(set(keys)) == 1
    with project.lake.stage("end_model", version=1, inputs=(), params={}) as stage:
        stage.commit([])
    run.state = Scheduled()
    assert triggers.start_cycle_if_due(project) == "", "the models know all answers"
    answer_one(project, "answered", "answered")
    assert triggers.start_cycle_if_due(project) == f"{due}started as run {run.id}"
    assert len(set(keys)) == 2, "by the former key Prefect would name the run that has been"
    monkeypatch.setattr(triggers, "_started", unreachable)
    with disable_run_logger():
        assert triggers.start_cycle_if_due(project) == "; a cycle is due, and could not be started"


def answer_one(project: Project, *states: str) -> None:
    """Put tasks of these states into the queue, and one more answer to the first of them beside it."""
    tasks = [
        {"item_id": f"i{n}", "project": "p", "state": state, "cycle": 1, "rank": n, "value": 1.0, "reason": ""}
        | {"prediction": -1, "confidence": 0.0, "content_hash": "", "task_id": f"t{n}"}
        for n, state in enumerate(states)
    ]
    now = datetime.now(UTC)
    answer = {"annotation_id": uuid4().hex, "item_id": "i0", "project": "p", "task_id": "t0"} | {
        "annotator": "ann", "action": "labelled", "class_id": 0, "simulated": False,
        "created_at": now, "updated_at": now, "seconds": 1.0,
    }  # fmt: skip
    with project.lake.stage("collect", version=1, inputs=(), params={"answer": answer["annotation_id"]}) as stage:
        stage.commit(
            [
                Upsert("queue", pa.Table.from_pylist(tasks)),
                Append("annotations", pa.Table.from_pylist([answer])),
            ]
        )


TICKETS = """
import sys
from pathlib import Path

def tickets(folder):
    root = Path(sys.argv[1]) / folder
    root.mkdir()
    (root / "siftline.toml").write_text(
        '[project]\\nname = "tickets"\\nclasses = ["a", "b"]\\n[[sources]]\\nname = "r"\\npath = "d.jsonl"\\n'
    )
    return root
"""

DEPLOYED = (
    TICKETS
    + """
import asyncio
from flows.servers.prefect_server import prefect_api
with prefect_api(Path(sys.argv[1])):
    from prefect.client.orchestration import get_client
    from flows.deployments import deployments
    from flows.project.project import Project
    project = Project(tickets("north"))

    async def main():
        async with get_client() as client:
            made = [await deployment.aapply() for deployment in deployments.deployments_of(project)]
"""
)

SAME_NAME = (
    TICKETS
    + """
import json, os
from http.server import BaseHTTPRequestHandler
from flows.servers.prefect_server import prefect_api
with prefect_api(Path(sys.argv[1])):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
    from flows.deployments.deployments import deploy
    from flows.servers.processes import start_time
    from flows.project.project import Project
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from tests.servers import answering
    from warehouse import ServiceError, SettingsError
    north, south = tickets("north"), tickets("south")

    class Gate(BaseHTTPRequestHandler):
        do_GET = do_POST = lambda self: self.send_error(401)

        def log_message(self, *told):
            pass

    def refusal():
        try:
            deploy(Project(north), "pool")
        except (ServiceError, SettingsError) as error:
            return str(error)

    print(refusal())
    with answering(Gate) as url, temporary_settings({PREFECT_API_URL: f"{url}/api"}):
        print(refusal())
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="pool", type="process"))
        deploy(Project(north), "pool")
        client.pause_deployment(client.read_deployment_by_name("cycle/tickets").id)
        upkeep = client.read_deployment_by_name("maintenance/tickets")
        client.update_deployment_schedule(upkeep.id, upkeep.schedules[0].id, active=False)
        theirs = dict(work_queue_name="night", job_variables={"env": {"KEY": "k"}}, tags=["team"])
        client.update_deployment(upkeep.id, DeploymentUpdate(work_pool_name="pool", **theirs))
        try:
            deploy(Project(south), "pool")
        except SettingsError as error:
            print(error)
        print(*deploy(Project(north), "pool").values(), sep="; ")
        flows = ("cycle", "collect", "refresh", "maintenance")
        print(*(client.read_deployment_by_name(f"{flow}/tickets").paused for flow in flows))
        upkeep = client.read_deployment_by_name("maintenance/tickets")
        print(upkeep.work_queue_name, upkeep.job_variables, upkeep.tags)
        client.delete_work_pool("pool")
        client.create_work_pool(WorkPoolCreate(name="other", type="process"))
        print(refusal())
        client.create_work_pool(WorkPoolCreate(name="pool", type="process"))
    moved = north.rename(north.with_name("moved"))
    services = moved / ".siftline" / "services"
    services.mkdir(parents=True)
    server = {"pid": os.getpid(), "started": start_time(os.getpid()), "url": os.environ["PREFECT_API_URL"]}
    (services / "prefect.json").write_text(json.dumps(server))
    print(len(deploy(Project(moved), "pool")))
    with get_client(sync_client=True) as client:
        print(client.read_deployment_by_name("cycle/tickets").parameters["project"])
        mine = client.read_deployment_by_name("cycle/tickets")
        client.create_deployment(mine.flow_id, "my-own", tags=["siftline"], parameters=mine.parameters)
    settings = moved / "siftline.toml"
    settings.write_text(settings.read_text().replace("tickets", "letters"))
    deploy(Project(moved), "pool")
    with get_client(sync_client=True) as client:
        print(*sorted(known.name for known in client.read_deployments()))
"""
)

DEAD_RUN = (
    TICKETS
    + """
import asyncio
from flows.servers.prefect_server import prefect_api
with prefect_api(Path(sys.argv[1])):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.states import Pending, Running
    from flows.deployments.deployments import begun_runs, close_dead_runs, close_when_idle, deploy
    from flows.project.project import Project
    root = tickets("project")
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="pool", type="process"))
        deploy(Project(root), "pool")
        made = client.read_deployment_by_name("maintenance/tickets").id
        begun = client.create_flow_run_from_deployment(made).id
        client.set_flow_run_state(begun, Pending())
        client.set_flow_run_state(begun, Running())
        def told():
            another = client.create_flow_run_from_deployment(made).id
            client.set_flow_run_state(another, Pending())
            print(client.read_flow_run(begun).state.type.value, client.read_flow_run(another).state.type.value)
        runs = asyncio.run(begun_runs([made]))
        assert runs == [begun]
        by_hand = Project(root)
        with by_hand.only_run():
            assert asyncio.run(close_dead_runs(Project(root), runs)) == runs
        told()

        async def served():
            with by_hand.only_run():
                closing = asyncio.create_task(close_when_idle(Project(root), runs, every_s=0.1))
                await asyncio.sleep(1.0)
                print(client.read_flow_run(begun).state.type.value)
            await closing

        asyncio.run(served())
        told()
"""
)


FORGOTTEN = (
    TICKETS
    + """
import os, threading
from flows.servers.prefect_server import prefect_api
with prefect_api(Path(sys.argv[1])):
    from prefect.client.orchestration import get_client
    from flows.deployments import deployments
    from flows.project.project import Project
    from warehouse import ServiceError
    root = tickets("project")
    deployments.LOOK_S = 2.0
    late = threading.Timer(120.0, os._exit, [1])
    late.daemon = True
    late.start()

    def forget():
        with get_client(sync_client=True) as client:
            for known in client.read_deployments():
                client.delete_deployment(known.id)

    async def watching(project):
        print("the clock is watched")

    deployments.make_anew_when_set_back = watching
    try:
        deployments.serve(Project(root), lambda times: threading.Timer(5.0, forget).start())
    except ServiceError as error:
        print(error)
"""
)


def test_a_schedule_whose_server_has_another_database_ends_in_words(tmp_path: Path, prefect_database: Path) -> None:
    watched, said = ended_well(FORGOTTEN, tmp_path, prefect_database)
    assert watched == "the clock is watched"
    assert said.startswith("Prefect's server knows none of the deployments any more")
    assert said.endswith("Start this again to make them anew.")


OVERDUE = (
    DEPLOYED
    + """
            from datetime import UTC, datetime, timedelta
            from prefect.states import Scheduled
            now = datetime.now(UTC)
            times = {"start_time": str(now - timedelta(days=10)), "end_time": str(now - timedelta(minutes=1))}
            for deployment, runs in ((made[0], 205), (made[1], 5)):  # Prefect tells of 200 at once
                slept = {**times, "min_runs": runs, "max_runs": runs}
                (await client._client.post(f"/deployments/{deployment}/schedule", json=slept)).raise_for_status()
            (await client._client.post(f"/deployments/{made[0]}/schedule", json={"min_runs": 3})).raise_for_status()
            before = Scheduled(scheduled_time=now - timedelta(days=9))
            by_hand = await client.create_flow_run_from_deployment(made[1], state=before)

            async def left(deployment):
                chosen = deployments.FlowRunFilter.model_validate(
                    {"deployment_id": {"any_": [deployment]}, "state": {"type": {"any_": ["SCHEDULED"]}}}
                )
                return [run for run in await client.read_flow_runs(flow_run_filter=chosen)]

            watching = asyncio.create_task(deployments.keep_up(made[:2], every_s=0.1))
            for _ in range(300):
                if not (await left(made[1]))[2:]:
                    break
                await asyncio.sleep(0.2)
            watching.cancel()
            due = [run for run in await left(made[0]) if run.expected_start_time < now]
            print(len(due), len(await left(made[0])) - len(due) >= 3)
            print(by_hand.id in {run.id for run in await left(made[1])})

    asyncio.run(main())
"""
)


def test_of_the_runs_that_came_due_while_nobody_served_the_latest_is_left_and_those_by_hand(
    tmp_path: Path, prefect_database: Path
) -> None:
    assert ended_well(OVERDUE, tmp_path, prefect_database) == ["1 True", "True"]


IN_A_FLOW_OF_ONES_OWN = """
import json, os, sys
from pathlib import Path
os.environ["PREFECT_FLOWS_DEFAULT_RETRIES"] = "3"
from flows.servers.prefect_server import prefect_api
with prefect_api(Path(sys.argv[1])):
    from prefect import flow, task
    from flows.pipelines import flows as pipelines
    root = Path(sys.argv[1]) / "project"
    root.mkdir()

    def name_source(file):
        source = f'[[sources]]\\nname = "r"\\npath = "{file}"\\ntext = "text"\\n'
        (root / "siftline.toml").write_text('[project]\\nname = "p"\\nclasses = ["a", "b"]\\n' + source)

    for file, texts in (("one.jsonl", ["x"]), ("two.jsonl", ["y", "z"])):
        (root / file).write_text("".join(json.dumps({"text": text}) + "\\n" for text in texts))

    @task
    def beside():
        return pipelines.collect("project")

    @flow
    def mine():
        os.chdir(root.parent)
        for file in ("one.jsonl", "two.jsonl"):
            name_source(file)
            print(pipelines.collect("project").last("ingest").rows_read)
        print(Path.cwd() == root.parent)
        print(beside.submit().result(raise_on_failure=False))

    mine()
    flows = (pipelines.cycle, pipelines.collect, pipelines.refresh, pipelines.maintenance)
    print(mine.retries, *(flow.retries for flow in flows))
"""


def test_in_a_flow_of_ones_own_a_run_reads_the_settings_anew_and_leaves_the_process_as_it_is(
    tmp_path: Path, prefect_database: Path
) -> None:
    first, second, at_home, in_a_task, retries = ended_well(IN_A_FLOW_OF_ONES_OWN, tmp_path, prefect_database)
    assert (first, second) == ("1", "2")
    assert at_home == "True"
    assert (
        'not in a task. To have several run at once, start their deployments: run_deployment("cycle/NAME")' in in_a_task
    )
    assert retries == "3 0 0 0 0", (
        "by a profile's default, a scheduled run would wait for a retry, and never have failed"
    )


def test_who_serves_a_schedule_anew_closes_the_runs_that_died(tmp_path: Path, prefect_database: Path) -> None:
    assert ended_well(DEAD_RUN, tmp_path, prefect_database) == ["RUNNING CANCELLED", "RUNNING", "CRASHED PENDING"]


def ended_well(script: str, folder: Path, database: Path) -> list[str]:
    """Lines that a script prints beside a Prefect server of its own."""
    give_prefect_database(folder, database)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment["PREFECT_PROFILES_PATH"] = str(folder / "no-profiles.toml")
    ended = subprocess.run(
        [sys.executable, "-c", script, str(folder)], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_a_project_does_not_take_the_deployments_of_another_of_its_name(tmp_path: Path, prefect_database: Path) -> None:
    told = ended_well(SAME_NAME, tmp_path, prefect_database)
    no_pool, no_log_in, refused, again, paused, theirs, pool_gone, moved, place, renamed = told
    make_it = "To make it: prefect work-pool create pool --type process"
    assert no_pool == f"Prefect's server has no work pool 'pool'; it has none. {make_it}"
    assert pool_gone == f"Prefect's server has no work pool 'pool'; it has other. {make_it}", "and no bare 500"
    assert "PREFECT_API_AUTH_STRING" in no_log_in
    assert f"cycle/tickets for the project in {tmp_path / 'north'}, not for {tmp_path / 'south'}" in refused
    ways = [f"prefect deployment delete {flow}/tickets" for flow in ("cycle", "collect", "refresh", "maintenance")]
    assert refused.strip().endswith("; ".join(ways))
    assert again.split("; ") == [
        "0 * * * * (UTC), paused in Prefect",
        "*/10 * * * * (UTC)",
        "never by itself",
        "30 3 * * * (UTC), paused in Prefect",
    ]
    assert paused == "True False False True", "what somebody paused stays so, when the schedule is made anew"
    assert theirs == "night {'env': {'KEY': 'k'}} ['siftline', 'tickets', 'team']", "what somebody gave it stays too"
    assert (moved, place) == ("4", str(tmp_path / "moved")), "on its own server a project that was moved goes on"
    assert renamed == "letters letters letters letters my-own", "and one with a new name has none under the former"
