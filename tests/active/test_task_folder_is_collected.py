"""From a task folder to the warehouse: no answer is lost, doubled or taken for deleted."""

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from active.queue.collect import collect
from active.queue.outbox import QueueConfig
from active.queue.reconcile import reconcile
from active.task_folder.service import TaskFolder
from tests.active.task_folders import CONFIG, annotation, change_data, export, exported, task, write
from warehouse import Append, Lake, Upsert


@pytest.mark.parametrize(
    ("name", "number"), [("value", 10**400), ("cycle", math.nan), ("rank", math.inf)], ids=["value", "cycle", "rank"]
)
def test_a_number_that_is_not_finite_stops_its_own_task_only(
    stocked: Lake, folder: TaskFolder, name: str, number: float
) -> None:
    path = change_data(folder, "i00001", **{name: number})
    assert [task.data["item_id"] for task in folder.waiting("ann", people=1)] == ["i00000", "i00002"]
    assert list(folder.problems) == [path.name]
    assert f"has a {name} that is not finite" in folder.problems[path.name]
    assert reconcile(stocked, folder, CONFIG).adopted == 3
    with stocked.read() as reader:
        assert reader.scalar(f"SELECT {name} FROM queue WHERE item_id = 'i00001'") == 0


def test_a_cycle_that_the_queue_cannot_hold_is_none(stocked: Lake, folder: TaskFolder) -> None:
    change_data(folder, "i00001", cycle=2**31, rank=-1)
    assert reconcile(stocked, folder, CONFIG).adopted == 3
    with stocked.read() as reader:
        assert reader.rows("SELECT cycle, rank FROM queue WHERE item_id = 'i00001'") == [(0, 0)]


def test_a_repeated_export_is_collected_once_and_the_later_state_counts(stocked: Lake, folder: TaskFolder) -> None:
    old, new = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
    export(folder, "b.json", exported("i00004", annotation("a", id=99, updated_at=old)))
    export(folder, "a.json", exported("i00004", annotation("b", id=99, updated_at=new)))
    assert collect(stocked, folder, CONFIG).rows_written["annotations"] == 1
    assert not collect(stocked, folder, CONFIG).committed
    with stocked.read() as reader:
        assert reader.rows("SELECT class_id FROM gold_labels") == [(1,)]


def said(lake: Lake) -> list[tuple[str, str, int]]:
    with lake.read() as reader:
        return reader.rows("SELECT item_id, annotator, class_id FROM opinions ORDER BY ALL")


def test_exports_of_two_servers_that_count_alike_are_answers_of_two_people(stocked: Lake, folder: TaskFolder) -> None:
    def ben(label: str, number: int) -> dict[str, Any]:
        return annotation(label, id=number, completed_by="ben")

    export(folder, "a.json", exported("i00000", annotation("a", id=1)), exported("i00001", annotation("a", id=2)))
    export(folder, "b.json", exported("i00002", ben("b", 1)), exported("i00003", ben("b", 2)))
    export(folder, "c.json", exported("i00000", ben("a", 1)), exported("i00001", ben("b", 2)))
    collect(stocked, folder, CONFIG)
    both = [("i00000", "ann", 0), ("i00000", "ben", 0), ("i00001", "ann", 0), ("i00001", "ben", 1)]
    assert said(stocked) == [*both, ("i00002", "ben", 1), ("i00003", "ben", 1)]
    (folder.path / "import" / "c.json").rename(folder.path / "import" / "0.json")  # now ben's are read first
    assert not collect(stocked, folder, CONFIG).committed
    (folder.path / "import" / "a.json").unlink()
    collect(stocked, folder, CONFIG)
    assert said(stocked)[:2] == [("i00000", "ben", 0), ("i00001", "ben", 1)]


def test_people_named_by_number_are_different_people_and_nobody_is_not_one(stocked: Lake, folder: TaskFolder) -> None:
    named = [annotation("a", id=1, completed_by=3), annotation("b", id=2, completed_by={"id": 4, "email": ""})]
    unnamed = [annotation("a", id=number, completed_by=who) for number, who in ((3, None), (4, {"id": None}), (5, ""))]
    export(folder, "a.json", exported("i00000", *named), exported("i00001", *unnamed))
    collect(stocked, folder, CONFIG)
    assert said(stocked) == [("i00000", "3", 0), ("i00000", "4", 1), *[("i00001", "unknown", 0)] * 3]


@pytest.mark.parametrize("who", ["ann", "ben"])
def test_answers_that_an_earlier_version_stored_are_known_again(stocked: Lake, folder: TaskFolder, who: str) -> None:
    """That version kept one answer of an item for each number, whoever gave it."""
    old, new = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
    at = pa.array([datetime.fromisoformat(old)], pa.timestamp("us", "UTC"))
    row = {"annotation_id": "1", "item_id": "i00000", "project": "p", "task_id": folder.task_id("i00000")}
    more = {"annotator": who, "action": "labelled", "class_id": 0, "simulated": False, "seconds": 0.0}
    table = pa.Table.from_pylist([{**row, **more}]).append_column("created_at", at).append_column("updated_at", at)
    with stocked.stage("collect", version=1, inputs=()) as stage:
        stage.commit([Append("annotations", table)])
    export(folder, "a.json", exported("i00000", annotation("a", id=1, updated_at=old)))
    export(folder, "b.json", exported("i00000", annotation("a", id=1, updated_at=old, completed_by="ben")))
    assert collect(stocked, folder, CONFIG).rows_written["annotations"] == 1
    assert said(stocked) == [("i00000", "ann", 0), ("i00000", "ben", 0)]
    export(folder, "a.json", exported("i00000", annotation("b", id=1, updated_at=new)))
    assert collect(stocked, folder, CONFIG).rows_written["annotations"] == 1
    assert said(stocked) == [("i00000", "ann", 1), ("i00000", "ben", 0)]


def test_before_anybody_was_asked_no_folder_is_missed(stocked: Lake, tmp_path: Path) -> None:
    assert collect(stocked, TaskFolder(tmp_path / "none", CONFIG.project), CONFIG).detail == {}


def test_an_answer_that_comes_back_counts_again(stocked: Lake, folder: TaskFolder) -> None:
    annotations = [annotation("a", id=1, updated_at="2026-01-01T00:00:00Z")]
    write(folder, "i00000", annotations)
    collect(stocked, folder, CONFIG)
    write(folder, "i00000", [])
    collect(stocked, folder, CONFIG)
    write(folder, "i00000", annotations)
    collect(stocked, folder, CONFIG)
    assert said(stocked) == [("i00000", "ann", 0)]
    assert not collect(stocked, folder, CONFIG).committed


def test_a_folder_that_is_gone_does_not_delete_what_was_answered(stocked: Lake, folder: TaskFolder) -> None:
    write(folder, "i00000", [annotation("a")])
    collect(stocked, folder, CONFIG)
    folder.path.rename(folder.path.with_name("elsewhere"))
    result = collect(stocked, folder, CONFIG)
    assert not result.committed
    assert "There is no folder" in result.detail["left out: all tasks"]
    with stocked.read() as reader:
        assert reader.scalar("SELECT count(*) FROM gold_labels") == 1


def test_an_answer_that_is_gone_counts_as_deleted_once(stocked: Lake, folder: TaskFolder) -> None:
    write(folder, "i00000", [annotation("a")])
    collect(stocked, folder, CONFIG)
    write(folder, "i00000", [])
    assert collect(stocked, folder, CONFIG).rows_written == {"annotations": 1}
    assert not collect(stocked, folder, CONFIG).committed
    with stocked.read() as reader:
        assert reader.rows("SELECT action FROM current_annotations") == [("deleted",)]
        assert reader.scalar("SELECT count(*) FROM gold_labels") == 0


def test_an_answer_by_a_clock_that_is_ahead_counts_as_deleted_once(stocked: Lake, folder: TaskFolder) -> None:
    ahead = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
    write(folder, "i00000", [{**annotation("a"), "updated_at": ahead}])
    collect(stocked, folder, CONFIG)
    write(folder, "i00000", [])
    assert collect(stocked, folder, CONFIG).rows_written == {"annotations": 1}
    assert not collect(stocked, folder, CONFIG).committed
    with stocked.read() as reader:
        assert reader.scalar("SELECT count(*) FROM gold_labels") == 0


def test_answers_in_another_project_s_task_files_are_not_taken(stocked: Lake, folder: TaskFolder) -> None:
    """As where a project begins anew with other classes beside the tasks of before: old answers became new ones."""
    write(folder, "i00000", [annotation("a")])
    write(folder, "i00001", [annotation("gone")])
    anew = TaskFolder(folder.path, "q")
    anew.push([task("i00000")])
    config = QueueConfig(project="q", classes=CONFIG.classes)
    collected = collect(stocked, anew, config)
    name = min(f"{folder.task_id(f'i0000{n}')}.json" for n in range(3))
    told = f"3 in {folder.path}, such as {name}; answers in them are not taken here. "
    assert (collected.committed, list(collected.detail)) == (False, ["task files of another project"])
    assert collected.detail["task files of another project"].startswith(told)
    assert [waiting.task_id for waiting in anew.waiting("ann", people=1)] == [anew.task_id("i00000")]
    write(anew, "i00000", [annotation("b")])
    (folder.path / "a copy.json").write_text(json.dumps(exported("i00002", annotation("b", id="c"))), "utf-8")
    assert collect(stocked, anew, config).rows_written["annotations"] == 2
    write(anew, "i00000", [])
    assert collect(stocked, anew, config).rows_written["annotations"] == 1, "others' files hide no deletion"
    assert said(stocked) == [("i00002", "ann", 1)]


@pytest.mark.parametrize("multi_label", [False, True])
def test_an_answer_of_a_class_that_no_run_took_in_yet_has_its_name(
    stocked: Lake, folder: TaskFolder, multi_label: bool
) -> None:
    """`siftline collect` after a class was added: the label had no name, and of several classes it was `(none)`."""
    names, kind = (["a", "b"], [True, True]) if multi_label else (["a", "b"], None)
    with stocked.stage("ingest", version=1, inputs=(), params={"classes": names}) as stage:
        rows = {"class_id": pa.array([0, 1], pa.int32()), "name": names, **({"multi_label": kind} if kind else {})}
        stage.commit([Upsert("classes", pa.table(rows))])
    folder = TaskFolder(folder.path, "p", multi_label=multi_label)
    config = QueueConfig(project="p", classes=("a", "b", "c", "d"), multi_label=multi_label)
    write(folder, "i00000", [annotation("b")])
    assert collect(stocked, folder, config).rows_written == {"annotations": 1}
    write(folder, "i00001", [annotation("c")])
    assert collect(stocked, folder, config).rows_written == {"annotations": 1, "classes": 2}
    with stocked.read() as reader:
        assert reader.rows("SELECT item_id, label FROM gold_labels ORDER BY ALL") == [("i00000", "b"), ("i00001", "c")]
        assert reader.class_names() == ["a", "b", "c", "d"]
        assert reader.rows("SELECT DISTINCT coalesce(multi_label, false) FROM classes") == [(multi_label,)]
    assert not collect(stocked, folder, config).committed
