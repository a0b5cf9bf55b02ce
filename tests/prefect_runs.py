"""A tiny project that `siftline up` serves from a real Prefect server, one per session, and how to ask that server."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from features.ingest.samples import SampleFiles
from flows.deployments import services
from flows.project.project import Project
from flows.project.recovery import RunRecord, unfinished
from flows.servers.background import Background
from tests.projects import PLAIN_FUNCTIONS, make_small_project
from warehouse.catalog.write_lock import FolderLock

SCHEDULE = """
[schedule]
timezone = "Europe/Berlin"
cycle = "* * * * *"
collect = ""
maintenance = ""
new_labels = 0
new_records = 0
"""
PATIENCE_S = 300.0
"""Far beyond what anything here takes on an idle machine; a test that needs it fails, it is not late."""


@dataclass
class Served:
    """A project with a running server and running deployments."""

    root: Path

    @property
    def project(self) -> Project:
        return Project(self.root)

    @property
    def state(self) -> Path:
        return self.root / ".siftline"

    @property
    def api(self) -> str:
        running = Background("prefect", self.state).status()
        assert running is not None, Background("prefect", self.state).log.read_text()[-2000:]
        return running.url

    def ask(self, method: str, path: str, **body: Any) -> Any:
        for _ in range(20):
            response = httpx.request(method, self.api + path, json=body or None, timeout=120, trust_env=False)
            if response.status_code != 503:  # its database was busy
                break
            time.sleep(1.0)
        assert response.is_success, response.text[:500]
        return response.json() if response.content else None

    def start(self, flow: str, *, named: str = "siftline-reuters", **parameters: Any) -> str:
        """Begin a run of a deployment by hand; returns its id."""
        deployment = self.ask("GET", f"/deployments/name/{flow}/{named}")["id"]
        made = self.ask("POST", f"/deployments/{deployment}/create_flow_run", parameters=parameters)
        return made["id"]

    def run(self, run: str) -> dict[str, Any]:
        return self.ask("GET", f"/flow_runs/{run}")

    def ended(self, run: str) -> dict[str, Any]:
        """The run when it is over."""
        wait_for(lambda: self.run(run)["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"))
        return self.run(run)

    def at_work(self, run: str) -> RunRecord:
        """What a run has written down of itself, as soon as it is in a stage."""
        wait_for(
            lambda: any(r.run == run and r.stage for r in unfinished(self.state)), lambda: str(self.run(run)["state"])
        )
        return next(r for r in unfinished(self.state) if r.run == run)

    def pause(self, flow: str, *, on: bool) -> None:
        deployment = self.ask("GET", f"/deployments/name/{flow}/siftline-reuters")["id"]
        self.ask("POST", f"/deployments/{deployment}/{'pause' if on else 'resume'}_deployment")

    def idle(self) -> None:
        """Wait until no run is at work: a schedule that was on for a moment may have begun one."""
        active = {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}}
        wait_for(lambda: not self.ask("POST", "/flow_runs/filter", flow_runs=active))

    @contextlib.contextmanager
    def commits_held(self) -> Iterator[None]:
        """Hold the warehouse's write lock, so that whatever runs waits at its next commit."""
        self.project.lake.close()  # the folder exists
        with FolderLock(self.root / "lake", timeout_s=PATIENCE_S).held():
            yield


def wait_for(true: Callable[[], Any], words: Callable[[], str] = lambda: "") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s; {words()}"
        time.sleep(0.2)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, reuters: SampleFiles, prefect_database: Path) -> Iterator[Served]:
    root = make_small_project(
        tmp_path_factory.mktemp("served") / "project", reuters, train=40, test=10, prefect=prefect_database
    )
    settings = (root / "siftline.toml").read_text().replace('"snorkel"', '"majority"')
    (root / "siftline.toml").write_text(settings + SCHEDULE)
    (root / "labeling_functions.py").write_text(PLAIN_FUNCTIONS)
    with pytest.MonkeyPatch.context() as environment:
        for name in [n for n in os.environ if n.startswith(("PREFECT_", "LABEL_STUDIO_"))]:
            environment.delenv(name)
        environment.setenv("PREFECT_PROFILES_PATH", str(root / "no-profiles.toml"))
        environment.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        project = Project(root)
        try:
            services.up(project)
            yield Served(root)
        finally:
            services.down(root)
            for record in unfinished(root / ".siftline"):
                kill(record.pid)
