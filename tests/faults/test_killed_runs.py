"""SIGKILL in the middle of any stage, then run again: the tables equal an undisturbed run's, nothing is doubled."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from features.samples import SampleFiles
from flows.stages import STAGES
from tests.projects import ROOT, make_small_project
from warehouse import Lake
from warehouse.schema import TABLES

# `runs` is the history of what happened and differs where something died; everything else is content.
CONTENT = [t.name for t in TABLES if t.name not in {"runs", "schema_migrations"}]


def queued(root: Path) -> list[str]:
    """Item ids of all tasks in the project's task folder."""
    return [json.loads(p.read_text("utf-8"))["data"]["item_id"] for p in (root / "tasks").glob("*.json")]


@pytest.mark.timeout(2400)  # some fifty forked runs
def test_killed_inside_every_stage_the_tables_equal_an_undisturbed_run(tmp_path: Path, reuters: SampleFiles) -> None:
    root = make_small_project(tmp_path / "project", reuters, train=80, test=20)
    ended = subprocess.run(
        [sys.executable, "-m", "tests.faults.harness", str(root)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # no result depends on it, and a fork must not inherit a pool
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    killed = json.loads(ended.stdout.splitlines()[-1])["killed"]
    # Also in the middle and towards the end, where it would find nothing to do if an earlier run had gone on beyond it.
    assert all(sum(name == stage for name, _ in killed) > 1 for stage in STAGES), killed
    with Lake(tmp_path / "project" / "lake") as one, Lake(tmp_path / "project-undisturbed" / "lake") as other:
        assert one.content_hash(CONTENT) == other.content_hash(CONTENT)
        with one.read() as reader:
            assert reader.scalar("SELECT count(*) FROM queue") == 16
    tasks = queued(root)
    assert len(tasks) == len(set(tasks)) == 16


def test_the_command_killed_at_random_moments_ends_like_an_undisturbed_one(
    tmp_path: Path, reuters: SampleFiles, prefect_database: Path
) -> None:
    """The real command with Prefect: its own server must not stay behind and must not hinder the next run."""
    command = [sys.executable, "-m", "flows.cli.main", "run", "--annotator", "simulated", "--project"]
    # The disturbed one makes Prefect's database itself: it may be killed at that too.
    roots = [
        make_small_project(tmp_path / name, reuters, train=120, test=30, prefect=database)
        for name, database in (("disturbed", None), ("undisturbed", prefect_database))
    ]
    subprocess.run([*command, str(roots[1])], check=True, capture_output=True, cwd=ROOT)
    for seconds in (8.0, 14.0):
        process = subprocess.Popen(
            [*command, str(roots[0])], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert_no_server_left(roots[0])
    subprocess.run([*command, str(roots[0])], check=True, capture_output=True, cwd=ROOT)
    with Lake(roots[0] / "lake") as one, Lake(roots[1] / "lake") as other:
        assert one.content_hash(CONTENT) == other.content_hash(CONTENT)


def assert_no_server_left(root: Path) -> None:
    """Prefect's server of a killed run ends by itself, because its pipe to the parent closed."""
    home = str(root / ".siftline" / "prefect")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        left = []
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and int(process.name) != os.getpid():
                try:
                    environment = (process / "environ").read_bytes()
                except OSError:
                    continue
                if f"PREFECT_HOME={home}".encode() in environment:
                    left.append(process.name)
        if not left:
            return
        time.sleep(0.2)
    raise AssertionError(f"still running after 20 s: {left}")
