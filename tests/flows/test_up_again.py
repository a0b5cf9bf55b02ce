"""What `siftline up` finds running: a server that starts still, or one from before the project's folder was moved."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from flows.deployments import services
from flows.project.project import Project
from flows.servers.background import Background
from flows.servers.processes import start_time
from tests.prefect_runs import Served, kill, wait_for
from tests.projects import ROOT, give_prefect_database
from warehouse import ServiceError

UP = """
import os, sys
from pathlib import Path
from flows.deployments import services
from flows.project.project import Project
services._prefect_up(Project(Path(sys.argv[1])), os.environ, print)
"""


@pytest.fixture
def root(tmp_path: Path, prefect_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose Prefect server has a database."""
    for name in [n for n in os.environ if n.startswith(("PREFECT_", "LABEL_STUDIO_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "none.toml"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    root = tmp_path / "first"
    (root / ".siftline").mkdir(parents=True)
    give_prefect_database(root / ".siftline", prefect_database)
    (root / "siftline.toml").write_text(
        '[project]\nname = "p"\nclasses = ["a", "b"]\n[[sources]]\nname = "s"\npath = "s.jsonl"\n'
    )
    return root


def prefect_up(root: Path) -> str:
    return services._prefect_up(Project(root), os.environ, lambda _: None)  # pyright: ignore[reportPrivateUsage]


def test_a_server_is_waited_for_and_started_again_where_the_folder_was_moved(root: Path) -> None:
    state = root / ".siftline"
    moved = root.with_name("moved")
    try:
        first = subprocess.Popen([sys.executable, "-c", UP, str(root)])
        wait_for(lambda: Background("prefect", state).last() is not None)
        kill(first.pid)
        first.wait()
        url = prefect_up(root)
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 200

        before = Background("prefect", state).status()
        root.rename(moved)
        told: list[str] = []
        for _ in range(2):
            services._stop_moved(moved / ".siftline", told.append)  # pyright: ignore[reportPrivateUsage]
            assert prefect_up(moved) == url
        assert told == ["stopping what was started before the folder was moved"]
        assert Background("prefect", moved / ".siftline").status() != before

        def asked(_: int) -> int:
            return httpx.post(f"{url}/flow_runs/filter", json={}, timeout=120, trust_env=False).status_code

        with ThreadPoolExecutor(24) as pool:  # more than it has connections to its database
            assert set(pool.map(asked, range(24))) == {200}
    finally:
        for place in (root, moved):
            Background("prefect", place / ".siftline").stop()


def test_a_run_that_died_is_closed_once_nobody_is_at_work(root: Path) -> None:
    project, served = Project(root), Served(root)
    worker = Background("deployments", project.state_path)
    try:
        services.up(project)
        running = worker.status()
        assert running is not None
        kill(running.pid)
        wait_for(lambda: worker.status() is None)
        died = served.start("maintenance", named="p")
        for state in ("PENDING", "RUNNING"):
            served.ask("POST", f"/flow_runs/{died}/set_state", state={"type": state}, force=True)
        with Project(root).only_run():
            services.up(project)
            assert served.run(died)["state_type"] == "RUNNING", "what is at work may be this one"
        wait_for(lambda: served.run(died)["state_type"] == "CRASHED")
    finally:
        services.down(root)


def test_one_that_hangs_is_stopped_in_the_end(tmp_path: Path) -> None:
    service = Background("prefect", tmp_path, patience_s=0.5)
    running = service.start(["/bin/sleep", "300"], dict(os.environ), url="", ready=lambda: True)
    with pytest.raises(ServiceError, match=r"was stopped .* Start it again: siftline up"):
        service.await_ready(running, lambda: False)
    assert start_time(running.pid) != running.started
