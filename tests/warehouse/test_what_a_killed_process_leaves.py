"""Files and folders of a process that was killed: the next one removes them, never those of one that lives."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from active.annotation.service import Task
from active.task_folder.service import TaskFolder
from tests.flows.report_lake import full_lake
from tests.projects import ROOT
from warehouse import Lake, SettingsError
from warehouse.export.training_set import MANIFEST, SCRATCH, export_training_set
from warehouse.files.atomic_file import replaced_file
from warehouse.files.scratch import collect, scratch_folder


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    with full_lake(tmp_path_factory.mktemp("killed") / "lake") as opened:
        yield opened


def killed(code: str, *arguments: object) -> None:
    """Run Python that kills itself."""
    command = [sys.executable, "-c", f"import os, sys\nfrom pathlib import Path\n{code}", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


IN_THE_EXPORT = """
import warehouse.export.training_set as export
def die(*_): os.kill(os.getpid(), 9)
export._swap = die
export.export_training_set(Path(sys.argv[1]), Path(sys.argv[2]), format="csv", force=True)
"""
BETWEEN_THE_TWO_RENAMES = """
import warehouse.export.training_set as export
real = os.replace
export.os.replace = lambda source, target: (real(source, target), os.kill(os.getpid(), 9))
export.export_training_set(Path(sys.argv[1]), Path(sys.argv[2]), format="csv", force=True)
"""


def test_the_next_export_removes_what_a_killed_one_left(lake: Lake, tmp_path: Path) -> None:
    killed(IN_THE_EXPORT, lake.path, tmp_path / "training")
    assert [name.startswith(SCRATCH) for name in names(tmp_path)] == [True]
    export_training_set(lake.path, tmp_path / "other", format="csv")
    assert names(tmp_path) == ["other"]


def test_an_earlier_export_that_was_moved_away_comes_back(lake: Lake, tmp_path: Path) -> None:
    export_training_set(lake.path, tmp_path / "training", format="jsonl")
    before = (tmp_path / "training" / MANIFEST).read_bytes()
    killed(BETWEEN_THE_TWO_RENAMES, lake.path, tmp_path / "training")
    assert not (tmp_path / "training").exists()
    with pytest.raises(SettingsError, match="exists already"):
        export_training_set(lake.path, tmp_path / "training", format="csv")
    assert names(tmp_path) == ["training"]
    assert (tmp_path / "training" / MANIFEST).read_bytes() == before


def test_what_a_living_process_uses_stays(tmp_path: Path) -> None:
    with scratch_folder(tmp_path, "x-") as one, scratch_folder(tmp_path, "x-") as two:
        collect(tmp_path, "x-")
        assert one.is_dir()
        assert two.is_dir()
        with replaced_file(tmp_path / "file") as first, replaced_file(tmp_path / "file") as second:
            first.write_text("first")
            second.write_text("second")
    assert names(tmp_path) == ["file"]


def test_what_another_program_left_stays(tmp_path: Path) -> None:
    (tmp_path / "x-notes").mkdir()
    (tmp_path / ".file.backup.part").write_text("")
    (tmp_path / "x-abcd1234").symlink_to(tmp_path / "x-notes")
    with scratch_folder(tmp_path, "x-"), replaced_file(tmp_path / "file"):
        pass
    assert names(tmp_path) == [".file.backup.part", "file", "x-abcd1234", "x-notes"]


def test_the_next_writing_of_a_file_removes_the_part_of_a_killed_one(tmp_path: Path) -> None:
    code = (
        "from warehouse.files.atomic_file import replaced_file\n"
        "with replaced_file(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    killed(code, tmp_path / "rows [1].csv")
    assert len(names(tmp_path)) == 1
    with replaced_file(tmp_path / "rows [1].csv") as file:
        file.write_text("new")
    assert names(tmp_path) == ["rows [1].csv"]


A_TASK = """
import active.task_folder.task_file, active.task_folder.service
from active.annotation.service import Task
active.task_folder.task_file._open_alike = lambda *_: os.kill(os.getpid(), 9)
folder = active.task_folder.service.TaskFolder(Path(sys.argv[1]), "p")
folder.annotate(sys.argv[2], labels=["a"], annotator="ann", seconds=1)
"""


def test_a_folder_of_tasks_is_not_looked_through_with_each_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = TaskFolder(tmp_path / "tasks", "p")
    folder.ensure_project(["a", "b"])
    tasks = [Task(item_id=f"i{n}", text="t", cycle=1, rank=1, value=0.5, reason="r") for n in range(5)]
    looked, real = list[object](), os.scandir
    monkeypatch.setattr(os, "scandir", lambda place=".": looked.append(place) or real(place))
    folder.push(tasks)
    assert looked == []
    whole = names(folder.path)
    killed(A_TASK, folder.path, folder.task_id("i0"))
    assert len(names(folder.path)) == len(whole) + 1
    folder.ensure_project(["a", "b"])
    assert names(folder.path) == whole


VOTE = """
import weak_labels.applying.stage
from tests.weak_labels.lf_helpers import CLASSES, add_items, run_vote
from warehouse import Lake
from weak_labels import keywords
weak_labels.applying.stage.vote_writes = lambda *_: os.kill(os.getpid(), 9)
with Lake(Path(sys.argv[1])) as lake:
    add_items(lake, {f"i{n}": "goal" for n in range(50)})
    run_vote(lake, [keywords("sports", ["goal"], name="goal")])
"""
READ = """
import features.ingest.stage
from features.ingest.stage import IngestConfig, ingest
from features.readers.source import SourceConfig
from warehouse import Lake
features.ingest.stage.Upsert = lambda *_: os.kill(os.getpid(), 9)
source = SourceConfig(name="s", query="SELECT 'a' AS text FROM range(10)")
with Lake(Path(sys.argv[1])) as lake:
    ingest(lake, IngestConfig(root=Path(sys.argv[1]).parent, classes=("a", "b"), sources=(source,)))
"""
OPENING = "from warehouse.session.duckdb import open_in_utc; open_in_utc().close()"


@pytest.mark.parametrize("code", [VOTE, READ], ids=["vote", "ingest"])
def test_a_killed_stage_leaves_no_file_in_the_temporary_folder_and_the_next_process_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    killed(code, tmp_path / "lake")
    assert not [path for path in (tmp_path / "temporary").rglob("*") if path.is_file()]
    subprocess.run([sys.executable, "-c", OPENING], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    assert names(tmp_path / "temporary") == []
