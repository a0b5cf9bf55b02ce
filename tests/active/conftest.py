"""Fixtures of several files of this folder."""

from pathlib import Path

import pytest

from active.task_folder.service import TaskFolder
from tests.active.task_folders import task
from tests.warehouse.test_commit_is_atomic import items
from warehouse import Lake, Upsert


@pytest.fixture
def folder(tmp_path: Path) -> TaskFolder:
    made = TaskFolder(tmp_path / "tasks", "p")
    made.ensure_project(["a", "b"])
    made.push([task(f"i{k:05d}") for k in range(3)])
    return made


@pytest.fixture
def stocked(lake: Lake) -> Lake:
    with lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Upsert("items", items(5))])
    return lake
