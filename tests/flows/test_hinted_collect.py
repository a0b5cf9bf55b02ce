"""What `siftline webhook` does with Prefect: it runs the collect deployment, or says why it cannot."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.projects import ROOT, give_prefect_database

SCRIPT = """
import json, sys, threading, time
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4
from flows.servers.prefect_server import prefect_api

with prefect_api(Path(sys.argv[1])):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.logging import disable_run_logger
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.states import Cancelled, Completed, Crashed, Failed, Running
    import flows.pipelines.triggers as trigger
    from flows.project.recovery import RunRecord
    from warehouse import ServiceError, WarehouseBusy

    project = SimpleNamespace(settings=SimpleNamespace(project=SimpleNamespace(name="tickets")))
    found = []

    def hinted(name):
        said = []
        try:
            came = trigger.run_collect(project, said.append)
        except WarehouseBusy as busy:
            came = f"busy: {busy}"
        except ServiceError as away:
            came = f"away: {away}"
        with get_client(sync_client=True) as client:
            runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(tags={"all_": ["hint"]}))
        found.append([name, came, said, sorted(run.state.type.value for run in runs)])

    def serve(*states):
        # Stands for `siftline serve`: takes the one run that waits through these states.
        with get_client(sync_client=True) as client:
            while True:
                waiting = [run for run in client.read_flow_runs() if run.state.is_scheduled()]
                if waiting:
                    break
                time.sleep(0.05)
            for state in states:
                client.set_flow_run_state(waiting[0].id, state, force=True)
                time.sleep(0.2)

    hinted("no deployment")
    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("collect")
        client.create_deployment(flow_id=flow, name="tickets")
    for name, states in (
        ("served", (Running(), Completed(message="5 rows written; a cycle is due"))),
        ("a run at work", (Running(), Cancelled(message="Another run is at work"))),
        ("killed", (Running(), Crashed(message="its process is gone"))),
        ("away", (Running(), Failed(message=f"collect failed: no answer. {trigger.PASSES}"))),
        ("to be mended", (Running(), Failed(message="collect failed: the key is refused."))),
    ):
        server = threading.Thread(target=serve, args=states)
        server.start()
        hinted(name)
        server.join()
    trigger.BEGIN_S, trigger.COLLECT_S = 5.0, 1.0
    server = threading.Thread(target=serve, args=(Running(),))
    server.start()
    hinted("never ends")
    server.join()
    trigger.BEGIN_S = 0.5
    hinted("nobody serves")
    one = trigger._started("collect/tickets", "key")
    same = trigger._started("collect/tickets", "key")
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(one.id, Cancelled(message="Another run is at work"), force=True)
    other = trigger._started("collect/tickets", "key")
    found.append(["started", same.id == one.id, other.id == one.id, other.state.is_scheduled()])
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(other.id, Failed(message="the key is refused"), force=True)
    soon = trigger._started("collect/tickets", "key")

    class SetBack(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) - timedelta(days=1)

    trigger.datetime = SetBack
    later = trigger._started("collect/tickets", "key")
    found.append(["failed by a clock that was ahead", later.id == other.id, later.state.is_scheduled()])
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(later.id, Failed(message="the key is refused"), force=True)
    trigger.datetime, trigger.AGAIN_S = datetime, 0.0
    last = trigger._started("collect/tickets", "key")
    found.append(["failed", soon.id == other.id, last.id == later.id, last.state.is_scheduled()])
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(last.id, Running(), force=True)
        for run in (other.id, last.id, uuid4(), "by hand"):
            trigger.close_in_prefect(RunRecord(run=str(run), flow="cycle", pid=1, host="h", began=""), "next")
        found.append(["taken over", *(client.read_flow_run(run.id).state.type.value for run in (other, last))])
    with disable_run_logger(), temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        trigger.close_in_prefect(RunRecord(run=str(last.id), flow="cycle", pid=1, host="h", began=""), "next")
print(json.dumps(found))
"""

ENDED = ["CANCELLED", "COMPLETED", "CRASHED", "FAILED", "FAILED"]


def test_the_deployment_is_run_and_waited_for_and_whatever_prevents_it_is_said(
    tmp_path: Path, prefect_database: Path
) -> None:
    give_prefect_database(tmp_path, prefect_database)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment["PREFECT_PROFILES_PATH"] = str(tmp_path / "no-profiles.toml")
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = {name: rest for name, *rest in json.loads(ended.stdout.splitlines()[-1])}
    words = found["never ends"][1][0].split(" of collect")
    assert words[0].startswith("Run ")
    assert found == {
        "no deployment": [False, ["There is no deployment collect/tickets: siftline serve"], []],
        "served": [True, ["5 rows written; a cycle is due"], ["COMPLETED"]],
        "a run at work": ["busy: Another run is at work", [], ["CANCELLED", "COMPLETED"]],
        "killed": ["away: its process is gone", [], [*ENDED[:2], "CRASHED"]],
        "away": [
            "away: collect failed: no answer. The service or the lock may be back by then: the next run goes on from"
            " here.",
            [],
            [*ENDED[:3], "FAILED"],
        ],
        "to be mended": [True, ["collect failed: the key is refused."], ENDED],
        "never ends": [
            False,
            [f"{words[0]} of collect/tickets has not ended in 1 s; its process may have been killed"],
            [*ENDED, "RUNNING"],
        ],
        "nobody serves": [
            False,
            ["Nobody runs the deployment collect/tickets: siftline serve"],
            ["CANCELLED", *ENDED, "RUNNING"],
        ],
        "started": [True, False, True],
        "failed by a clock that was ahead": [False, True],
        "failed": [True, False, True],
        "taken over": ["FAILED", "CRASHED"],
    }
