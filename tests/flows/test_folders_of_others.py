"""Servers and runs look for nothing where others put their files: in the project's folder, and in the temporary one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.deployments import services
from flows.deployments.services import Background
from tests.prefect_runs import Served, kill, wait_for
from tests.projects import ROOT, give_prefect_database
from warehouse.files.spill import PREFIX

COMMAND = [sys.executable, "-P", "-m", "flows.cli.main"]
A_RUNS_OWN_SERVER = """
import sys
from pathlib import Path
from flows.servers.prefect_server import prefect_api
with prefect_api(Path(sys.argv[1])):
    pass
"""


@pytest.fixture
def served(tmp_path: Path, prefect_database: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    """A project that has modules of its own, called in its folder, and a machine on which another user came first."""
    for name in [n for n in os.environ if n.startswith(("PREFECT_", "LABEL_STUDIO_"))]:
        monkeypatch.delenv(name)
    root = tmp_path / "project"
    (root / ".siftline").mkdir(parents=True)
    give_prefect_database(root / ".siftline", prefect_database)
    (root / "siftline.toml").write_text(
        '[project]\nname = "p"\nclasses = ["a", "b"]\n[[sources]]\nname = "s"\npath = "s.jsonl"\n'
        '[schedule]\ncycle = ""\ncollect = ""\nmaintenance = ""\n'
    )
    for module in ("features.py", "random.py"):
        (root / module).write_text("raise SystemExit('this is not the module that is meant')\n")
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "runner_storage").write_text("a folder in which only another user may write\n")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "none.toml"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Served(root)


def test_a_schedule_is_served_and_its_runs_end_well(served: Served, tmp_path: Path) -> None:
    try:
        subprocess.run([*COMMAND, "up"], cwd=served.root, check=True)
        ended = served.ended(served.start("maintenance", named="p"))
        assert ended["state_type"] == "COMPLETED", ended["state"]
        made = [path.name for path in (tmp_path / "tmp").iterdir() if not path.name.startswith(PREFIX)]
        assert made == ["runner_storage"]
        [left] = served.state.glob("serve-*")
        worker = Background("deployments", served.state).status()
        assert worker is not None
        kill(worker.pid)
        wait_for(lambda: Background("deployments", served.state).status() is None)
        services.up(served.project)
        [own] = served.state.glob("serve-*")
        assert own != left, "the one before was killed, and left its own"
    finally:
        services.down(served.root)


def test_runs_find_what_a_relative_path_leads_to(served: Served) -> None:
    look = (
        "import os, pathlib\nfrom flows.deployments.deployments import _runner\n"
        "from flows.project.project import Project\n"
        "with _runner(Project(pathlib.Path())): print(os.environ['PYTHONPATH'])"
    )
    (served.root / "shared").mkdir()
    environment = {**os.environ, "PYTHONPATH": f"shared:{ROOT}"}
    command = [sys.executable, "-P", "-c", look]
    ended = subprocess.run(command, cwd=served.root, env=environment, capture_output=True, text=True)
    assert ended.stdout == f"{served.root / 'shared'}:{ROOT}\n", ended.stderr


def test_a_run_by_hand_has_its_server(served: Served) -> None:
    ended = subprocess.run(
        [sys.executable, "-P", "-c", A_RUNS_OWN_SERVER, str(served.state)], cwd=served.root, stderr=subprocess.PIPE
    )
    assert ended.returncode == 0, ended.stderr


def test_doctor_finds_a_project_that_nothing_can_be_written_to(served: Served) -> None:
    functions = "from weak_labels import keywords\n\na = keywords('a', ['one'])\n"
    (served.root / "labeling_functions.py").write_text(functions)
    for module in ("features.py", "random.py"):
        (served.root / module).unlink()
    look = (
        "import sys, pathlib; from flows.cli import doctor\n"
        "for found in doctor._project(pathlib.Path(sys.argv[1])): print(found.name, found.well, found.words)"
    )
    mount = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && exec "$2" -P -c "$3" "$1"'
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh", str(served.root), sys.executable, look]
    if subprocess.run([*command[:3], "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a folder of their own (user namespaces are off)")
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert f"folder False {served.root} cannot be written to by this user" in ended.stdout
