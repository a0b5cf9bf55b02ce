"""The outbox over a real folder of tasks: whatever died at whatever moment, each item is in it exactly once."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from active.annotation.service import Task
from active.annotation.simulated_annotator import SimulatedAnnotator
from active.queue.collect import collect
from active.queue.outbox import QueueConfig, commit_states, queue_rows
from active.queue.push import overtaken, push
from active.queue.reconcile import reconcile
from active.task_folder.service import TaskFolder
from tests.warehouse.test_commit_is_atomic import items
from warehouse import Lake, Reader, ServiceError, Upsert

CONFIG = QueueConfig(project="p", classes=("a", "b"), chunk=4)
N = 10


class Died(BaseException):
    """Stands for SIGKILL at a chosen moment: nothing in the packages catches it."""


class DyingFolder(TaskFolder):
    """A real folder whose process dies after a number of stored tasks, or right after the whole push."""

    def __init__(self, path: Path, project: str, stores: int | None) -> None:
        super().__init__(path, project)
        self.stores = stores

    def push(self, tasks: Sequence[Task]) -> Mapping[str, str]:
        super().push(tasks[: self.stores])
        raise Died


@pytest.fixture
def planned(lake: Lake) -> Lake:
    """Ten planned rows, highest value first."""
    rows = {
        "item_id": [f"i{k:05d}" for k in range(N)],
        "project": ["p"] * N,
        "state": ["planned"] * N,
        "cycle": pa.array([1] * N, pa.int32()),
        "rank": pa.array(range(1, N + 1), pa.int32()),
        "value": [1 - k / N for k in range(N)],
        "reason": ["Speaks for 3 records nobody has labelled; the model says b (60%)."] * N,
        "prediction": pa.array([0, 1] * (N // 2), pa.int32()),
        "confidence": pa.array([0.5] * N, pa.float32()),
        "content_hash": [f"{k:064x}" for k in range(N)],
        "task_id": [""] * N,
    }
    with lake.stage("select", version=1, inputs=()) as stage:
        stage.commit([Upsert("items", items(N)), Upsert("queue", pa.table(rows))])
    return lake


@pytest.fixture
def folder(tmp_path: Path) -> TaskFolder:
    return TaskFolder(tmp_path / "tasks", "p")


def states(lake: Lake) -> dict[str, int]:
    with lake.read() as reader:
        return dict(reader.rows("SELECT state, count(*) FROM queue GROUP BY state"))


def stored(folder: TaskFolder) -> list[str]:
    return sorted(json.loads(p.read_text("utf-8"))["data"]["item_id"] for p in folder.path.glob("*.json"))


def edit(folder: TaskFolder, item: str, change: Callable[[dict], None]) -> None:
    path = folder.path / f"{folder.task_id(item)}.json"
    task = json.loads(path.read_text("utf-8"))
    change(task)
    path.write_text(json.dumps(task), "utf-8")


def answer(folder: TaskFolder, item: str, label: str, who: str = "ann") -> None:
    folder.annotate(folder.task_id(item), labels=[label], annotator=who, seconds=2.0)


def gold(lake: Lake) -> dict[str, str]:
    with lake.read() as reader:
        return dict(reader.rows("SELECT item_id, CASE class_id WHEN 0 THEN 'a' ELSE 'b' END FROM gold_labels"))


def history(lake: Lake, item: str) -> list[tuple[str, int]]:
    with lake.read() as reader:
        return reader.rows(
            "SELECT action, class_id FROM annotations WHERE item_id = ? ORDER BY committed_at, annotation_id", [item]
        )


def test_push_confirms_everything_once(planned: Lake, folder: TaskFolder) -> None:
    assert push(planned, folder, CONFIG).rows_written == {"queue": N}
    assert states(planned) == {"confirmed": N}
    assert stored(folder) == [f"i{k:05d}" for k in range(N)]
    snapshot = planned.snapshot()
    assert not push(planned, folder, CONFIG).committed
    assert planned.snapshot() == snapshot


def test_what_a_planned_task_overtakes_stands_behind_those_on_screens() -> None:
    values = {"10": 0.2, "9": 0.1, "11": 0.3, "8": 0.2, "12": 0.7}  # a service counts them in this order, from 8 on
    stored = [{"task_id": number, "value": value, "reason": ""} for number, value in values.items()]
    planned = [{"state": "planned", "value": 0.5}, {"state": "sent", "value": 0.9}]
    assert [row["task_id"] for row in overtaken(planned, stored, 2)] == ["10", "11"]


def test_a_push_reads_each_text_once(planned: Lake, folder: TaskFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, texts = Reader.rows, list[str]()

    def noted(self: Reader, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        found = rows(self, sql, params)
        texts.extend(cell for row in found for cell in row if str(cell).startswith("text "))
        return found

    monkeypatch.setattr(Reader, "rows", noted)
    push(planned, folder, CONFIG)
    assert len(texts) == len(set(texts)) == N


@pytest.mark.parametrize("before_death", [0, 2, None], ids=["stored none", "stored half", "stored all, not confirmed"])
def test_died_inside_a_push_the_next_one_loses_and_doubles_nothing(
    planned: Lake, folder: TaskFolder, before_death: int | None
) -> None:
    with pytest.raises(Died):
        push(planned, DyingFolder(folder.path, "p", before_death), CONFIG)
    assert states(planned) == {"sent": 4, "planned": 6}
    push(planned, folder, CONFIG)
    assert states(planned) == {"confirmed": N}
    assert stored(folder) == [f"i{k:05d}" for k in range(N)]


def test_what_is_in_the_service_is_not_sent_again(planned: Lake, folder: TaskFolder) -> None:
    """The guard is the question before sending: a service that stores everything twice shows its absence."""
    pushed: list[str] = []

    class Counting(TaskFolder):
        def push(self, tasks: Sequence[Task]) -> Mapping[str, str]:
            pushed.extend(task.item_id for task in tasks)
            return super().push(tasks)

    with pytest.raises(Died):
        push(planned, DyingFolder(folder.path, "p", None), CONFIG)
    push(planned, Counting(folder.path, "p"), CONFIG)
    assert sorted(pushed) == [f"i{k:05d}" for k in range(4, N)]


class MadeOnly(TaskFolder):
    """A real folder whose process dies right after the folder was made."""

    def ensure_project(self, classes: Sequence[str], *, texts: Sequence[str] = (), image: bool = False) -> bool:
        assert super().ensure_project(classes, texts=texts, image=image)
        raise Died


def test_a_folder_that_began_anew_gets_all_tasks_also_when_the_process_died_as_it_was_made(
    planned: Lake, folder: TaskFolder
) -> None:
    push(planned, folder, CONFIG)
    shutil.rmtree(folder.path)
    with pytest.raises(Died):
        push(planned, MadeOnly(folder.path, "p"), CONFIG)
    assert stored(folder) == []
    push(planned, folder, CONFIG)
    assert stored(folder) == [f"i{k:05d}" for k in range(N)]
    assert states(planned) == {"confirmed": N}


def test_tasks_that_waited_on_a_server_are_written_beside_files_from_before(planned: Lake, folder: TaskFolder) -> None:
    push(planned, folder, CONFIG)
    # The project moved to a server, which took all of these; of those that were selected there is no file yet.
    with planned.read() as reader:
        rows = queue_rows(reader, CONFIG, "confirmed")
    commit_states(planned, CONFIG, "moved", [{**row, "task_id": str(row["rank"])} for row in rows])
    for number in range(4, N):
        (folder.path / f"{folder.task_id(f'i{number:05d}')}.json").unlink()
    assert push(planned, folder, CONFIG).detail == {"sent": N - 4}
    assert stored(folder) == [f"i{k:05d}" for k in range(N)]
    with planned.read() as reader:
        assert all(folder.gave(item, task) for item, task in reader.rows("SELECT item_id, task_id FROM queue"))
    assert not push(planned, folder, CONFIG).committed


def test_only_tasks_that_are_sent_count_as_sent(planned: Lake, folder: TaskFolder) -> None:
    with pytest.raises(Died):
        push(planned, DyingFolder(folder.path, "p", None), CONFIG)
    assert len(stored(folder)) == 4
    assert push(planned, folder, CONFIG).detail == {"sent": N - 4}


def test_a_service_that_is_away_leaves_the_rows_for_the_next_push(planned: Lake, folder: TaskFolder) -> None:
    class Away(TaskFolder):
        def push(self, tasks: Sequence[Task]) -> Mapping[str, str]:
            raise ServiceError("away")

    with pytest.raises(ServiceError):
        push(planned, Away(folder.path, "p"), CONFIG)
    push(planned, folder, CONFIG)
    assert states(planned) == {"confirmed": N}


def test_tasks_carry_what_the_annotator_needs_and_nothing_else(planned: Lake, folder: TaskFolder) -> None:
    push(planned, folder, CONFIG)
    task = json.loads((folder.path / f"{folder.task_id('i00001')}.json").read_text("utf-8"))
    assert task["data"] == {
        "item_id": "i00001",
        "text": "text 1",
        "reason": "Speaks for 3 records nobody has labelled; the model says b (60%).",
        "value": 0.9,
        "cycle": 1,
        "rank": 2,
    }
    [prediction] = task["predictions"]
    assert prediction["result"][0]["value"] == {"choices": ["b"]}


def test_where_a_project_wants_no_suggestions_tasks_say_nothing_of_what_models_say(
    planned: Lake, folder: TaskFolder
) -> None:
    push(planned, folder, replace(CONFIG, suggest=False))
    for path in folder.path.glob("*.json"):
        task = json.loads(path.read_text("utf-8"))
        assert task["data"]["reason"] == "Speaks for 3 records nobody has labelled."
        assert "predictions" not in task
    with planned.read() as reader:  # it is known of each task whether people saw a suggestion
        assert reader.scalar("SELECT count(*) FROM queue WHERE prediction = -1 AND confidence = 0") == N


def test_answers_are_collected_once(planned: Lake, folder: TaskFolder) -> None:
    push(planned, folder, CONFIG)
    answer(folder, "i00000", "a")
    answer(folder, "i00003", "b")
    assert collect(planned, folder, CONFIG).rows_written == {"annotations": 2, "queue": 2}
    assert states(planned) == {"answered": 2, "confirmed": N - 2}
    assert gold(planned) == {"i00000": "a", "i00003": "b"}
    assert not collect(planned, folder, CONFIG).committed


def test_edits_skips_and_deletions_are_history_and_the_latest_is_in_force(planned: Lake, folder: TaskFolder) -> None:
    push(planned, folder, CONFIG)
    for item in ("i00000", "i00001", "i00002"):
        answer(folder, item, "a")
    collect(planned, folder, CONFIG)
    answer(folder, "i00000", "b")
    edit(folder, "i00001", lambda task: task["annotations"][0].update(was_cancelled=True, result=[]))
    edit(folder, "i00002", lambda task: task["annotations"].clear())
    collect(planned, folder, CONFIG)
    assert gold(planned) == {"i00000": "b"}
    assert history(planned, "i00000") == [("labelled", 0), ("labelled", 1)]
    assert history(planned, "i00001") == [("labelled", 0), ("skipped", -1)]
    assert history(planned, "i00002") == [("labelled", 0), ("deleted", -1)]
    assert states(planned) == {"answered": 2, "confirmed": N - 2}  # the deleted one is open again
    assert not collect(planned, folder, CONFIG).committed
    answer(folder, "i00002", "b")
    collect(planned, folder, CONFIG)
    assert gold(planned) == {"i00000": "b", "i00002": "b"}


def test_two_annotators_who_disagree_are_both_kept(planned: Lake, folder: TaskFolder) -> None:
    push(planned, folder, CONFIG)
    for who, label in (("ann", "a"), ("ben", "b"), ("cem", "b")):
        answer(folder, "i00000", label, who)
    collect(planned, folder, CONFIG)
    with planned.read() as reader:
        assert reader.rows("SELECT label IS NULL, class_id, annotations, agreeing FROM gold_labels") == [
            (True, 1, 3, 2)
        ]


def test_wrong_answers_are_told_and_do_not_stop_the_others(planned: Lake, folder: TaskFolder) -> None:
    push(planned, folder, CONFIG)
    answer(folder, "i00000", "a")
    answer(folder, "i00001", "no such class")
    (folder.path / "broken.json").write_text("{ half a fi")
    (folder.path / "deep.json").write_text("[" * 100_000)
    edit(folder, "i00002", lambda task: task.update(annotations=[{"result": "nonsense"}]))
    (folder.path / "stranger.json").write_text(
        json.dumps(
            {
                "data": {"item_id": "who"},
                "annotations": [{"result": [{"from_name": "label", "value": {"choices": ["a"]}}]}],
            }
        )
    )
    detail = collect(planned, folder, CONFIG).detail
    assert gold(planned) == {"i00000": "a"}
    task = folder.task_id("i00001")
    assert detail["unknown labels"] == f"'no such class' in task {task} (item 'i00001'). The classes are: a, b"
    assert detail["answers for unknown items"].startswith("1, such as 'who'; ids are those")
    left_out = {key for key in detail if key.startswith("left out")}
    assert len(left_out) == 3
    assert "left out: broken.json" in left_out


def test_unknown_labels_say_where_they_are_and_which_class_may_be_meant(planned: Lake, folder: TaskFolder) -> None:
    config = QueueConfig(project="p", classes=("billing", "praise"))
    push(planned, folder, config)
    answer(folder, "i00000", "PRAISE")
    answer(folder, "i00001", "PRAISE")
    answer(folder, "i00002", "biling")
    assert collect(planned, folder, config).detail["unknown labels"] == (
        f"'PRAISE' in task {folder.task_id('i00000')} (item 'i00000') and 1 more, perhaps meant as 'praise'; "
        f"'biling' in task {folder.task_id('i00002')} (item 'i00002'), perhaps meant as 'billing'. "
        "The classes are: billing, praise"
    )


def test_an_unreadable_file_does_not_count_as_deleted_answers(planned: Lake, folder: TaskFolder) -> None:
    push(planned, folder, CONFIG)
    answer(folder, "i00000", "a")
    collect(planned, folder, CONFIG)
    path = folder.path / f"{folder.task_id('i00000')}.json"
    whole = path.read_text("utf-8")
    path.write_text(whole[: len(whole) // 2], "utf-8")
    assert not collect(planned, folder, CONFIG).committed
    assert gold(planned) == {"i00000": "a"}


def test_answers_stay_when_the_project_moves_to_another_service_or_its_tasks_are_gone(
    planned: Lake, folder: TaskFolder, tmp_path: Path
) -> None:
    push(planned, folder, CONFIG)
    for item in ("i00000", "i00001"):
        answer(folder, item, "a")
    collect(planned, folder, CONFIG)
    elsewhere = TaskFolder(tmp_path / "elsewhere", "p")
    elsewhere.ensure_project(CONFIG.classes)
    assert collect(planned, elsewhere, CONFIG).detail == {"answers kept that are gone there": 2}
    reconcile(planned, elsewhere, CONFIG)
    assert len(stored(elsewhere)) == N - 2  # open tasks move, answered ones are not asked again
    (folder.path / f"{folder.task_id('i00001')}.json").unlink()
    collect(planned, folder, CONFIG)
    assert gold(planned) == {"i00000": "a", "i00001": "a"}
    assert states(planned) == {"answered": 2, "confirmed": N - 2}


def test_an_edited_text_loses_the_label_of_the_text_before(planned: Lake, folder: TaskFolder) -> None:
    push(planned, folder, CONFIG)
    answer(folder, "i00000", "a")
    answer(folder, "i00001", "a")
    collect(planned, folder, CONFIG)
    edited = items(1, "another text").set_column(2, "content_hash", pa.array(["edited"]))
    with planned.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Upsert("items", edited)])
    assert gold(planned) == {"i00001": "a"}
    assert history(planned, "i00000") == [("labelled", 0)]


def test_a_label_studio_export_dropped_into_import_is_collected(planned: Lake, folder: TaskFolder) -> None:
    push(planned, folder, CONFIG)
    export = [
        {
            "id": 7,
            "data": {"item_id": "i00004", "text": "text 4"},
            "annotations": [
                {
                    "id": 99,
                    "completed_by": {"id": 1, "email": "ann@example.org"},
                    "result": [{"from_name": "label", "to_name": "text", "value": {"choices": ["b"]}}],
                    "created_at": "2026-01-02T03:04:05.678Z",
                    "updated_at": "2026-01-02T03:04:05.678Z",
                    "lead_time": 3.5,
                    "was_cancelled": False,
                }
            ],
        }
    ]
    (folder.path / "import").mkdir()
    (folder.path / "import" / "export.json").write_text(json.dumps(export))
    collect(planned, folder, CONFIG)
    with planned.read() as reader:
        rows = reader.rows("SELECT item_id, annotator, seconds, simulated FROM annotations")
    assert rows == [("i00004", "ann@example.org", 3.5, False)]
    assert states(planned)["answered"] == 1


def test_reconcile_mends_what_differs_and_says_so(planned: Lake, folder: TaskFolder) -> None:
    push(planned, folder, CONFIG)
    for item in ("i00000", "i00001"):
        (folder.path / f"{folder.task_id(item)}.json").unlink()
    report = reconcile(planned, folder, CONFIG)
    assert (report.agreed, report.sent_again) == (N - 2, 2)
    assert "2 tasks missing in the service, sent again" in " ".join(report.lines())
    assert stored(folder) == [f"i{k:05d}" for k in range(N)]
    assert states(planned) == {"confirmed": N}
    assert reconcile(planned, folder, CONFIG).lines() == [f"{N} tasks agree with the service"]


def test_the_guide_beside_the_tasks_is_true(planned: Lake, folder: TaskFolder) -> None:
    """Its example, put into a task's file as it stands, is an answer."""
    push(planned, folder, CONFIG)
    guide = (folder.path / "HOW_TO_ANSWER.txt").read_text("utf-8")
    example = json.loads(guide[guide.index("{") : guide.rindex("}") + 1])
    edit(folder, "i00002", lambda task: task.update(example))
    collect(planned, folder, CONFIG)
    assert gold(planned) == {"i00002": "a"}
    assert guide.endswith("The classes are:\n\na\nb\n")


def test_ids_of_items_are_never_file_names(lake: Lake, folder: TaskFolder) -> None:
    task = Task(item_id="../../etc/passwd\x00<img>", text="t", cycle=1, rank=1, value=0.5, reason="r")
    folder.ensure_project(["a"])
    [task_id] = folder.push([task]).values()
    made = {path.name for path in folder.path.iterdir()}
    assert made == {f"{task_id}.json", "HOW_TO_ANSWER.txt", ".gitignore"}
    assert folder.find([task.item_id]) == {task.item_id: [task_id]}


def test_the_simulated_annotator_answers_through_the_service(planned: Lake, folder: TaskFolder, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table({"id": [f"i{k:05d}" for k in range(N - 1)], "label": ["a", "b", "a"] * 3}), tmp_path / "gold.parquet"
    )
    push(planned, folder, CONFIG)
    annotator = SimulatedAnnotator(tmp_path / "gold.parquet", seed=1)
    answer(folder, "i00008", "b")
    assert annotator.answer(planned, folder, "p") == N - 2  # one has no gold label, one was answered by a person
    assert annotator.answer(planned, folder, "p") == 0
    assert annotator.unknown(planned, "p") == 1
    collect(planned, folder, CONFIG)
    assert gold(planned)["i00001"] == "b"
    with planned.read() as reader:
        assert reader.rows("SELECT simulated, count(*) FROM annotations GROUP BY 1 ORDER BY 1") == [
            (False, 1),
            (True, 8),
        ]


def test_the_simulated_annotator_knows_items_by_their_texts(planned: Lake, folder: TaskFolder, tmp_path: Path) -> None:
    push(planned, folder, CONFIG)
    # The last is of nobody's task and has the text of one that is.
    hashes = [hashlib.sha256(f"text {2 if k == N else k}".encode()).hexdigest() for k in range(N + 1)]
    with planned.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Upsert("items", items(N + 1).set_column(2, "content_hash", pa.array(hashes)))])
    rows = ["id,body,label", "i00002,text 2,b", f"i{N:05d},text 2,a", ",no item's,a", "i00003,text 3,[]"]
    (tmp_path / "gold.csv").write_text("\n".join(rows), "utf-8")
    annotator = SimulatedAnnotator(tmp_path / "gold.csv", seed=1, texts=("body",))
    assert annotator.unknown(planned, "p") == N - 1
    assert annotator.answer(planned, folder, "p") == 1
    assert [(answer.item_id, answer.labels) for answer in folder.pull()] == [("i00002", ("b",))]


def test_an_answered_row_that_a_slower_push_set_back_is_answered_again(planned: Lake, folder: TaskFolder) -> None:
    push(planned, folder, CONFIG)
    answer(folder, "i00000", "a")
    collect(planned, folder, CONFIG)
    for _ in range(2):
        with planned.stage("push", version=1, inputs=("queue",)) as stage:
            back = stage.arrow(
                "SELECT * EXCLUDE (run_id, committed_at) REPLACE ('confirmed' AS state) FROM queue "
                "WHERE state = 'answered'"
            )
            assert stage.commit([Upsert("queue", back)]).rows_written == {"queue": 1}
        collect(planned, folder, CONFIG)
        assert states(planned) == {"answered": 1, "confirmed": N - 1}
