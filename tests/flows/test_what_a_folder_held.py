"""A project whose catalogue is a file is of one machine, and its folder of tasks is right about what it holds; machines
that share a catalogue have a folder each.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from flows.project.project import Project
from tests.active.task_folders import annotation, task, write
from tests.warehouse.test_commit_is_atomic import classes, items
from warehouse import Upsert

CLASSES = ["a", "b"]


def machine(root: Path, warehouse: str = "") -> Project:
    """A project in a folder of its own, with tasks."""
    root.mkdir()
    settings = f"[project]\nname = 'p'\nclasses = {CLASSES}\n[[sources]]\nname = 's'\npath = 's.csv'\n"
    (root / "siftline.toml").write_text(settings + warehouse, "utf-8")
    project = Project(root)
    with project.lake.stage("ingest", version=1, inputs=()) as stage:
        if not stage.done:
            stage.commit([Upsert("items", items(5)), Upsert("classes", classes(*CLASSES))])
    project.folder.ensure_project(CLASSES)
    project.folder.push([task(f"i{k:05d}") for k in range(2)])
    return project


def said(project: Project) -> list[tuple[str, int]]:
    with project.lake.read() as reader:
        return reader.rows("SELECT item_id, class_id FROM opinions ORDER BY ALL")


@pytest.mark.parametrize("moves", [False, True], ids=["caches removed", "project moved"])
def test_on_one_machine_an_answer_that_is_gone_was_deleted_without_a_note_of_what_was_there(
    tmp_path: Path, moves: bool
) -> None:
    project = machine(tmp_path / "project")
    for item_id in ("i00000", "i00001"):
        write(project.folder, item_id, [annotation("a", id="1")])
    project.collect()
    project.lake.close()
    if moves:
        project.root.rename(tmp_path / "elsewhere")
        project = Project(tmp_path / "elsewhere")
    else:
        shutil.rmtree(project.state_path, ignore_errors=True)
        project = Project(project.root)
    write(project.folder, "i00000", [])
    assert project.collect().committed
    assert said(project) == [("i00001", 0)]


def test_on_one_machine_the_answer_in_its_file_counts_also_if_it_says_an_earlier_time(tmp_path: Path) -> None:
    project = machine(tmp_path / "project")
    for label, month in (("a", "02"), ("b", "01")):
        write(project.folder, "i00000", [annotation(label, id="1", updated_at=f"2026-{month}-01T10:00:00Z")])
        project.collect()
        shutil.rmtree(project.state_path, ignore_errors=True)
    assert said(project) == [("i00000", 1)]


def answered_in_one_alone(folder: Path, shared: str) -> None:
    """Of two projects with one warehouse and a folder of tasks each."""
    here, there = machine(folder / "here", shared), machine(folder / "there", shared)
    there.collect()
    write(here.folder, "i00000", [annotation("a", id="1")])
    assert here.collect().committed
    assert not there.collect().committed
    assert said(there) == [("i00000", 0)]
    write(here.folder, "i00000", [])
    assert here.collect().committed
    assert said(there) == []


@pytest.mark.usefixtures("s3")
def test_what_one_of_several_machines_does_not_hold_was_not_deleted(tmp_path: Path, postgres: str) -> None:
    answered_in_one_alone(tmp_path, f'[warehouse]\ncatalog = "{postgres}"\ndata = "s3://bucket/p"\n')


def test_what_one_of_two_checkouts_on_a_machine_does_not_hold_was_not_deleted(tmp_path: Path) -> None:
    answered_in_one_alone(tmp_path, '[warehouse]\npath = "../lake"\n')


def test_git_takes_none_of_what_is_made_whatever_its_name_is(tmp_path: Path) -> None:
    project = machine(tmp_path / "project", '[warehouse]\npath = "other"\n[annotate]\nfolder = "questions"\n')
    with project.only_run():
        pass
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "git"], check=True)
    git = ["git", f"--git-dir={tmp_path / 'git'}", f"--work-tree={project.root}"]
    listed = [*git, "ls-files", "--others", "--exclude-standard"]
    taken = subprocess.run(listed, cwd=project.root, capture_output=True, text=True, check=True).stdout
    assert taken.split() == ["siftline.toml"]
