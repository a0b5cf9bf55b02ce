"""The saved questions: each answers on a warehouse that the real pipeline made, and tells what was planted."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from active.quality.relabeling import REASONS, AskAgainConfig, ask_again
from active.queue.outbox import QueueConfig
from active.queue.push import push
from active.selection.exploration import EXPLORED, is_explored
from active.selection.stage import SelectConfig, select
from active.task_folder.service import TaskFolder
from active.value.stage import ValueConfig, estimate_values
from features.ingest.samples import SampleFiles
from flows.cli.main import run_command
from flows.pipelines.stages import run_passes, run_stage_in_process
from flows.project.project import Project
from tests.active.pools import CLASSES, clusters, label, small_pool
from tests.active.test_ask_again import change_text
from tests.active.test_consensus import say
from tests.flows.report_lake import full_lake
from tests.projects import PLAIN_FUNCTIONS, ROOT, make_small_project
from tests.warehouse.test_commit_is_atomic import classes, items
from tests.warehouse.test_what_changed import answer, commit, predict
from warehouse import Append, Lake, Upsert, connect
from warehouse.queries.saved_questions import Question, parse, question, questions
from warehouse.schema.dictionary import PAGE, page
from warehouse.schema.tables import TABLES
from warehouse.schema.views import VIEWS

MAY_BE_EMPTY = {"agreement-between-annotators", "confident-and-wrong", "confusion", "leakage-between-splits",
                "what-was-not-read"}  # fmt: skip


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, reuters: SampleFiles) -> Path:
    root = make_small_project(tmp_path_factory.mktemp("questions") / "project", reuters, train=90, test=20)
    settings = (root / "siftline.toml").read_text("utf-8")
    settings = settings.replace('"snorkel"', '"majority"').replace("batch = 8", "batch = 16")
    (root / "siftline.toml").write_text(settings, "utf-8")
    (root / "labeling_functions.py").write_text(PLAIN_FUNCTIONS)
    run_passes(run_stage_in_process(Project(root)), simulated=True)
    return root


@pytest.fixture
def planted(tmp_path: Path) -> Iterator[Lake]:
    with full_lake(tmp_path / "lake") as lake:
        yield lake


def ask(lake: Lake, name: str) -> list[dict[str, object]]:
    with connect(lake.path) as reader:
        return reader.arrow(question(name).sql).to_pylist()


def test_all_twenty_answer_on_the_demo_with_words_on_how_to_read_them(
    demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(questions()) == 20
    for asked in questions():
        assert run_command(["questions", asked.name, "--project", str(demo)]) == 0
        told = capsys.readouterr().out
        assert asked.question in told
        assert "How to read: " in told
        lines = told.splitlines()[1:]
        answered = lines[: next(n for n, line in enumerate(lines) if line.startswith("How to read"))]
        assert len(answered) > 1 or asked.name in MAY_BE_EMPTY, told
        assert "nan" not in " ".join(answered)


def test_the_list_names_them_and_a_wrong_name_is_told(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["questions", "--project", str(demo)]) == 0
    told = capsys.readouterr().out
    assert all(asked.name in told for asked in questions())
    assert run_command(["questions", "confusoin", "--project", str(demo)]) == 2
    assert "'confusoin', perhaps meant as 'confusion'. `siftline questions` lists all" in capsys.readouterr().err
    assert run_command(["questions", "confusion", "--sql", "--project", str(demo)]) == 0
    assert "FROM gold_labels" in capsys.readouterr().out


def test_a_text_of_the_test_split_that_also_stands_in_train_is_found(planted: Lake) -> None:
    assert ask(planted, "leakage-between-splits") == []
    with planted.read() as reader:
        twins = reader.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM items WHERE item_id IN ('i088', 'i089')")
        hashed = reader.scalar("SELECT content_hash FROM items WHERE item_id = 'i001'")
    index = twins.column_names.index("content_hash")
    commit(planted, "leak", Upsert("items", twins.set_column(index, "content_hash", pa.array([hashed, hashed]))))
    [row] = ask(planted, "leakage-between-splits")
    assert row == {
        "split": "test",
        "texts_also_in_train": 2,
        "share": 2 / 30,
        "their_gold_labels": 1,
        "example": "i088",
    }


def test_calibration_is_of_what_was_said_before_anybody_answered(planted: Lake) -> None:
    before = ask(planted, "calibration")
    assert [(row["items"], row["accuracy"]) for row in before] == [(16, 1)]
    assert [row["confidence_from"] for row in before] == [0.8], "not what FLOAT makes of it"
    with planted.read() as reader:
        learned = {
            str(item): (int(gold) + 1) % 3 for item, gold in reader.rows("SELECT item_id, class_id FROM gold_labels")
        }
    commit(planted, "end_model", *predict("later", 9, learned))
    assert ask(planted, "calibration") == before
    with planted.read() as reader:
        assert reader.scalar("SELECT count(*) FROM latest_predictions JOIN gold_labels USING (item_id, class_id)") == 0


def test_calibration_tells_apart_what_was_drawn_at_random(planted: Lake) -> None:
    [row] = ask(planted, "calibration")
    assert (row["at_random"], row["accuracy_at_random"]) == (0, None)
    with planted.read() as reader:
        tasks = reader.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM queue WHERE state = 'answered' LIMIT 3")
    drawn = [{**task, "reason": EXPLORED} for task in tasks.to_pylist()]
    commit(planted, "drawn", Upsert("queue", pa.Table.from_pylist(drawn, schema=tasks.schema)))
    with planted.read() as reader:
        said = reader.scalar("SELECT class_id FROM gold_labels WHERE item_id = ?", [drawn[0]["item_id"]])
    commit(planted, "corrected", answer(drawn[0]["item_id"], (int(said) + 1) % 3, who="ann <b>"))
    [row] = ask(planted, "calibration")
    assert (row["items"], row["accuracy"], row["at_random"], row["accuracy_at_random"]) == (16, 15 / 16, 3, 2 / 3)


def test_annotators_who_disagree_are_told_with_their_kappa(planted: Lake) -> None:
    assert ask(planted, "agreement-between-annotators") == []
    for n, item in enumerate(("i000", "i001", "i002", "i003")):
        commit(planted, f"second {n}", answer(item, n % 3 if n < 3 else 1, who="bob"))
    [row] = ask(planted, "agreement-between-annotators")
    # ann said 0 1 2 0 and bob 0 1 2 1: they agree on 3 of 4; chance gives 1/2 * 1/4 + 1/4 * 1/2 + 1/4 * 1/4 = 5/16.
    assert (row["one"], row["other"], row["items"], row["agreed"]) == ("ann <b>", "bob", 4, 0.75)
    assert row["kappa"] == pytest.approx((3 / 4 - 5 / 16) / (1 - 5 / 16))
    by_name = {row["annotator"]: row for row in ask(planted, "agreement-by-annotator")}
    assert (by_name["bob"]["answers"], by_name["bob"]["shared"]) == (4, 4)


def test_annotators_are_compared_on_what_an_item_shows_now_and_nobody_is_no_one(planted: Lake) -> None:
    with planted.read() as reader:
        now = {
            str(i): int(c) for i, c in reader.rows("SELECT item_id, class_id FROM gold_labels WHERE item_id < 'i004'")
        }
        edited = reader.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM items WHERE item_id < 'i004'")
        sent = reader.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM queue WHERE item_id < 'i004'")
    for item in now:
        commit(planted, f"bob {item}", answer(item, (now[item] + 1) % 3, who="bob"))
    assert ask(planted, "agreement-between-annotators")[0]["agreed"] == 0
    fresh = pa.array([f"new {item}" for item in edited["item_id"].to_pylist()])
    commit(
        planted,
        "edit",
        Upsert("items", edited.set_column(edited.column_names.index("content_hash"), "content_hash", fresh)),
    )
    assert (sent.num_rows, ask(planted, "agreement-between-annotators")) == (4, [])
    by_name = {row["annotator"]: row for row in ask(planted, "agreement-by-annotator")}
    assert (by_name["bob"]["answers"], by_name["bob"]["shared"], by_name["bob"]["agree"]) == (4, 0, None)


def test_the_answers_of_nobody_are_compared_with_no_one(planted: Lake) -> None:
    commit(planted, "nobody", answer("i000", 1, who="unknown"))
    assert ask(planted, "agreement-between-annotators") == []


@pytest.mark.parametrize(
    ("said", "agree"),
    [
        ({"ann": 0, "bob": 1}, {"ann": 0, "bob": 0}),
        ({"ann": 0, "bob": 0}, {"ann": 1, "bob": 1}),
        ({"ann": 0, "bob": 0, "cat": 1}, {"ann": 0.5, "bob": 0.5, "cat": 0}),
        ({"ann": 0, "bob": 1, "cat": 2}, {"ann": 0, "bob": 0, "cat": 0}),
        ({"ann": 0}, {"ann": None}),
    ],
)
def test_agreement_is_with_the_others_and_no_answer_counts_for_itself(
    lake: Lake, said: dict[str, int], agree: dict[str, float | None]
) -> None:
    commit(lake, "classes", Upsert("classes", classes("a", "b", "c")))
    for who, class_id in said.items():
        commit(lake, who, answer("i0", class_id, who=who))
    assert {row["annotator"]: row["agree"] for row in ask(lake, "agreement-by-annotator")} == agree


@pytest.mark.parametrize("again", [False, True], ids=["as drawn", "asked again"])
def test_chosen_items_are_compared_with_those_left_and_without_the_fair_sample(
    lake: Lake, tmp_path: Path, again: bool
) -> None:
    vectors, classes = clusters(60)
    pool = small_pool(lake, tmp_path / "index", vectors, np.eye(3)[classes] * 0.6 + 0.4 / 3)
    estimate_values(lake, pool.index(), ValueConfig())
    select(lake, pool.index(), SelectConfig(project="p", batch=12, budget=50, explore=0.25))
    folder, queue = TaskFolder(tmp_path / "tasks", "p"), QueueConfig(project="p", classes=CLASSES)
    push(lake, folder, queue)
    parts = {row["part"]: row["items"] for row in ask(lake, "chosen-against-pool")}
    assert parts == {"chosen": 9, "left": 48}
    with lake.read() as reader:
        reasons = dict[str, str](reader.rows("SELECT item_id, reason FROM queue"))
    for text in ("edited once", "edited twice") if again else ():
        asked = [item for item, reason in reasons.items() if is_explored(reason)]
        for item in asked:
            change_text(lake, item, f"{text}: {item}")
        assert ask_again(lake, pool.index, AskAgainConfig(project="p", budget=50)).detail == {"edited": 3}
        push(lake, folder, queue)
        with lake.read() as reader:
            reasons = dict[str, str](reader.rows("SELECT item_id, reason FROM queue"))
        assert {reasons[item] for item in asked} == {f"{EXPLORED} {REASONS['edited']}"}
    assert {row["part"]: row["items"] for row in ask(lake, "chosen-against-pool")} == parts
    asked = list(reasons)
    label(pool, dict.fromkeys(asked, 0))
    groups = ask(lake, "value-against-outcome")
    assert sum(int(str(row["items"])) for row in groups) == 9
    assert all(float(str(row["lowest_value"])) > 0 for row in groups)


def test_items_that_people_were_asked_about_again_say_nothing_about_their_value(planted: Lake) -> None:
    """Their row holds the fresh task, whose suggestion is none or one for another text."""
    before, parts = ask(planted, "value-against-outcome"), ask(planted, "chosen-against-pool")
    with planted.read() as reader:
        task = reader.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM queue WHERE state = 'answered' LIMIT 1")
    row = task.to_pylist()[0]
    earlier = {name: [row[name]] for name in ("item_id", "project", "task_id", "content_hash")}
    fresh = {**row, "prediction": -1, "confidence": 0.0, "task_id": f"{row['task_id']} again"}
    commit(
        planted,
        "ask_again",
        Upsert("queue", pa.Table.from_pylist([fresh], schema=task.schema)),
        Upsert("asked_before", pa.table({**earlier, "round": pa.array([1], pa.int32()), "why": ["second_look"]})),
    )
    groups = ask(planted, "value-against-outcome")
    items = [sum(int(str(group["items"])) for group in found) for found in (before, groups)]
    assert items == [16, 15]
    left = [sum(int(str(row["items"])) for row in found) for found in (parts, ask(planted, "chosen-against-pool"))]
    with planted.read() as reader:
        assert left[0] - left[1] == reader.scalar('SELECT count(*) FROM "values" WHERE item_id = ?', [row["item_id"]])
    assert left[1] < left[0]


def test_a_few_votes_are_no_sign_that_a_function_has_decayed(lake: Lake) -> None:
    """One wrong vote after four right ones was 2.2 standard errors, and happens to one good function of twelve."""
    with lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Upsert("classes", classes("a", "b")), Upsert("items", items(70))])
    say(lake, {(f"i{row:05d}", "ann"): 0 for row in range(70)})
    votes = {
        "few": dict.fromkeys(range(4), 0) | {40: 1},
        "many": {row: int(row >= 35 and row % 2) for row in range(70)},
    }
    rows = [
        {"item_id": f"i{row:05d}", "lf_name": name, "lf_version": "1", "input_hash": "", "vote": vote}
        for name, cast in votes.items()
        for row, vote in cast.items()
    ]
    commit(lake, "vote", Upsert("lf_votes", pa.Table.from_pylist(rows)))
    many, few = ask(lake, "decayed-functions")
    assert (many["lf_name"], many["older_accuracy"]) == ("many", 1)
    assert float(str(many["z"])) > 4
    # (5/6 - 1/3) / sqrt(5/6 * 1/6 / 6 + 1/3 * 2/3 / 3)
    assert few["z"] == pytest.approx(0.5 / (5 / 216 + 2 / 27) ** 0.5)


def test_a_class_that_came_in_is_no_loss_of_accuracy(planted: Lake) -> None:
    assert [row["gain"] for row in ask(planted, "learning-curve")] == [None, pytest.approx(0.004), pytest.approx(0.004)]
    added = pa.table({"class_id": pa.array([3], pa.int32()), "name": ["tariff"]})
    with planted.stage("ingest", version=1, inputs=(), params={"added": "tariff"}) as stage:
        stage.commit([Upsert("classes", added)])
    for number in (3, 4):
        with planted.stage("end_model", version=1, inputs=(), params={"cycle": number}) as stage:
            last = stage.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM models WHERE model_id = 'm2'").to_pylist()
            model = last[0] | {"model_id": f"m{number}", "sequence": number + 1, "gold_labels": 16 + number}
            stage.commit([Append("models", pa.Table.from_pylist([model]))])
        with planted.stage("evaluate", version=1, inputs=(), params={"cycle": number}) as stage:
            scored = stage.arrow(
                "SELECT * EXCLUDE (run_id, committed_at) FROM metrics WHERE name = 'accuracy' AND series = 'siftline'"
            ).to_pylist()[0]
            scored |= {"series": "end_model", "value": number / 10, "detail": f'{{"model_id": "m{number}"}}'}
            stage.commit([Append("metrics", pa.Table.from_pylist([scored]))])
    added_since = ask(planted, "learning-curve")[3:]
    assert [row["test_accuracy"] for row in added_since] == [0.3, 0.4]
    assert [row["gain"] for row in added_since] == [None, pytest.approx(0.1)]
    assert [row["per_100_labels"] for row in added_since] == [None, pytest.approx(10)]


def test_costs_add_up_to_all_hours_and_labels_to_all_items(planted: Lake) -> None:
    hours = sum(float(str(row["hours"])) for row in ask(planted, "cost-per-class"))
    assert hours == pytest.approx(16 * 12.5 / 3600)
    labels = ask(planted, "label-balance")
    assert sum(int(str(row["gold"])) + int(str(row["predicted"])) for row in labels) == 90
    assert sum(int(str(row["gold"])) for row in labels) == 16


def test_an_answer_of_unknown_time_makes_no_class_cheaper(planted: Lake) -> None:
    before = {str(row["label"]): row for row in ask(planted, "cost-per-class")}
    outcome = ask(planted, "value-against-outcome")
    with planted.read() as reader:
        answers = reader.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM annotations WHERE action = 'labelled'")
    untimed = answers.set_column(answers.column_names.index("seconds"), "seconds", pa.array([0.0] * len(answers)))
    twice = untimed.set_column(
        answers.column_names.index("annotation_id"),
        "annotation_id",
        pa.array([f"again {n}" for n in range(len(answers))]),
    )
    commit(planted, "untimed", Append("annotations", twice))
    times = ("median_seconds", "p90_seconds", "hours", "share_of_time")
    for row in ask(planted, "cost-per-class"):
        assert [row[name] for name in times] == [before[str(row["label"])][name] for name in times]
    commit(planted, "no time at all", Append("annotations", untimed))
    assert {row["median_seconds"] for row in ask(planted, "cost-per-class")} == {None}
    assert {row["share_of_time"] for row in ask(planted, "cost-per-class")} == {None}
    assert outcome
    assert {row["seconds"] for row in ask(planted, "value-against-outcome")} == {None}


def go_on(monkeypatch: pytest.MonkeyPatch, **time: int) -> None:
    """Let commits be of a later time than now."""

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + timedelta(**time)

    monkeypatch.setattr("warehouse.commits.transaction.datetime", Later)


def test_waiting_begins_with_the_selection_and_not_with_an_earlier_estimate(
    planted: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    with planted.read() as reader:
        value = reader.arrow('SELECT * EXCLUDE (run_id, committed_at) FROM "values" WHERE cycle = 3 LIMIT 1')
        task = reader.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM queue WHERE cycle = 3 LIMIT 1")
    for table, rows in (("values", value), ("queue", task)):
        place = rows.column_names.index("cycle")
        changed = rows.set_column(place, "cycle", pa.array([4], pa.int32()))
        if table == "queue":
            go_on(monkeypatch, hours=100)
        with planted.stage("select" if table == "queue" else "value", version=2, inputs=()) as stage:
            stage.commit([Upsert(table, changed)], detail={"cycle": 4})
    at = datetime.now(UTC) + timedelta(hours=103)
    commit(planted, "collect", answer(str(task["item_id"][0]), 0, at=at))
    row = next(row for row in ask(planted, "waiting-time") if row["cycle"] == 4)
    assert (row["tasks"], row["waiting"]) == (1, 1)
    assert row["median_hours"] == pytest.approx(3, abs=0.1)
    with planted.read() as reader:
        asked = "SELECT * EXCLUDE (run_id, committed_at) FROM queue WHERE state = 'answered' LIMIT 1"
        again = {**reader.arrow(asked).to_pylist()[0], "cycle": 4}
    earlier = {name: [again[name]] for name in ("item_id", "project", "task_id", "content_hash")}
    commit(
        planted,
        "ask_again",
        Upsert("queue", pa.Table.from_pylist([again], schema=task.schema)),
        Upsert("asked_before", pa.table({**earlier, "round": pa.array([1], pa.int32()), "why": ["disagreement"]})),
    )
    row = next(row for row in ask(planted, "waiting-time") if row["cycle"] == 4)
    assert row["tasks"] == 2
    assert row["median_hours"] == pytest.approx(3, abs=0.1), "its first answer is one to an earlier task"


def test_no_task_waited_for_less_than_nothing(planted: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the clock was ahead at the selection, and was put right before the answer."""
    with planted.read() as reader:
        task = reader.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM queue WHERE cycle = 3 LIMIT 1")
    go_on(monkeypatch, days=365)
    with planted.stage("select", version=2, inputs=()) as stage:
        changed = task.set_column(task.column_names.index("cycle"), "cycle", pa.array([4], pa.int32()))
        stage.commit([Upsert("queue", changed)], detail={"cycle": 4})
    commit(planted, "collect", answer(str(task["item_id"][0]), 0, at=datetime.now(UTC)))
    row = next(row for row in ask(planted, "waiting-time") if row["cycle"] == 4)
    assert (row["tasks"], row["waiting"], row["median_hours"]) == (1, 1, None)


def test_an_edit_does_not_move_the_day_an_item_came_in(planted: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    [before] = ask(planted, "stream-drift")
    with planted.read() as reader:
        edited = reader.arrow("SELECT * EXCLUDE (run_id, committed_at, changed_at) FROM items ORDER BY item_id LIMIT 9")
    place = edited.column_names.index("metadata")
    go_on(monkeypatch, days=9)
    commit(planted, "edit", Upsert("items", edited.set_column(place, "metadata", pa.array(['{"a":1}'] * 9))))
    [row] = ask(planted, "stream-drift")
    assert (row["day"], row["items"]) == (before["day"], int(str(before["items"])) - 9)


def test_a_file_says_its_question_and_how_to_read_it() -> None:
    text = "-- Question: What is\n--     it?\n-- How to read: Like\n--     this.\nSELECT 1\n"
    assert parse("x", text) == Question("x", "What is it?", "Like this.", "SELECT 1")
    for bad in ("SELECT 1", "-- Question: What?\nSELECT 1"):
        with pytest.raises(AssertionError, match=r"x\.sql"):
            parse("x", bad)


def test_a_gold_label_is_for_the_text_that_was_sent(lake: Lake) -> None:
    commit(
        lake, "classes", Upsert("classes", pa.table({"class_id": pa.array([0, 1, 2], pa.int32()), "name": [*"abc"]}))
    )
    ids = ["same", "edited", "other project", "never queued"]
    items = [{"item_id": i, "content": i, "content_hash": "h2", "modality": "text", "source": "s", "position": n,
              "metadata": "{}", "split": "train"} for n, i in enumerate(ids)]  # fmt: skip
    sent = [("same", "p <b>", "h2"), ("edited", "p <b>", "h1"), ("other project", "q", "h1")]
    queue = [{"item_id": i, "project": project, "state": "answered", "cycle": 1, "rank": 1, "value": 0.5, "reason": "",
              "prediction": 0, "confidence": 0.5, "content_hash": sent_hash, "task_id": ""}
             for i, project, sent_hash in sent]  # fmt: skip
    earlier = [{**item, "content_hash": "h1"} for item in items]
    commit(lake, "ingest", Upsert("items", pa.Table.from_pylist(earlier)))
    commit(lake, "edit", Upsert("items", pa.Table.from_pylist(items)))
    commit(lake, "select", Upsert("queue", pa.Table.from_pylist(queue)))
    commit(lake, "collect", *[answer(i, n % 3) for n, i in enumerate([*ids, "no item"])])
    with lake.read() as reader:
        assert reader.rows("SELECT item_id, class_id, annotations FROM gold_labels ORDER BY item_id") == [
            ("never queued", 0, 1), ("no item", 1, 1), ("other project", 2, 1), ("same", 0, 1),
        ]  # fmt: skip
        for item, found in (("same", 1), ("edited", 0)):
            assert reader.scalar("SELECT count(*) FROM gold_labels WHERE item_id = ?", [item]) == found


def test_a_question_about_one_item_reads_its_rows_only(lake: Lake) -> None:
    with lake.read() as reader:
        ((_, plan),) = reader.rows("EXPLAIN SELECT * FROM gold_labels WHERE item_id = 'x'")
    assert plan.count("item_id='x'") == 4  # annotations, asked_before, queue and items


def test_the_data_dictionary_is_current() -> None:
    assert (ROOT / PAGE).read_text("utf-8") == page(), "run: python -m warehouse.schema.dictionary"


@pytest.mark.parametrize(
    ("view", "column", "words"),
    [
        ("training_set", "probs", "also where people gave the label"),
        ("lf_applied", "vote", "-1 where it abstained"),
        ("gold_labels", "seconds", "in all"),
        ("gold_labels", "updated_at", "the latest of these answers"),
        ("cycle_summary", "cycle", "How many end models came before"),
        ("cycle_summary", "test_accuracy", "that this model was scored with"),
        ("annotators", "median_seconds", "whose time is known"),
        ("annotations", "seconds", "0 where unknown"),
        ("latest_predictions", "probs", "they sum to 1"),
        ("latest_predictions", "class_id", "Most probable class"),
        ("gold_labels", "class_id", "-1 in a multi-label project"),
        ("opinions", "class_id", "-1 in a multi-label project"),
        ("lf_summary", "votes", "of the train split"),
        ("disagreements", "confidence", "The end model's"),
        ("annotators", "labelled", "edited since"),
    ],
)
def test_the_dictionary_tells_what_a_column_means_in_its_view(view: str, column: str, words: str) -> None:
    [row] = [r for r in page().split(f"### {view}\n")[1].split("### ")[0].splitlines() if r.startswith(f"| `{column}`")]
    assert words in row


def test_a_column_that_may_be_left_out_says_null_and_an_empty_text_is_one(planted: Lake) -> None:
    assert all("NULL" in c.comment for table in TABLES for c in table.all_columns if c.optional or c.on_replacement)
    with planted.read() as reader:
        for table in TABLES:
            for column in table.all_columns:
                if re.search(r"\bempty\b", column.comment):
                    assert column.type == "VARCHAR", f"{table.name}.{column.name}: {column.comment}"
                    assert not reader.scalar(f'SELECT count(*) FROM "{table.name}" WHERE "{column.name}" IS NULL')


def test_what_the_dictionary_says_to_ask_gives_its_words(lake: Lake) -> None:
    columns, views = re.findall(r"`(select [^`]+)`", page().split("## Views")[0])
    with connect(lake.path) as reader:
        told = {(table, column): words for table, column, words in reader.rows(columns)}
        described = dict(reader.rows(views))
    assert all(told[table.name, column.name] == column.comment for table in TABLES for column in table.all_columns)
    assert all(words for words in told.values())
    assert described.keys() >= {view.name for view in VIEWS}
    assert all(described[view.name] == view.comment for view in VIEWS)
