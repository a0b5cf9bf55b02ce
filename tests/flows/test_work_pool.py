"""A process work pool, with Prefect's server on PostgreSQL: `siftline deploy`, prefect.yaml and `siftline serve`."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from features.ingest.samples import SampleFiles
from flows.servers.background import Background
from tests.prefect_runs import SCHEDULE, Served, wait_for
from tests.projects import ROOT, make_small_project
from tests.studio import free_port
from tests.warehouse.servers import Postgres

PREFECT = [sys.executable, "-m", "prefect"]


@pytest.fixture
def on_postgres(
    tmp_path: Path, reuters: SampleFiles, postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Served]:
    """A project, and a Prefect server on PostgreSQL that is taken for the one of `siftline up`."""
    root = make_small_project(tmp_path / "project", reuters, train=40, test=10)
    settings = (root / "siftline.toml").read_text().replace('"snorkel"', '"majority"')
    (root / "siftline.toml").write_text(settings + SCHEDULE.replace('cycle = "* * * * *"', 'cycle = ""'))
    postgres_server.ask("postgres", "CREATE DATABASE prefect")
    place = f"siftline:{postgres_server.password}@/prefect?host={postgres_server.folder}"
    for name in [n for n in os.environ if n.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SIFTLINE_DIR", str(root))
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    (root / ".siftline").mkdir()
    server = Background("prefect", root / ".siftline")
    served = Served(root)
    variables = {**os.environ, "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{place}"}
    command = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server.start(command, variables, url=url, ready=lambda: _there(url))
    monkeypatch.setenv("PREFECT_API_URL", url)
    monkeypatch.setenv("PREFECT_WORKER_QUERY_SECONDS", "2")
    try:
        yield served
    finally:
        server.stop()


def _there(url: str) -> bool:
    import httpx

    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _cli(*arguments: str) -> None:
    ended = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]


@pytest.mark.heavy
def test_workers_and_serve_run_the_same_deployments_on_postgres(on_postgres: Served) -> None:
    served = on_postgres
    _cli("prefect", "work-pool", "create", "siftline", "--type", "process")
    _cli("flows.cli.main", "deploy", "--pool", "siftline", "--project", str(served.root))
    worker = subprocess.Popen(
        [*PREFECT, "worker", "start", "--pool", "siftline"], cwd=served.root, stdout=subprocess.DEVNULL
    )
    try:
        done = served.ended(served.start("cycle"))
        assert done["state_type"] == "COMPLETED", done["state"]
        with served.commits_held():
            (served.root / "labeling_functions.py").open("a").write("\n# changed\n")
            run = served.start("cycle", max_passes=1)
            served.at_work(run)
            assert served.ended(served.start("cycle"))["state_type"] == "CANCELLED"
        assert served.ended(run)["state_type"] == "COMPLETED"

        _cli("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(ROOT / "prefect.yaml"))
        assert served.ended(served.start("collect", named="siftline"))["state_type"] == "COMPLETED"
    finally:
        worker.terminate()
        worker.wait()

    serving = Background("deployments", served.state)
    ready = served.state / "services" / "ready"
    command = [sys.executable, "-m", "flows.cli.main", "serve", "--project", str(served.root)]
    serving.start(command, {**os.environ, "SIFTLINE_SERVE_READY": str(ready)}, url="", ready=ready.exists)
    try:
        assert served.ended(served.start("refresh"))["state_type"] == "COMPLETED"
        done = served.ended(served.start("maintenance"))
        assert done["state_type"] == "COMPLETED", done["state"]
        wait_for(lambda: serving.status() is not None)
    finally:
        serving.stop()
