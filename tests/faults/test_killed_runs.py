"""SIGKILL in the middle of any stage, then run again: the tables equal an undisturbed run's, nothing is doubled."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from features.ingest.samples import SampleFiles
from flows.pipelines.stages import STAGES
from flows.project.recovery import unfinished
from tests.projects import PLAIN_FUNCTIONS, ROOT, make_small_project
from warehouse import Lake
from warehouse.schema.tables import TABLES

# `runs` is the history of what happened and differs where something died; everything else is content.
CONTENT = [t.name for t in TABLES if t.name not in {"runs", "schema_migrations"}]


def queued(root: Path) -> list[str]:
    """Item ids of all tasks in the project's task folder."""
    return [json.loads(p.read_text("utf-8"))["data"]["item_id"] for p in (root / "tasks").glob("*.json")]


@dataclass(frozen=True)
class Pair:
    """A project that was killed again and again, and one that was not; `killed` are stages and moments."""

    disturbed: Path
    undisturbed: Path
    killed: list[tuple[str, int]]


def small_project(folder: Path, reuters: SampleFiles) -> Path:
    """A project of two passes without Snorkel, which takes seconds to import and makes a stage no other moments."""
    root = make_small_project(folder, reuters, train=40, test=10)
    settings = (root / "siftline.toml").read_text("utf-8")
    settings = settings.replace("budget = 16", "budget = 8").replace('"snorkel"', '"majority"')
    (root / "siftline.toml").write_text(settings, "utf-8")
    (root / "labeling_functions.py").write_text(PLAIN_FUNCTIONS)
    return root


def killed_in_every_stage(root: Path, *fractions: float) -> Pair:
    """Kill runs of a project at these fractions of each stage's moments, then run it to its end."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.faults.harness", str(root), *map(str, fractions)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # no result depends on it, and a fork must not inherit a pool
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    killed = json.loads(ended.stdout.splitlines()[-1])["killed"]
    return Pair(root, root.with_name(f"{root.name}-undisturbed"), [(name, moment) for name, moment in killed])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, reuters: SampleFiles) -> Pair:
    return killed_in_every_stage(small_project(tmp_path_factory.mktemp("killed") / "project", reuters), 0.5)


def assert_nothing_differs_and_nothing_is_doubled(pair: Pair, budget: int) -> None:
    with Lake(pair.disturbed / "lake") as one, Lake(pair.undisturbed / "lake") as other:
        assert one.content_hash(CONTENT) == other.content_hash(CONTENT)
        with one.read() as reader:
            assert reader.scalar("SELECT count(*) FROM queue") == budget
    tasks = queued(pair.disturbed)
    assert len(tasks) == len(set(tasks)) == budget


def test_killed_in_the_middle_of_every_stage_the_tables_equal_an_undisturbed_run(pair: Pair) -> None:
    assert [name for name, _ in pair.killed] == list(STAGES)
    assert_nothing_differs_and_nothing_is_doubled(pair, 8)


@pytest.mark.heavy  # some fifty forked runs
@pytest.mark.timeout(2400)
def test_killed_inside_every_stage_the_tables_equal_an_undisturbed_run(tmp_path: Path, reuters: SampleFiles) -> None:
    root = make_small_project(tmp_path / "project", reuters, train=80, test=20)
    pair = killed_in_every_stage(root, 0.0, 0.5, 1.0)
    # Also in the middle and towards the end, where it would find nothing to do if an earlier run had gone on beyond it.
    assert all(sum(name == stage for name, _ in pair.killed) > 1 for stage in STAGES), pair.killed
    assert_nothing_differs_and_nothing_is_doubled(pair, 16)


def test_the_command_killed_as_its_server_starts_and_among_the_stages_ends_like_an_undisturbed_run(
    tmp_path: Path, reuters: SampleFiles, pair: Pair
) -> None:
    """The real command with Prefect: its own server must not stay behind and must not hinder the next run."""
    root = small_project(tmp_path / "project", reuters)
    command = [sys.executable, "-m", "flows.cli.main", "run", "--annotator", "simulated", "--project", str(root)]
    state = root / ".siftline"
    late = [*STAGES][[*STAGES].index("label_model") :]
    moments: tuple[Callable[[], bool], ...] = (
        (state / "prefect" / "prefect.db").exists,  # and not whole yet
        lambda: any(record.stage in late for record in unfinished(state)),
    )
    for reached in moments:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not reached():
            assert process.poll() is None, "it ended before that moment"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert_no_server_left(root)
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    with Lake(root / "lake") as one, Lake(pair.undisturbed / "lake") as other:
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
