"""`siftline up` with all it can start: Prefect, the engine's server, Label Studio, deployments; and `down` after it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from features.ingest.samples import SampleFiles
from flows.deployments import services
from flows.servers.background import Background
from flows.servers.label_studio import StudioServer, studio_server
from flows.servers.processes import start_time
from tests.prefect_runs import SCHEDULE, Served
from tests.projects import ROOT, make_small_project
from tests.studio import api, free_port

NAMES = ["prefect", "engine", "label studio", "deployments"]

pytestmark = [pytest.mark.heavy, pytest.mark.studio]


def siftline(root: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "flows.cli.main", *arguments, "--project", str(root)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    return ended.stdout + ended.stderr


def session_of(pid: int) -> list[int]:
    """Live processes of the session that a service leads."""
    found: list[int] = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and start_time(int(folder.name)):
            try:
                session = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
            except OSError:
                continue
            if session == pid:
                found.append(int(folder.name))
    return found


@pytest.fixture
def everything(tmp_path: Path, reuters: SampleFiles, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A project whose settings ask for an engine's server and for Label Studio; nothing is started."""
    if not (StudioServer(tmp_path).environment / "bin" / "label-studio").is_file():
        pytest.skip("no Label Studio: make studio-env")
    root = make_small_project(tmp_path / "project", reuters, train=40, test=10)
    text = (root / "siftline.toml").read_text().replace('"snorkel"', '"majority"')
    text = text.replace("[annotate]", '[annotate]\nservice = "label-studio"')
    text += f'\n[engine]\nurl = "http://127.0.0.1:{free_port()}"\n' + SCHEDULE.replace('"* * * * *"', '""')
    (root / "siftline.toml").write_text(text)
    for name in [n for n in os.environ if n.startswith(("PREFECT_", "LABEL_STUDIO_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(root / "no-profiles.toml"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    served = Served(root)
    yield served
    services.down(served.project.root)


def test_all_four_answer_work_together_and_leave_nothing(everything: Served) -> None:
    root = everything.root
    siftline(root, "up")
    lines = {line.name: line for line in services.status(everything.project)}
    assert list(lines) == NAMES
    assert {line.state for line in lines.values()} == {"runs"}
    studio = studio_server(root).status()
    assert studio is not None
    pids = [studio.pid]
    for name in ("prefect", "engine", "deployments"):
        running = Background(name, everything.state).status()
        assert running is not None
        pids.append(running.pid)
    addresses = {name: lines[name].where for name in NAMES[:3]}
    assert httpx.get(f"{addresses['engine']}/info", trust_env=False).json()["encoder_id"].startswith("dense")

    done = everything.ended(everything.start("cycle"))
    assert done["state_type"] == "COMPLETED", done["state"]
    [project] = api(studio, "GET", "/api/projects/", params={"title": "siftline-reuters"}).json()["results"]
    assert project["task_number"] == 8
    figures = httpx.get(f"{addresses['engine']}/metrics", trust_env=False).text.splitlines()
    [encoded] = [float(line.split()[-1]) for line in figures if line.startswith("siftline_embeddings_total")]
    assert encoded >= 50, "the run did not ask the engine's server"

    siftline(root, "up")  # all run: nothing changes
    again = {line.name: line.where for line in services.status(everything.project)}
    assert again == {line.name: line.where for line in lines.values()}

    sessions = {pid: session_of(pid) for pid in pids}
    assert all(pid in members for pid, members in sessions.items())
    said = siftline(root, "down")
    assert all(name in said for name in NAMES)
    left = [pid for members in sessions.values() for pid in members if start_time(pid)]
    assert not left, "down left processes"
    assert not [pid for pid in pids if session_of(pid)]
    for url in addresses.values():
        with pytest.raises(httpx.ConnectError):
            httpx.get(url, trust_env=False)
    assert "nothing was running" in siftline(root, "down")
    assert {line.state for line in services.status(everything.project)} <= {"ended", "does not run", "away"}

    siftline(root, "up")  # with the data of before, at the same addresses
    assert {line.name: line.where for line in services.status(everything.project)} | {"deployments": ""} == {
        **addresses,
        "deployments": "",
    }
    project_again = api(studio, "GET", "/api/projects/", params={"title": "siftline-reuters"}).json()["results"]
    assert [p["id"] for p in project_again] == [project["id"]]
    siftline(root, "down")
