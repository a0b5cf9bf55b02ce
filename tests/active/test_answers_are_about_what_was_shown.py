"""An answer is about what its annotator saw: an edit of shown metadata ends it as one of the text does."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from active.annotation.task_content import Content
from active.pool.pool import read_pool
from active.quality.relabeling import AskAgainConfig, ask_again
from active.queue.collect import collect
from active.queue.outbox import QueueConfig, commit_states, queue_rows
from active.queue.push import push
from active.queue.reconcile import reconcile
from active.task_folder.service import TaskFolder
from tests.active.pools import CLASSES, SmallPool, clusters, small_pool
from tests.active.test_ask_again import answer, gold, no_index, row_of, send
from tests.active.test_queue_loses_and_doubles_nothing import Died, DyingFolder
from warehouse import Lake, Upsert

N = 12
KEYS = ("question", 'a/b~c "é"')
SHOWN = {"question": "q?", KEYS[1]: 7, "file": "a.png", "author": "ann"}
PREFIX = "https://images.example.org/"
CONFIG = QueueConfig(project="p", classes=CLASSES, content=Content(show=KEYS, image="file", image_prefix=PREFIX))
TEXT_ALONE = QueueConfig(project="p", classes=CLASSES)
AGAIN = AskAgainConfig(project="p", budget=40, second_opinion=0.0)


@pytest.fixture
def folder(tmp_path: Path) -> TaskFolder:
    return TaskFolder(tmp_path / "tasks", "p")


@pytest.fixture
def pool(lake: Lake, tmp_path: Path, folder: TaskFolder) -> SmallPool:
    """Items whose tasks, which show metadata, are all in the folder."""
    pool = small_pool(lake, tmp_path, clusters(N)[0], metadata=dict.fromkeys(range(N), json.dumps(SHOWN)))
    send(pool, folder, CONFIG)
    return pool


def edit(lake: Lake, item: str, **columns: str) -> None:
    """Read the record again, with other values in these columns."""
    with lake.stage("ingest", version=1, inputs=("items",), params=columns) as stage:
        sql = "SELECT * EXCLUDE (run_id, committed_at, changed_at) FROM items WHERE item_id = ?"
        [row] = stage.arrow(sql, [item]).to_pylist()
        stage.commit([Upsert("items", pa.Table.from_pylist([{**row, **columns}]))])


def lose(lake: Lake, folder: TaskFolder, item: str, round: int = 1) -> None:
    """Leave an item's row `sent` without a task, as a push that was killed does and one that took the task back."""
    (folder.path / f"{folder.task_id(item, round)}.json").unlink()
    with lake.read() as reader:
        rows = [row for row in queue_rows(reader, CONFIG, "confirmed") if row["item_id"] == item]
    commit_states(lake, CONFIG, "taken back", [{**row, "state": "sent"} for row in rows])


def execute(lake: Lake, sql: str, *params: str) -> None:
    """Change the warehouse behind Siftline's back, as one that was set back is."""
    cursor = lake.new_cursor()
    cursor.execute(sql, params)
    cursor.close()


def metadata(**changed: object) -> str:
    return json.dumps({**SHOWN, **changed})


EDITS = [{"metadata": metadata(**{key: "another"})} for key in (*KEYS, "file")]
EDITS += [{"metadata": "{}"}, {"content": "another", "content_hash": "of another"}]


def test_what_was_shown_is_edited_and_asked_again(pool: SmallPool, folder: TaskFolder) -> None:
    lake, edited = pool.lake, dict(zip(pool.ids, EDITS, strict=False))
    for item in edited:
        answer(folder, item, 1)
    collect(lake, folder, CONFIG)
    for item, columns in edited.items():
        assert gold(lake, item) == [1]
        edit(lake, item, **columns)
        assert gold(lake, item) == []
    assert ask_again(lake, no_index, AGAIN).detail["edited"] == len(EDITS)
    assert not ask_again(lake, no_index, AGAIN).committed
    push(lake, folder, CONFIG)
    assert not ask_again(lake, no_index, AGAIN).committed
    for item in edited:
        assert gold(lake, item) == []
        answer(folder, item, 2, round=2)
    collect(lake, folder, CONFIG)
    for number, item in enumerate(edited):
        assert (gold(lake, item), row_of(lake, item)["state"]) == ([2], "answered")
        edit(lake, item, metadata=metadata(), content=f"text {number}", content_hash=f"{number:064x}")
        assert gold(lake, item) == [1], "edited back, the first answer is about it again"


def test_an_edit_of_what_nobody_saw_asks_nobody(pool: SmallPool, folder: TaskFolder) -> None:
    lake, item = pool.lake, pool.ids[3]
    answer(folder, item, 1)
    collect(lake, folder, CONFIG)
    edit(lake, item, metadata=json.dumps(dict(reversed({**SHOWN, "author": "ben", "new": 1}.items())), indent=1))
    assert gold(lake, item) == [1]
    assert not ask_again(lake, no_index, AGAIN).committed


def test_where_the_text_alone_was_shown_metadata_may_change(lake: Lake, tmp_path: Path, folder: TaskFolder) -> None:
    pool = small_pool(lake, tmp_path, clusters(N)[0], metadata={0: metadata()})
    send(pool, folder, TEXT_ALONE)
    item = pool.ids[0]
    answer(folder, item, 1)
    collect(lake, folder, TEXT_ALONE)
    edit(lake, item, metadata="{}")
    assert gold(lake, item) == [1]
    assert row_of(lake, item)["content_hash"] == f"{0:064x}"
    assert not ask_again(lake, no_index, AGAIN).committed
    push(lake, folder, CONFIG)  # from now on other things are shown: that alone takes no answer back
    assert gold(lake, item) == [1]
    assert not ask_again(lake, no_index, AGAIN).committed


def test_what_enough_people_skipped_is_open_again_once_it_shows_another_thing(
    pool: SmallPool, folder: TaskFolder
) -> None:
    lake, item = pool.lake, pool.ids[3]
    answer(folder, item, 1)
    file = folder.path / f"{folder.task_id(item)}.json"
    task = json.loads(file.read_text("utf-8"))
    task["annotations"][0] |= {"was_cancelled": True, "result": []}
    file.write_text(json.dumps(task), "utf-8")
    collect(lake, folder, CONFIG)

    def skipped() -> list[str]:
        with lake.read() as reader:
            found = read_pool(reader, pool.ids)
        return [found.item_ids[row] for row in found.skipped]

    assert row_of(lake, item)["state"] == "answered"
    assert skipped() == [item]
    edit(lake, item, metadata=metadata(question="another"))
    assert skipped() == []


def test_an_open_task_that_reconcile_puts_right_is_about_what_it_shows_then(
    pool: SmallPool, folder: TaskFolder
) -> None:
    lake, item = pool.lake, pool.ids[3]
    edit(lake, item, metadata=metadata(question="another"))
    assert reconcile(lake, folder, CONFIG).restored == 1
    answer(folder, item, 1)
    collect(lake, folder, CONFIG)
    assert gold(lake, item) == [1]
    assert not ask_again(lake, no_index, AGAIN).committed


def test_tasks_that_the_queue_has_lost_are_about_what_is_shown_now(pool: SmallPool, folder: TaskFolder) -> None:
    lake, item = pool.lake, pool.ids[3]
    execute(lake, "DELETE FROM queue WHERE item_id = ?", item)
    assert reconcile(lake, folder, CONFIG).adopted == 1
    answer(folder, item, 1)
    collect(lake, folder, CONFIG)
    edit(lake, item, metadata=metadata(question="another"))
    assert gold(lake, item) == []


class DiesAsking(TaskFolder):
    """A real folder whose process dies when it is asked what is there."""

    def find(self, item_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        raise Died


@pytest.mark.parametrize("died", [None, "asking", "storing nothing", "having stored"])
def test_a_task_that_is_sent_again_is_about_what_it_shows_then(
    pool: SmallPool, folder: TaskFolder, died: str | None
) -> None:
    lake, item = pool.lake, pool.ids[3]
    lose(lake, folder, item)
    edit(lake, item, **EDITS[0 if died else -1])
    assert not ask_again(lake, no_index, AGAIN).committed, "tasks under way wait"
    if died:
        dying = {"asking": DiesAsking(folder.path, "p"), "having stored": DyingFolder(folder.path, "p", None)}
        with pytest.raises(Died):
            push(lake, dying.get(died, DyingFolder(folder.path, "p", 0)), CONFIG)
    push(lake, folder, CONFIG)
    answer(folder, item, 1)
    collect(lake, folder, CONFIG)
    assert gold(lake, item) == [1]
    assert not ask_again(lake, no_index, AGAIN).committed
    edit(lake, item, content="a third", content_hash="of the third")
    assert gold(lake, item) == []


def test_a_task_that_was_stored_before_the_next_edit_is_about_what_it_shows(
    pool: SmallPool, folder: TaskFolder
) -> None:
    lake, item = pool.lake, pool.ids[3]
    lose(lake, folder, item)
    edit(lake, item, content="another", content_hash="of another")
    with pytest.raises(Died):
        push(lake, DyingFolder(folder.path, "p", None), CONFIG)
    edit(lake, item, content="a third", content_hash="of the third")
    push(lake, folder, CONFIG)
    answer(folder, item, 1)
    collect(lake, folder, CONFIG)
    assert gold(lake, item) == []
    assert ask_again(lake, no_index, AGAIN).detail["edited"] == 1


@pytest.mark.parametrize("again", [push, reconcile])
def test_an_answer_from_before_a_task_was_sent_again_stays_about_what_was_shown_before(
    pool: SmallPool, folder: TaskFolder, again: Callable[..., object]
) -> None:
    lake, item = pool.lake, pool.ids[3]
    two = replace(CONFIG, annotators_per_task=2)
    answer(folder, item, 1)
    collect(lake, folder, two)
    lose(lake, folder, item)
    edit(lake, item, content="another", content_hash="of another")
    again(lake, folder, two)
    assert gold(lake, item) == []
    for who in ("ann", "bob"):
        assert row_of(lake, item)["state"] == "confirmed"
        answer(folder, item, 2, who, round=2)
        collect(lake, folder, two)
    assert (gold(lake, item), row_of(lake, item)["state"]) == ([2], "answered")
    edit(lake, item, content="a third", content_hash="of a third")
    ask_again(lake, no_index, AGAIN)
    push(lake, folder, two)
    answer(folder, item, 1, round=3)
    collect(lake, folder, two)
    lose(lake, folder, item, round=3)
    edit(lake, item, content="a fourth", content_hash="of a fourth")
    again(lake, folder, two)
    with lake.read() as reader:
        before = reader.rows("SELECT round, task_id FROM asked_before ORDER BY round")
    assert before == [(number, folder.task_id(item, number)) for number in (1, 2, 3)]


def export_answer(folder: TaskFolder, item: str) -> None:
    """Put an answer to an item's task into an export below `import/`, and none into the task's file."""
    file = folder.path / f"{folder.task_id(item)}.json"
    before = file.read_bytes()
    answer(folder, item, 1)
    (folder.path / "import").mkdir()
    file.rename(folder.path / "import" / "export.json")
    file.write_bytes(before)


def test_a_task_whose_answer_lies_in_an_export_is_left_as_it_was_shown(pool: SmallPool, folder: TaskFolder) -> None:
    lake, item = pool.lake, pool.ids[3]
    file = folder.path / f"{folder.task_id(item)}.json"
    export_answer(folder, item)
    before = file.read_bytes()
    edit(lake, item, metadata=metadata(question="another"))
    report = reconcile(lake, folder, CONFIG)
    assert (report.restored, report.edited) == (0, [item])
    collect(lake, folder, CONFIG)
    assert gold(lake, item) == []
    assert ask_again(lake, no_index, AGAIN).detail["edited"] == 1
    push(lake, folder, CONFIG)  # which removes former tasks that nobody answered
    assert file.read_bytes() == before


def test_an_export_of_a_text_that_was_edited_and_put_right_since_is_named_and_does_not_count(
    pool: SmallPool, folder: TaskFolder
) -> None:
    lake, item = pool.lake, pool.ids[3]
    export_answer(folder, item)
    export, late = folder.path / "import" / "export.json", folder.path / "late.part"
    export.rename(late)  # the answer is still where it was given
    edit(lake, item, metadata=metadata(question="another"))
    assert reconcile(lake, folder, CONFIG).restored == 1
    late.rename(export)
    collect(lake, folder, CONFIG)
    assert gold(lake, item) == []
    assert re.search(rf"'{item}' was edited since; the task shows it anew", folder.problems["export.json"])
    assert folder.task_id(item) in {task.task_id for task in folder.waiting("ann", people=1)}
    answer(folder, item, 2)
    collect(lake, folder, CONFIG)
    assert gold(lake, item) == [2]


@pytest.mark.parametrize("say", [export_answer, lambda folder, item: answer(folder, item, 1)], ids=["export", "file"])
def test_an_answer_that_comes_while_reconcile_looks_is_about_what_was_shown(
    pool: SmallPool, folder: TaskFolder, say: Callable[[TaskFolder, str], None]
) -> None:
    class Meanwhile(TaskFolder):
        def show(self, data: Mapping[str, Mapping[str, Any]]) -> frozenset[str]:
            say(folder, item)
            return super().show(data)

    lake, item = pool.lake, pool.ids[3]
    edit(lake, item, metadata=metadata(question="another"))
    report = reconcile(lake, Meanwhile(folder.path, "p"), CONFIG)
    assert (report.restored, report.edited) == (0, [item])
    collect(lake, folder, CONFIG)
    assert gold(lake, item) == []


@pytest.mark.parametrize("known", [True, False], ids=["edited", "read for the first time"])
def test_a_lost_task_that_shows_something_else_gives_its_answer_to_that(
    pool: SmallPool, folder: TaskFolder, known: bool
) -> None:
    lake, item, unanswered = pool.lake, pool.ids[3], pool.ids[4]
    answer(folder, item, 1)
    for lost in (item, unanswered):
        execute(lake, "DELETE FROM queue WHERE item_id = ?", lost)
        if known:
            edit(lake, lost, content=f"another {lost}", content_hash=f"of another {lost}", metadata="{}")
        else:
            execute(lake, "UPDATE items SET content_hash = 'other', metadata = '{}' WHERE item_id = ?", lost)
    report = reconcile(lake, folder, CONFIG)
    assert (report.adopted, report.restored, report.edited) == (2, 1, [item])
    collect(lake, folder, CONFIG)
    assert gold(lake, item) == []
    assert ask_again(lake, no_index, AGAIN).detail["edited"] == 1
    push(lake, folder, CONFIG)
    answer(folder, item, 2, round=2)
    answer(folder, unanswered, 0)
    collect(lake, folder, CONFIG)
    assert (gold(lake, item), gold(lake, unanswered)) == ([2], [0])
    assert not ask_again(lake, no_index, AGAIN).committed
