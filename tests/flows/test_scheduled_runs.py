"""A project on its schedule under a real Prefect server: cron, overlap, a killed worker, SIGTERM, cycles that are due.

The tests share one served project and follow each other: each leaves it served and idle. The one of cron is the first,
for its run must be held before it has stored anything, and cron starts one at the next minute. A run is held in the
middle by the warehouse's own write lock.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from typing import Any

import httpx
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait
from websockets import InvalidStatus, Subprotocol
from websockets.sync.client import connect

from flows.deployments import services
from flows.deployments.webhook import HEADER, SECRET_VARIABLE
from flows.project.recovery import unfinished
from flows.servers.background import Background
from flows.servers.processes import start_time
from tests.browser import chromium, requires_chromium
from tests.prefect_runs import Served, kill, wait_for
from tests.projects import ROOT
from tests.studio import free_port
from weak_labels.analysis.lf_report import lf_report

RUN = [sys.executable, "-m", "flows.cli.main", "run", "--project"]


def by_hand(served: Served) -> subprocess.Popen[str]:
    return subprocess.Popen([*RUN, str(served.root)], cwd=ROOT, stderr=subprocess.PIPE, text=True)


def taken_over(served: Served) -> list[tuple[str, str]]:
    """Id of each run that was taken over and of the run that did so."""
    with served.project.read_lake() as lake, lake.read() as reader:
        return reader.rows(
            "SELECT detail ->> '$.taken_over.run', detail ->> '$.by' FROM runs WHERE stage = 'take_over' "
            "ORDER BY committed_at"
        )


def test_cron_starts_a_run_and_whatever_overlaps_leaves_cleanly(served: Served) -> None:
    def by_cron() -> list[str]:
        found = served.ask("POST", "/flow_runs/filter", flow_runs={"state": {"type": {"any_": ["RUNNING"]}}})
        return [run["id"] for run in found if run["auto_scheduled"]]

    with served.commits_held():
        wait_for(by_cron)
        run = by_cron()[0]
        served.at_work(run)
        served.pause("cycle", on=True)  # the rest is started by hand

        beside = served.ended(served.start("cycle"))
        assert (beside["state_type"], beside["state"]["message"]) == (
            "CANCELLED",
            "Deployment concurrency limit reached.",
        )
        other = served.ended(served.start("collect"))
        assert other["state_type"] == "CANCELLED"
        assert "Another run of" in other["state"]["message"]
        hand = by_hand(served)
        _, words = hand.communicate()
        assert hand.returncode == 3, words
        assert "this one leaves it alone" in words
    done = served.ended(run)
    assert done["state_type"] == "COMPLETED", done["state"]
    tasks = served.ask("POST", "/task_runs/filter", flow_runs={"id": {"any_": [run]}})
    said = {task["name"]: task["state"]["message"] for task in tasks}
    assert "50 items written" in said["ingest"]
    assert "50 vectors written" in said["embed"]
    made = served.ask("POST", "/artifacts/filter", artifacts={"flow_run_id": {"any_": [run]}})
    keys = {a["key"] for a in made}
    assert {f"siftline-reuters-{name}" for name in ("stages", "labeling-functions", "queue", "metrics")} <= keys
    shown = {
        a["key"]: json.loads(a["data"]) if isinstance(a["data"], str) else a["data"]
        for a in made
        if a["type"] == "table"
    }
    with served.project.read_lake() as lake, lake.read() as reader:
        figures = {f.name: f for f in lf_report(reader).functions}
    table = {row["function"]: row for row in shown["siftline-reuters-labeling-functions"]}
    assert table.keys() == figures.keys() == {function.name for function in served.project.functions}
    for name, f in figures.items():
        assert table[name]["coverage"] == round(f.coverage, 4)
        assert table[name]["votes for"] == ", ".join(f.polarity)
        assert table[name]["faults"] == f.faults
    assert any(row["coverage"] > 0 for row in table.values())
    assert {row["stage"] for row in shown["siftline-reuters-stages"]} >= {"ingest", "embed", "vote", "end_model"}
    assert {row["series"] for row in shown["siftline-reuters-metrics"]} >= {"siftline", "label_model"}
    assert sum(int(row["tasks"]) for row in shown["siftline-reuters-queue"]) > 0
    assert not unfinished(served.state)
    assert not taken_over(served)


def test_pages_of_other_sites_may_not_ask_the_server(served: Served) -> None:
    own = served.api.removesuffix("/api")
    for origin, let_in in (("http://evil.example", False), (own, True), (own.replace("127.0.0.1", "localhost"), True)):
        answer = httpx.get(f"{served.api}/health", headers={"Origin": origin}, timeout=60, trust_env=False)
        assert (answer.headers.get("access-control-allow-origin") == origin) == let_in
        assert "*" not in answer.headers.get("access-control-allow-origin", "")


def test_pages_of_other_sites_have_nothing_done_and_hear_nothing(served: Served) -> None:
    """A page may send what is not called JSON, and open a WebSocket, without being let in by the rules for reading."""
    own = served.api.removesuffix("/api")
    others = ["http://evil.example", "null", "http://127.0.0.1:1", own.replace("http://", "http://evil.")]
    ours = [own, own.replace("127.0.0.1", "localhost"), None]  # no browser leaves it out
    for origin, let_in in [*((other, False) for other in others), *((our, True) for our in ours)]:
        headers = {} if origin is None else {"Origin": origin}
        asked = httpx.post(f"{served.api}/flows/filter", content=b"{}", headers=headers, timeout=60, trust_env=False)
        assert asked.status_code == (200 if let_in else 403), origin
        address = served.api.replace("http://", "ws://") + "/events/out"
        heard = contextlib.nullcontext() if let_in else pytest.raises(InvalidStatus, match="HTTP 403")
        with heard, connect(address, additional_headers=headers, subprotocols=[Subprotocol("prefect")], proxy=None):
            pass


@pytest.mark.browser
@requires_chromium
def test_the_pages_of_prefect_may_ask_nobody_else(served: Served) -> None:
    """Prefect's ask a service of Amplitude for settings; a browser keeps them from it by the policy."""
    own = served.api.removesuffix("/api")
    names = own, own.replace("127.0.0.1", "localhost")
    policy = httpx.get(own, timeout=60, trust_env=False, follow_redirects=True).headers["content-security-policy"]
    assert set(policy.split()) == {"connect-src", "'self'", *names, *(at.replace("http", "ws", 1) for at in names)}
    with chromium() as driver:
        for at in names:
            driver.get(f"{at}/deployments")
            WebDriverWait(driver, 60).until(lambda driver: "cycle" in driver.find_element(By.TAG_NAME, "body").text)


def test_the_server_answers_under_no_name_of_another_site(served: Served) -> None:
    """Which may lead to 127.0.0.1; its pages would be of the server's own origin then."""
    port = served.api.removesuffix("/api").rpartition(":")[2]
    for name, status in ((f"evil.example:{port}", 400), (f"localhost:{port}", 200), (f"127.0.0.1:{port}", 200)):
        for path in (f"{served.api}/health", served.api.removesuffix("/api")):
            answer = httpx.get(path, headers={"Host": name}, timeout=60, trust_env=False, follow_redirects=True)
            assert answer.status_code == status, (name, path)


def test_a_killed_worker_and_its_run_are_taken_over_once_by_two_that_start_together(served: Served) -> None:
    worker = Background("deployments", served.state).status()
    assert worker is not None
    answer_a_task(served)
    with served.commits_held():
        run = served.start("cycle")
        record = served.at_work(run)
        kill(worker.pid)
        kill(record.pid)
    assert served.run(run)["state_type"] == "RUNNING"  # nobody has told Prefect
    runs = [by_hand(served), by_hand(served)]
    words = [process.communicate()[1] for process in runs]
    codes = sorted(process.returncode for process in runs)
    assert codes in ([0, 0], [0, 3]), words
    assert [dead for dead, _ in taken_over(served)] == [run]
    assert sum("Going on after cycle run" in said for said in words) == 1, words
    state = served.run(run)["state"]
    assert state["type"] == "CRASHED"
    assert f"Taken over by run {taken_over(served)[0][1]}" in state["message"]
    assert f"in stage {record.stage}" in state["message"]
    assert not unfinished(served.state)


def test_up_starts_again_only_what_died_or_was_told_another_address(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Background("prefect", served.state).status()
    states = {line.name: line.state for line in services.status(served.project)}
    assert states == {"prefect": "runs", "deployments": "ended"}
    services.up(served.project)
    running = Background("deployments", served.state).status()
    assert Background("prefect", served.state).status() == before
    services.up(served.project)
    assert Background("deployments", served.state).status() == running
    assert running is not None
    with monkeypatch.context() as shell:
        shell.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:9")
        shell.setenv("LABEL_STUDIO_API_KEY", "key")
        services.up(served.project)
        other = Background("deployments", served.state).status()
    assert other is not None
    assert other.pid != running.pid
    services.up(served.project)
    again = Background("deployments", served.state).status()
    assert again is not None
    assert again.pid != other.pid
    served.pause("cycle", on=True)
    served.idle()


def test_up_takes_a_changed_schedule(served: Served) -> None:
    settings = (served.root / "siftline.toml").read_text()
    services.up(served.project)
    before = Background("deployments", served.state).status()
    (served.root / "siftline.toml").write_text(settings.replace('maintenance = ""', 'maintenance = "7 3 * * *"'))
    try:
        services.up(served.project)
        [schedule] = served.ask("GET", "/deployments/name/maintenance/siftline-reuters")["schedules"]
        assert schedule["schedule"]["cron"] == "7 3 * * *"
        assert Background("deployments", served.state).status() != before
    finally:
        (served.root / "siftline.toml").write_text(settings)
        services.up(served.project)
    assert not served.ask("GET", "/deployments/name/maintenance/siftline-reuters")["schedules"]
    served.pause("cycle", on=True)
    served.idle()


def test_sigterm_to_the_worker_stops_its_run_within_ten_seconds_and_the_next_goes_on(served: Served) -> None:
    worker = Background("deployments", served.state).status()
    assert worker is not None
    answer_a_task(served)
    with served.commits_held():
        run = served.start("cycle")
        record = served.at_work(run)
        kill(worker.pid, signal.SIGTERM)
        assert gone_within(record.pid, 10.0)
        assert gone_within(worker.pid, 10.0)
    assert [(r.run, r.ended) for r in unfinished(served.state)] == [(run, "stopped by SIGTERM")]
    assert served.ended(run)["state_type"] in ("CANCELLED", "CRASHED")
    services.up(served.project)
    served.pause("cycle", on=True)
    served.idle()
    next_run = served.start("cycle")
    assert served.ended(next_run)["state_type"] == "COMPLETED"
    assert taken_over(served)[-1] == (run, next_run)


def test_a_webhook_runs_the_collect_and_enough_new_answers_start_a_cycle_once(served: Served) -> None:
    settings = (served.root / "siftline.toml").read_text()
    answer_a_task(served)
    (served.root / "siftline.toml").write_text(settings.replace("new_labels = 0", "new_labels = 1"))

    def by_hint() -> list[dict[str, Any]]:
        return served.ask("POST", "/flow_runs/filter", flow_runs={"tags": {"all_": ["hint"]}})

    try:
        with receiver(served) as hook:
            assert hook().status_code == 204
            wait_for(by_hint)
            [hinted] = by_hint()
            first = served.ended(hinted["id"])
        assert "a cycle is due, 1 new answer " in first["state"]["message"], first["state"]
        cycle = first["state"]["message"].rpartition("run ")[2]
        again = served.ended(served.start("collect"))
        assert served.ended(cycle)["state_type"] == "COMPLETED"
        assert cycle in again["state"]["message"] or "due" not in again["state"]["message"]
        after = served.ended(served.start("collect"))
        assert "due" not in after["state"]["message"]  # the models know it now
    finally:
        (served.root / "siftline.toml").write_text(settings)


def test_a_failure_says_which_stage_what_and_what_to_do(served: Served) -> None:
    functions = served.root / "labeling_functions.py"
    good = functions.read_text()
    functions.write_text("from weak_labels import keywords\n\noil = keywords('no such class', ['oil'])\n")
    try:
        run = served.start("refresh")
        state = served.ended(run)["state"]
    finally:
        functions.write_text(good)
    assert state["type"] == "FAILED"
    assert "refresh failed at stage vote" in state["message"]
    assert "no such class" in state["message"]
    assert "Someone must mend this" in state["message"]

    def lines() -> list[dict[str, Any]]:
        of_it = {"flow_run_id": {"any_": [run]}, "level": {"ge_": logging.ERROR}}
        return served.ask("POST", "/logs/filter", logs=of_it)

    wait_for(lambda: any("Someone must mend this" in line["message"] for line in lines()))
    served.idle()
    assert "Traceback" not in " ".join(line["message"] for line in lines())


@contextlib.contextmanager
def receiver(served: Served) -> Generator[Callable[[], httpx.Response]]:
    """`siftline webhook` beside the served project; yields what sends it a hook."""
    port, secret = free_port(), "0123456789abcdef"
    command = [sys.executable, "-m", "flows.cli.main", "webhook", "--project", str(served.root)]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--every", "0.5"], cwd=ROOT, env={**os.environ, SECRET_VARIABLE: secret}
    )

    def there() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).is_success
        except httpx.HTTPError:
            return False

    try:
        wait_for(there)
        yield lambda: httpx.post(f"http://127.0.0.1:{port}/hook", headers={HEADER: secret}, trust_env=False)
    finally:
        process.terminate()
        process.wait()


def answer_a_task(served: Served) -> None:
    """A person's answer to the next open task, so that the next run has something to commit."""
    for path in sorted((served.root / "tasks").glob("*.json")):
        task = json.loads(path.read_text())
        if "annotations" not in task:
            choice = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": ["earn"]}}
            task["annotations"] = [{"result": [choice], "completed_by": "a person", "lead_time": 5.0}]
            path.write_text(json.dumps(task))
            return
    raise AssertionError("no open task is left")


def gone_within(pid: int, seconds: float) -> bool:
    """Whether a process ends in that time; the ten seconds are the promise that is tested."""
    deadline = time.monotonic() + seconds
    while start_time(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not start_time(pid)
