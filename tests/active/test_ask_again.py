"""Asking again: edited texts, contested and suspicious labels get a fresh task, once, within their budgets."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from active.quality.consensus import consensus
from active.quality.label_errors import suspects
from active.quality.relabeling import AskAgainConfig, ask_again
from active.queue.collect import collect
from active.queue.outbox import QueueConfig
from active.queue.push import push
from active.queue.reconcile import reconcile
from active.task_folder.service import TaskFolder
from features.neighbors.faiss_index import VectorIndex
from tests.active.pools import CLASSES, SmallPool, clusters, sets, small_pool
from tests.active.task_folders import annotation, write
from tests.active.test_queue_loses_and_doubles_nothing import Died, DyingFolder
from tests.warehouse.test_commit_is_atomic import items
from warehouse import Lake, SettingsError, StageResult, Upsert

N = 60
CONFIG = QueueConfig(project="p", classes=CLASSES)
NONE = AskAgainConfig(project="p", budget=40, second_opinion=0.0)
OPINIONS = AskAgainConfig(project="p", budget=40, second_opinion=0.1)
LOOK = AskAgainConfig(project="p", budget=40, second_opinion=0.0, second_look=0.1)


@pytest.fixture
def folder(tmp_path: Path) -> TaskFolder:
    return TaskFolder(tmp_path / "tasks", "p")


@pytest.fixture
def pool(lake: Lake, tmp_path: Path, folder: TaskFolder) -> SmallPool:
    """Sixty items whose tasks are all in the folder."""
    pool = small_pool(lake, tmp_path, clusters(N)[0])
    send(pool, folder, CONFIG)
    return pool


def send(pool: SmallPool, folder: TaskFolder, config: QueueConfig) -> None:
    """Put all items into the queue and their tasks into the folder."""
    rows = [
        {
            "item_id": item,
            "project": "p",
            "state": "planned",
            "cycle": 1,
            "rank": row + 1,
            "value": 1 - row / len(pool.ids),
            "reason": "because",
            "prediction": 0,
            "confidence": 0.5,
            "content_hash": f"{row:064x}",
            "task_id": "",
        }
        for row, item in enumerate(pool.ids)
    ]
    with pool.lake.stage("select", version=1, inputs=()) as stage:
        stage.commit([Upsert("queue", pa.Table.from_pylist(rows))])
    push(pool.lake, folder, config)


def no_index() -> VectorIndex:
    raise AssertionError("nobody asked for the index")


def answer(folder: TaskFolder, item: str, class_id: int, who: str = "ann", round: int = 1) -> None:
    folder.annotate(folder.task_id(item, round), labels=[CLASSES[class_id]], annotator=who, seconds=2.0)


def change_text(lake: Lake, item: str, text: str, split: str = "train") -> None:
    row = {**items(1).to_pylist()[0], "split": split}
    edited = {**row, "item_id": item, "content": text, "content_hash": sha256(text.encode()).hexdigest()}
    with lake.stage("ingest", version=1, inputs=("items",), params={"text": text}) as stage:
        stage.commit([Upsert("items", pa.Table.from_pylist([edited]))])


def asked_about_another_text(lake: Lake, folder: TaskFolder, item: str) -> StageResult:
    """Answered, and then edited."""
    answer(folder, item, 1)
    collect(lake, folder, CONFIG)
    change_text(lake, item, "another text")
    return ask_again(lake, no_index, NONE)


def row_of(lake: Lake, item: str) -> dict[str, object]:
    with lake.read() as reader:
        return reader.arrow("SELECT * FROM queue WHERE item_id = ?", [item]).to_pylist()[0]


def gold(lake: Lake, item: str) -> list[int]:
    with lake.read() as reader:
        return [c for (c,) in reader.rows("SELECT class_id FROM gold_labels WHERE item_id = ?", [item])]


def test_an_edited_text_is_asked_again_and_only_answers_to_the_new_text_count(
    pool: SmallPool, folder: TaskFolder
) -> None:
    lake, item = pool.lake, pool.ids[3]
    answer(folder, item, 1)
    collect(lake, folder, CONFIG)
    assert gold(lake, item) == [1]
    change_text(lake, item, "another text")
    assert gold(lake, item) == []
    assert ask_again(lake, no_index, NONE).detail["edited"] == 1
    assert not ask_again(lake, no_index, NONE).committed
    push(lake, folder, CONFIG)
    assert folder.find([item]) == {item: [folder.task_id(item), folder.task_id(item, 2)]}
    assert row_of(lake, item)["task_id"] == folder.task_id(item, 2)
    assert '"another text"' in (folder.path / f"{folder.task_id(item, 2)}.json").read_text("utf-8")
    assert not collect(lake, folder, CONFIG).committed  # the old answer answers nothing
    assert row_of(lake, item)["state"] == "confirmed"
    answer(folder, item, 0)  # somebody edits the answer to the old text
    collect(lake, folder, CONFIG)
    assert (gold(lake, item), row_of(lake, item)["state"]) == ([], "confirmed")
    answer(folder, item, 2, round=2)
    collect(lake, folder, CONFIG)
    assert (gold(lake, item), row_of(lake, item)["state"]) == ([2], "answered")
    with lake.read() as reader:
        assert reader.scalar("SELECT count(*) FROM annotations WHERE item_id = ?", [item]) == 3


def test_a_second_person_is_shown_the_new_text_and_not_the_old_one_too(pool: SmallPool, folder: TaskFolder) -> None:
    lake, item = pool.lake, pool.ids[3]
    two = QueueConfig(project="p", classes=CLASSES, annotators_per_task=2)
    answer(folder, item, 1)
    collect(lake, folder, two)
    for round, text in enumerate(("another text", "a third text"), 2):
        change_text(lake, item, text)
        ask_again(lake, no_index, NONE)
        push(lake, folder, two)
        assert (folder.path / f"{folder.task_id(item)}.json").is_file()  # it holds an answer, so it stays
        for who in ("ann", "bob"):
            waiting = folder.waiting(who, people=2)
            assert len(waiting) == N
            assert [task.texts for task in waiting if task.data["item_id"] == item] == [(text,)]
            assert folder.task_id(item, round) in {task.task_id for task in waiting}


def put_back(lake: Lake, item: str, row: int) -> None:
    """Give an item the text that it had when its first task was sent."""
    first = {**items(1).to_pylist()[0], "item_id": item, "content_hash": f"{row:064x}"}
    with lake.stage("ingest", version=1, inputs=("items",), params={"back": item}) as stage:
        stage.commit([Upsert("items", pa.Table.from_pylist([first]))])


def test_a_text_edited_back_gets_its_first_answer_back_and_nobody_is_asked_anew(
    pool: SmallPool, folder: TaskFolder
) -> None:
    lake, item = pool.lake, pool.ids[0]
    asked = asked_about_another_text(lake, folder, item)
    assert "the old answers count no more" in asked.detail["advice"]
    push(lake, folder, CONFIG)
    put_back(lake, item, 0)
    assert gold(lake, item) == [1]
    assert ask_again(lake, no_index, NONE).detail == {"edits taken back": 1}
    assert push(lake, folder, CONFIG).detail == {"sent": 0}
    collect(lake, folder, CONFIG)
    assert folder.find([item]) == {item: [folder.task_id(item)]}  # that of the other text is gone
    assert (row_of(lake, item)["state"], row_of(lake, item)["task_id"]) == ("answered", folder.task_id(item))
    assert gold(lake, item) == [1]
    assert not ask_again(lake, no_index, NONE).committed
    assert reconcile(lake, folder, CONFIG).lines() == [f"{N - 1} tasks agree with the service"]


def test_a_task_about_an_edited_text_suggests_what_the_model_says(
    lake: Lake, tmp_path: Path, folder: TaskFolder
) -> None:
    pool = small_pool(lake, tmp_path, clusters(N)[0], np.tile([0.1, 0.7, 0.2], (N, 1)))
    send(pool, folder, CONFIG)
    asked_about_another_text(lake, folder, pool.ids[0])
    row = row_of(lake, pool.ids[0])
    assert (row["prediction"], row["confidence"]) == (1, pytest.approx(0.7))


def test_to_and_fro_between_two_answered_texts_each_answer_is_of_its_text(pool: SmallPool, folder: TaskFolder) -> None:
    lake, item = pool.lake, pool.ids[0]
    asked_about_another_text(lake, folder, item)
    push(lake, folder, CONFIG)
    answer(folder, item, 2, round=2)
    collect(lake, folder, CONFIG)
    for text, label, round in (("", 1, 1), ("another text", 2, 2), ("", 1, 1)):
        change_text(lake, item, text) if text else put_back(lake, item, 0)
        assert ask_again(lake, no_index, NONE).detail == {"edits taken back": 1}
        push(lake, folder, CONFIG)
        collect(lake, folder, CONFIG)
        assert folder.find([item]) == {item: [folder.task_id(item), folder.task_id(item, 2)]}
        assert (row_of(lake, item)["state"], row_of(lake, item)["task_id"]) == ("answered", folder.task_id(item, round))
        assert gold(lake, item) == [label]
    change_text(lake, item, "a third text")  # whose task has a number that none had before
    ask_again(lake, no_index, NONE)
    push(lake, folder, CONFIG)
    fresh = str(row_of(lake, item)["task_id"])
    assert len(folder.find([item])[item]) == 3
    assert fresh not in (folder.task_id(item), folder.task_id(item, 2))
    folder.annotate(fresh, labels=[CLASSES[0]], annotator="ann", seconds=2.0)
    collect(lake, folder, CONFIG)
    assert (row_of(lake, item)["state"], gold(lake, item)) == ("answered", [0])


def test_a_text_edited_back_that_waits_for_another_person_is_asked_anew(pool: SmallPool, folder: TaskFolder) -> None:
    lake, item = pool.lake, pool.ids[0]
    two = AskAgainConfig(project="p", budget=40, second_opinion=0.0, annotators_per_task=2)
    answer(folder, item, 1)
    collect(lake, folder, QueueConfig(project="p", classes=CLASSES, annotators_per_task=2))
    change_text(lake, item, "another text")
    ask_again(lake, no_index, two)
    push(lake, folder, CONFIG)
    put_back(lake, item, 0)
    assert ask_again(lake, no_index, two).detail == {"edited": 1}
    push(lake, folder, CONFIG)
    assert [task.data["item_id"] for task in folder.waiting("ben", people=2)].count(item) == 1


def test_a_text_edited_back_whose_label_called_for_another_answer_is_asked_anew(
    pool: SmallPool, folder: TaskFolder
) -> None:
    lake, item = pool.lake, pool.ids[0]
    for who, label in (("ann", 0), ("ben", 1)):
        answer(folder, item, label, who)
    collect(lake, folder, CONFIG)
    assert ask_again(lake, no_index, OPINIONS).detail == {"disagreement": 1}
    push(lake, folder, CONFIG)
    answer(folder, item, 1, "cem", round=2)
    collect(lake, folder, CONFIG)
    change_text(lake, item, "another text")
    ask_again(lake, no_index, NONE)
    push(lake, folder, CONFIG)
    put_back(lake, item, 0)
    assert ask_again(lake, no_index, NONE).detail == {"edited": 1}
    with lake.read() as reader:
        before = reader.rows("SELECT round, task_id FROM asked_before ORDER BY round")
    assert before == [(number, folder.task_id(item, number)) for number in (1, 2, 3)]


def test_a_text_edited_before_anybody_answered_replaces_its_task(pool: SmallPool, folder: TaskFolder) -> None:
    lake, item = pool.lake, pool.ids[1]
    change_text(lake, item, "another text")
    ask_again(lake, no_index, NONE)
    push(lake, folder, CONFIG)
    assert folder.find([item]) == {item: [folder.task_id(item, 2)]}


def test_a_text_edited_before_it_was_sent_is_sent_once_as_it_is_now(pool: SmallPool, folder: TaskFolder) -> None:
    lake, item = pool.lake, pool.ids[2]
    with lake.stage("select", version=2, inputs=()) as stage:
        row = {k: v for k, v in row_of(lake, item).items() if k not in ("run_id", "committed_at")}
        stage.commit([Upsert("queue", pa.Table.from_pylist([{**row, "state": "planned"}]))])
    (folder.path / f"{folder.task_id(item)}.json").unlink()
    change_text(lake, item, "another text")
    ask_again(lake, no_index, NONE)
    push(lake, folder, CONFIG)
    answer(folder, item, 2)
    collect(lake, folder, CONFIG)
    assert (gold(lake, item), row_of(lake, item)["reason"]) == ([2], "because")
    with lake.read() as reader:
        assert reader.scalar("SELECT count(*) FROM asked_before") == 0


def test_killed_while_it_is_sent_again_the_fresh_task_is_there_once(pool: SmallPool, folder: TaskFolder) -> None:
    lake, item = pool.lake, pool.ids[3]
    asked_about_another_text(lake, folder, item)
    with pytest.raises(Died):
        push(lake, DyingFolder(folder.path, "p", None), CONFIG)
    push(lake, folder, CONFIG)
    assert folder.find([item]) == {item: [folder.task_id(item), folder.task_id(item, 2)]}
    assert reconcile(lake, folder, CONFIG).lines() == [f"{N} tasks agree with the service"]


def test_contested_labels_get_another_opinion_within_the_budget_the_least_certain_first(
    pool: SmallPool, folder: TaskFolder
) -> None:
    lake = pool.lake
    for item in pool.ids[:8]:
        answer(folder, item, 0, "ann")
        answer(folder, item, 1, "ben")
    answer(folder, pool.ids[7], 2, "cem")  # of three opinions each is less certain than of two
    answer(folder, pool.ids[8], 0, "ann")
    answer(folder, pool.ids[8], 0, "ben")
    collect(lake, folder, CONFIG)
    assert ask_again(lake, no_index, NONE).detail == {}
    assert ask_again(lake, no_index, OPINIONS).detail == {"disagreement": 4}
    assert ask_again(lake, no_index, OPINIONS).detail == {}
    lowered = AskAgainConfig(project="p", budget=40, second_opinion=0.05)  # below what is spent
    assert ask_again(lake, no_index, lowered).detail == {}
    push(lake, folder, CONFIG)
    fresh = [item for item in pool.ids if len(folder.find([item])[item]) == 2]
    assert fresh == [*pool.ids[:3], pool.ids[7]]
    assert "prediction" not in (folder.path / f"{folder.task_id(fresh[0], 2)}.json").read_text("utf-8")
    answer(folder, fresh[0], 1, "cem", round=2)
    collect(lake, folder, CONFIG)
    assert (gold(lake, fresh[0]), row_of(lake, fresh[0])["state"]) == ([1], "answered")
    assert gold(lake, fresh[1]) != []  # the label stays while it is asked again


def test_what_a_reviewer_labelled_is_settled_unless_another_differs(pool: SmallPool, folder: TaskFolder) -> None:
    lake, (_, classes) = pool.lake, clusters(N)
    for row, item in enumerate(pool.ids):
        answer(folder, item, int(classes[row] + (row in (5, 6)) + 2 * (row == 21)) % 3)
    contested, undecided = pool.ids[20:22]
    answer(folder, contested, int(classes[20] + 1) % 3, "ben")
    answer(folder, contested, int(classes[20]), "lead")
    answer(folder, undecided, int(classes[21]), "lead")
    answer(folder, undecided, int(classes[21] + 1) % 3, "deputy")
    answer(folder, pool.ids[5], int(classes[5] + 1) % 3, "lead")  # it looks wrong, and is not
    collect(lake, folder, CONFIG)
    both = AskAgainConfig(project="p", budget=40, second_opinion=0.1, second_look=0.05)
    consensus(lake, ["lead", "deputy"])
    with lake.read() as reader:
        listed = {suspect.item_id for suspect in suspects(reader, pool.index())}
    assert listed == {*pool.ids} - {contested, undecided, pool.ids[5]}
    assert ask_again(lake, pool.index, both).detail == {"disagreement": 1, "second look": 2}
    push(lake, folder, CONFIG)
    asked = {item for item in pool.ids if len(folder.find([item])[item]) == 2}
    assert {undecided, pool.ids[6]} <= asked
    assert not asked & {contested, pool.ids[5]}


def test_nobody_is_asked_again_about_what_moved_to_another_split(pool: SmallPool, folder: TaskFolder) -> None:
    lake, (edited, contested) = pool.lake, pool.ids[3:5]
    for item, said in ((edited, (1, 1)), (contested, (1, 2))):
        for who, class_id in zip(("ann", "bob"), said, strict=True):
            answer(folder, item, class_id, who)
    collect(lake, folder, CONFIG)
    change_text(lake, edited, "another text")
    assert set(ask_again_in(lake, "test")) == set()
    assert set(ask_again_in(lake, "train")) == {"edited", "disagreement", "advice"}


def ask_again_in(lake: Lake, split: str) -> Mapping[str, object]:
    """Move all items to a split, and ask again."""
    with lake.stage("ingest", version=1, inputs=("items",), params={"split": split}) as stage:
        moved = stage.arrow("SELECT * EXCLUDE (run_id, committed_at) REPLACE (? AS split) FROM items", [split])
        stage.commit([Upsert("items", moved)])
    return ask_again(lake, no_index, OPINIONS).detail


def test_a_share_of_the_budget_is_as_many_labels_as_a_person_would_count(pool: SmallPool, folder: TaskFolder) -> None:
    for item in pool.ids[:30]:
        answer(folder, item, 0)
        answer(folder, item, 1, who="bob")
    collect(pool.lake, folder, CONFIG)
    config = AskAgainConfig(project="p", budget=100, second_opinion=0.29)  # 28.999999999999996 in floats
    assert ask_again(pool.lake, no_index, config).detail == {"disagreement": 29}


def test_a_label_that_is_probably_wrong_gets_one_second_look(pool: SmallPool, folder: TaskFolder) -> None:
    lake, (_, classes) = pool.lake, clusters(N)
    for row, item in enumerate(pool.ids):
        answer(folder, item, int(classes[row] + (row in (5, 6))) % 3)
    collect(lake, folder, CONFIG)
    assert ask_again(lake, pool.index, LOOK).detail == {"second look": 4}  # the budget: a tenth of forty labels
    push(lake, folder, CONFIG)
    asked = {item for item in pool.ids if len(folder.find([item])[item]) == 2}
    assert {pool.ids[5], pool.ids[6]} <= asked
    for item in asked:
        row = pool.ids.index(item)
        answer(folder, item, int(classes[row] + (row == 6)) % 3, round=2)
    collect(lake, folder, CONFIG)
    assert gold(lake, pool.ids[5]) == [classes[5]]  # the same person thought again: the latest word counts
    assert ask_again(lake, pool.index, LOOK).detail == {}
    more = AskAgainConfig(project="p", budget=40, second_opinion=0.0, second_look=1.0)
    ask_again(lake, pool.index, more)  # 6 is as suspicious as before, and is not asked a third time
    with lake.read() as reader:
        assert reader.scalar("SELECT count(*) FROM asked_before WHERE item_id = ?", [pool.ids[6]]) == 1


@pytest.mark.parametrize(
    "ahead",
    [(datetime.now(UTC) + timedelta(days=365)).isoformat(), "9999-12-31T23:59:59.999999Z"],
    ids=["a year ahead", "no later time"],
)
def test_an_answer_that_was_asked_for_again_counts_whatever_clock_the_first_one_had(
    pool: SmallPool, folder: TaskFolder, ahead: str
) -> None:
    lake, (_, classes) = pool.lake, clusters(N)
    wrong = pool.ids[5]
    for row, item in enumerate(pool.ids):
        said = annotation(CLASSES[int(classes[row] + (item == wrong)) % 3], who="ann")
        write(folder, item, [{**said, "created_at": ahead, "updated_at": ahead}])
    collect(lake, folder, CONFIG)
    ask_again(lake, pool.index, LOOK)
    push(lake, folder, CONFIG)
    answer(folder, wrong, int(classes[5]), round=2)
    collect(lake, folder, CONFIG)
    assert gold(lake, wrong) == [classes[5]]
    assert not collect(lake, folder, CONFIG).committed
    answer(folder, wrong, int(classes[5] + 1) % 3, round=2)
    collect(lake, folder, CONFIG)
    assert gold(lake, wrong) == [(classes[5] + 1) % 3]


def test_with_several_classes_a_second_look_names_the_class_and_the_answer_changes_the_label(
    lake: Lake, tmp_path: Path
) -> None:
    vectors, has = sets(2 * N)
    config = QueueConfig(project="p", classes=CLASSES, multi_label=True)
    folder = TaskFolder(tmp_path / "tasks", "p", multi_label=True)
    pool = small_pool(lake, tmp_path, vectors, multi_label=True)
    send(pool, folder, config)
    alone = np.flatnonzero(has.sum(axis=1) == 1)
    forgotten, added = pool.ids[alone[0]], pool.ids[alone[1]]
    wrong = {forgotten: int(has[alone[0]].argmax()), added: int((has[alone[1]].argmax() + 1) % 3)}

    def say(item: str, of: np.ndarray, round: int = 1) -> None:
        names = [CLASSES[c] for c in np.flatnonzero(of)]
        folder.annotate(folder.task_id(item, round), labels=names, annotator="ann", seconds=2.0)

    def labels() -> dict[str, list[int]]:
        with lake.read() as reader:
            return dict(reader.rows("SELECT item_id, class_ids FROM gold_labels"))

    for item, of in zip(pool.ids, has, strict=True):
        say(item, of ^ (np.arange(3) == wrong.get(item, -1)))
    collect(lake, folder, config)
    assert labels()[forgotten] == []
    two = AskAgainConfig(project="p", budget=40, second_opinion=0.0, second_look=0.05)
    assert ask_again(lake, pool.index, two).detail == {"second look": 2}
    push(lake, folder, config)
    reasons = {item: str(row_of(lake, item)["reason"]) for item in wrong}
    missing, extra = (CLASSES[number] for number in wrong.values())
    said = "Asked again: a second look at '{}', because similar texts have other labels."
    assert reasons == {forgotten: said.format(missing), added: said.format(extra)}, "how it was answered is not told"
    task = (folder.path / f"{folder.task_id(forgotten, 2)}.json").read_text("utf-8")
    assert said.format(missing) in task
    assert "prediction" not in task
    for item in wrong:
        say(item, has[pool.ids.index(item)], round=2)
    collect(lake, folder, config)
    assert labels() == {item: np.flatnonzero(of).tolist() for item, of in zip(pool.ids, has, strict=True)}
    assert ask_again(lake, pool.index, two).detail == {}


def test_a_task_waits_for_as_many_people_as_are_wanted(pool: SmallPool, folder: TaskFolder) -> None:
    two = QueueConfig(project="p", classes=CLASSES, annotators_per_task=2)
    lake, item = pool.lake, pool.ids[0]
    states: list[object] = []
    steps: list[Callable[[], None]] = [
        lambda: answer(folder, item, 0, "ann"),
        lambda: answer(folder, item, 1, "ann"),
        lambda: answer(folder, item, 1, "ben"),
    ]
    for step in steps:
        step()
        collect(lake, folder, two)
        states.append(row_of(lake, item)["state"])
    assert states == ["confirmed", "confirmed", "answered"]
    nameless = [annotation(CLASSES[0], completed_by=None, id=number) for number in (1, 2)]
    write(folder, pool.ids[1], nameless)  # who is not known is nobody in particular
    collect(lake, folder, two)
    assert row_of(lake, pool.ids[1])["state"] == "answered"
    assert pool.ids[1] not in {task.data["item_id"] for task in folder.waiting("ann", people=2)}


@pytest.mark.parametrize("name", ["second_opinion", "second_look"])
def test_wrong_shares_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is 1.5"):
        AskAgainConfig(**{"project": "p", "budget": 1, name: 1.5})  # type: ignore[arg-type]
