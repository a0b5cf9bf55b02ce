"""Figures of functions equal a count by hand, on all items and on a slice; examples show where they disagree."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from flows.cli import lf
from flows.cli.main import run_command
from flows.cli.terminal import console
from flows.cli.terminal.console import Plain
from tests.weak_labels.lf_helpers import CLASSES, add_items, run_vote
from warehouse import Append, Lake, SettingsError, Upsert, matrix_to_list_array
from warehouse.queries.open import check_condition
from warehouse.queries.reader import Matrix, Reader
from warehouse.queries.sandbox import connect_locked_down
from warehouse.session.duckdb import open_in_utc
from weak_labels import ItemBatch, keywords, vectorized
from weak_labels.analysis.lf_report import FunctionFigures, Report, lf_report, wilson

GOAL = keywords("sports", ["goal"], name="goal")
GAME = keywords("sports", ["game"], name="game")
VOTE = keywords("politics", ["vote"], name="vote")
TEXTS = {"a": "goal game", "b": "goal vote", "c": "goal", "d": "nothing"}


@vectorized("science", name="broken")
def broken(batch: ItemBatch) -> object:
    raise ValueError("never works")


def add_classes_and_gold(lake: Lake, gold: Mapping[str, int | list[int]], names: Sequence[str] = CLASSES) -> None:
    """Labels that one person gave; lists in a multi-label project."""
    classes = pa.table({"class_id": pa.array(range(3), pa.int32()), "name": list(names)})
    several = {item: label for item, label in gold.items() if isinstance(label, list)}
    if several:
        classes = classes.append_column("multi_label", pa.array([True] * 3))
    n, now = len(gold), datetime(2026, 1, 1, tzinfo=UTC)
    times = pa.array([now] * n, pa.timestamp("us", "UTC"))
    annotations = pa.table(
        {
            "annotation_id": [f"n{item}" for item in gold],
            "item_id": list(gold),
            "project": ["p"] * n,
            "task_id": list(gold),
            "annotator": ["me"] * n,
            "action": ["labelled"] * n,
            "class_id": pa.array([-1 if item in several else label for item, label in gold.items()], pa.int32()),
            "simulated": [False] * n,
            "created_at": times,
            "updated_at": times,
            "seconds": [1.0] * n,
        }
    )
    if several:
        annotations = annotations.append_column("class_ids", pa.array(list(several.values()), pa.list_(pa.int32())))
    with lake.stage("collect", version=1, inputs=()) as stage:
        stage.commit([Upsert("classes", classes), Append("annotations", annotations)])


def add_model(
    lake: Lake,
    stage: str,
    table: str,
    id_name: str,
    probs: dict[str, list[float]],
    *,
    kind: str = "test",
    gold_labels: int = 0,
) -> None:
    matrix = matrix_of(list(probs.values()))
    rows = {"item_id": list(probs), id_name: [stage] * len(probs), "probs": matrix_to_list_array(matrix)}
    if table == "weak_labels":
        rows["votes"] = pa.array([1] * len(probs), pa.int32())
    else:
        rows["class_id"] = pa.array(matrix.argmax(axis=1), pa.int32())
        rows["confidence"] = pa.array(matrix.max(axis=1))
    model = {
        "model_id": [stage],
        "stage": [stage],
        "kind": [kind],
        "gold_labels": [gold_labels],
        "items": [1],
        "sequence": [1],
        "detail": ["{}"],
    }
    with lake.stage(stage, version=1, inputs=()) as run:
        run.commit([Upsert(table, pa.table(rows)), Upsert("models", pa.table(model))])


def matrix_of(rows: list[list[float]]) -> Matrix:
    import numpy as np

    return np.array(rows, np.float32)


def report(lake: Lake, where: str | None = None) -> Report:
    with lake.read() as reader:
        return lf_report(reader, where=where)


def by_name(found: Report) -> dict[str, FunctionFigures]:
    return {figures.name: figures for figures in found.functions}


def test_figures_equal_a_count_by_hand(lake: Lake) -> None:
    add_items(lake, TEXTS)
    add_items(lake, {"t": "goal vote game"}, split="test")
    add_classes_and_gold(lake, {"a": 0, "b": 1, "d": 0})
    run_vote(lake, [GOAL, GAME, VOTE])
    found = report(lake)
    assert (found.items, found.gold, found.covered) == (4, 3, 0.75)
    rows = by_name(found)
    assert list(rows) == ["goal", "game", "vote"]
    goal = rows["goal"]
    assert (goal.polarity, goal.applied_to, goal.coverage) == (("sports",), 4, 0.75)
    assert (goal.overlap, goal.conflict, goal.alone) == (0.5, 0.25, 0.25)
    assert (goal.gold_votes, goal.accuracy) == (2, 0.5)
    assert (goal.accuracy_low, goal.accuracy_high) == pytest.approx(wilson(1, 2))
    vote = rows["vote"]
    assert (vote.polarity, vote.coverage, vote.overlap, vote.conflict) == (("politics",), 0.25, 0.25, 0.25)
    assert vote.accuracy == 1
    assert (rows["game"].conflict, rows["game"].faults, rows["game"].switched_off) == (0, 0, False)
    # Without goal, a is still right; b goes from a tie of two to right: half an item of three is lost by having it.
    assert goal.gain == pytest.approx((0.5 - 1) / 3)
    assert vote.gain == pytest.approx((0.5 - 0) / 3)
    assert rows["game"].gain == 0


def test_a_gain_of_nothing_is_zero_and_not_what_thirds_leave(lake: Lake) -> None:
    add_items(lake, {f"i{n}": "goal" for n in range(6)})
    add_classes_and_gold(lake, {f"i{n}": 0 if n % 3 == 0 else 1 for n in range(6)})
    run_vote(lake, [GOAL])
    gain = by_name(report(lake))["goal"].gain
    assert str(gain) == "0.0", "a table would show 1.2e-17"


def test_a_terminal_has_a_column_of_faults_where_there_are_some(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_command(["init", str(tmp_path / "p"), "--classes", ",".join(CLASSES)]) == 0
    with Lake(tmp_path / "p" / "lake") as lake:
        add_items(lake, TEXTS)
        add_classes_and_gold(lake, {"a": 0})
        run_vote(lake, [GOAL])
    command = ["lf", "report", "--project", str(tmp_path / "p")]
    capsys.readouterr()
    assert run_command(command) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("gain\tfaults"), "a program reads columns that stay"
    for module in (console, lf):
        monkeypatch.setattr(module, "out", Plain(highlight=False, force_terminal=True, width=200))
    assert run_command(command) == 0
    well = capsys.readouterr().out
    with Lake(tmp_path / "p" / "lake") as lake:
        run_vote(lake, [GOAL, broken])
    assert run_command(command) == 0
    ill = capsys.readouterr().out
    assert "gain" in well
    assert "1 labelled by people; no faults" in well
    assert well.count("faults") == 1, "no column of zeros"
    assert "no faults" not in ill
    assert "faults" in ill


def test_figures_are_those_of_the_view(lake: Lake) -> None:
    add_items(lake, TEXTS)
    add_classes_and_gold(lake, {"a": 0, "b": 1})
    run_vote(lake, [GOAL, GAME, VOTE, broken], min_faults=1)
    with lake.read() as reader:
        view = reader.arrow("SELECT * FROM lf_summary").to_pylist()
    assert {row["lf_name"] for row in view} == {"goal", "game", "vote", "broken"}
    for row, figures in zip(view, report(lake).functions, strict=True):
        names = ("applied_to", "coverage", "overlap", "conflict", "gold_votes", "faults", "switched_off")
        assert {n: getattr(figures, n) for n in names} == {n: row[n] for n in names}
        assert (figures.name, figures.accuracy) == (row["lf_name"], row["gold_accuracy"])
        assert list(figures.polarity) == (row["polarity"] or [])


def queue(lake: Lake, cycle: int, strategy: str, values: Mapping[str, float]) -> None:
    """Items that were selected in a cycle, with their values."""
    n = len(values)
    rows = {"item_id": list(values), "project": ["p"] * n, "state": ["answered"] * n, "value": list(values.values())}
    rows |= {"cycle": pa.array([cycle] * n, pa.int32()), "rank": pa.array(range(n), pa.int32()), "reason": [""] * n}
    rows |= {"prediction": pa.array([-1] * n, pa.int32()), "confidence": pa.array([0.0] * n, pa.float32())}
    rows |= {"content_hash": [""] * n, "task_id": list(values)}
    with lake.stage("select", version=1, inputs=(), params={"cycle": cycle}) as stage:
        stage.commit([Upsert("queue", pa.table(rows))], detail={"cycle": cycle, "strategy": strategy})


def test_labelled_items_that_were_selected_for_their_value_are_counted(lake: Lake) -> None:
    add_items(lake, TEXTS)
    run_vote(lake, [GOAL])
    queue(lake, 1, "value", {"a": 0.5, "b": 0.0})  # b is of the fair sample
    queue(lake, 2, "random", {"d": 0.7})
    add_classes_and_gold(lake, {"a": 0, "b": 1, "c": 0, "d": 0})
    found = report(lake)
    assert (found.gold, found.selected) == (4, 1)
    found = report(lake, "item_id <> 'a'")
    assert (found.gold, found.selected) == (3, 0)


@pytest.mark.parametrize("selected", [True, False])
def test_the_command_says_that_selected_items_are_no_fair_judges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], selected: bool
) -> None:
    (tmp_path / "siftline.toml").write_text(
        '[project]\nname = "p"\nclasses = ["sports", "politics", "science"]\n[[sources]]\nname = "s"\npath = "s.csv"\n',
        "utf-8",
    )
    with Lake(tmp_path / "lake") as lake:
        add_items(lake, TEXTS)
        run_vote(lake, [GOAL])
        queue(lake, 1, "value" if selected else "random", {"a": 0.5, "b": 0.4})
        add_classes_and_gold(lake, {"a": 1, "b": 1})
    assert run_command(["lf", "report", "--project", str(tmp_path)]) == 0
    said = (
        "2 of the labelled items were selected, mostly as hard ones. On all items functions are mostly right more often"
    )
    assert (said in capsys.readouterr().out) == selected


def test_no_gold_no_accuracy(lake: Lake) -> None:
    add_items(lake, TEXTS)
    run_vote(lake, [GOAL])
    goal = by_name(report(lake))["goal"]
    assert (goal.gold_votes, goal.accuracy, goal.accuracy_low, goal.gain, goal.estimated_accuracy) == (0, *[None] * 4)


def test_function_that_was_switched_off_is_listed(lake: Lake) -> None:
    add_items(lake, TEXTS)
    run_vote(lake, [GOAL, broken], min_faults=1)
    row = by_name(report(lake))["broken"]
    assert (row.switched_off, row.coverage, row.faults) == (True, 0, 2), "that it is off is no fault of an item"
    with lake.read() as reader:
        asked = reader.rows("SELECT count(*) FROM lf_applied WHERE lf_name = 'broken'")
        assert reader.rows("SELECT applied_to FROM lf_summary WHERE lf_name = 'broken'") == asked == [(0,)]
    assert row.applied_to == 0
    assert "never works" in row.why_off


def test_an_item_that_a_function_failed_on_is_not_one_it_was_applied_to(lake: Lake) -> None:
    @vectorized("sports", name="some")
    def some(batch: ItemBatch) -> list[bool]:
        return [1 / (len(text) - 4) != 0 for text in batch.texts]

    add_items(lake, TEXTS)
    add_items(lake, {"t": "four"}, split="test")
    run_vote(lake, [some])
    row = by_name(report(lake))["some"]
    assert (row.applied_to, row.coverage, row.faults) == (3, 1.0, 1)
    elsewhere = by_name(report(lake, "item_id = 'a'"))["some"]
    assert (elsewhere.applied_to, elsewhere.faults) == (1, 0)
    with lake.read() as reader:
        assert reader.rows("SELECT applied_to, faults FROM lf_summary") == [(3, 1)]


def test_estimate_is_the_label_models_mean_probability(lake: Lake) -> None:
    add_items(lake, TEXTS)
    add_classes_and_gold(lake, {})
    run_vote(lake, [GOAL, VOTE])
    probs = {"a": [0.8, 0.1, 0.1], "b": [0.3, 0.6, 0.1], "c": [0.7, 0.2, 0.1], "d": [0.4, 0.3, 0.3]}
    add_model(lake, "label_model", "weak_labels", "label_model_id", probs)
    rows = by_name(report(lake))
    assert rows["goal"].estimated_accuracy == pytest.approx((0.8 + 0.3 + 0.7) / 3)
    assert rows["vote"].estimated_accuracy == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("kind", "learned", "estimate"),
    [("majority", 0, None), ("majority", 1, None), ("snorkel", 1, None), ("anchored", 0, None), ("anchored", 1, 1)],
)
def test_a_function_whose_own_votes_are_all_there_is_has_no_estimate(
    kind: str, learned: int, estimate: float | None, lake: Lake
) -> None:
    """Its own votes come back to it from a majority: 100%, beside labels of people that say otherwise."""
    add_items(lake, TEXTS)
    add_classes_and_gold(lake, {"a": 1})
    run_vote(lake, [GOAL])
    probs = {item: [1.0, 0.0, 0.0] for item in "abcd"}
    add_model(lake, "label_model", "weak_labels", "label_model_id", probs, kind=kind, gold_labels=learned)
    row = by_name(report(lake))["goal"]
    assert (row.accuracy, row.estimated_accuracy) == (0, estimate)


def test_pairs_that_say_the_same_are_named(lake: Lake) -> None:
    add_items(lake, {f"i{n:02}": ("goal game" if n < 12 else "goal") + (" vote" if n % 2 else "") for n in range(20)})
    run_vote(lake, [GOAL, GAME, VOTE])
    pairs = report(lake).pairs
    assert [(p.left, p.right, p.items, p.agreement, p.overlap) for p in pairs] == [("game", "goal", 12, 1.0, 0.6)]


def test_pairs_of_many_items_are_counted_on_some_and_told_for_all(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weak_labels.analysis.lf_report.PAIR_ITEMS", 100)
    add_items(lake, {f"i{n:03}": "goal game" for n in range(400)})
    run_vote(lake, [GOAL, GAME])
    [pair] = report(lake).pairs
    assert 300 < pair.items < 500
    assert (pair.agreement, pair.overlap) == (1, 1)


def test_items_where_functions_disagree(lake: Lake) -> None:
    add_items(lake, TEXTS)
    add_classes_and_gold(lake, {"c": 2})
    run_vote(lake, [GOAL, GAME, VOTE])
    probs = {"a": [0.05, 0.9, 0.05], "b": [0.5, 0.4, 0.1], "c": [0.9, 0.05, 0.05]}
    add_model(lake, "end_model", "predictions", "end_model_id", probs)
    found = {d.against: d for d in report(lake).disagreements}
    assert {against: d.item_id for against, d in found.items()} == {"each other": "b", "the model": "a", "people": "c"}
    assert found["each other"].votes == {"goal": "sports", "vote": "politics"}
    assert (found["the model"].predicted, found["the model"].gold) == ("politics", "")
    assert (found["people"].predicted, found["people"].gold, found["people"].text) == ("sports", "science", "goal")


class TestSlice:
    def test_the_same_figures_on_some_items(self, lake: Lake) -> None:
        add_items(lake, TEXTS)
        add_classes_and_gold(lake, {"a": 0, "b": 1})
        run_vote(lake, [GOAL, VOTE])
        found = report(lake, "length(content) > 4 -- longer ones")
        assert (found.items, found.gold) == (3, 2)
        goal = by_name(found)["goal"]
        assert (goal.applied_to, goal.coverage) == (3, pytest.approx(2 / 3))

    @pytest.mark.parametrize(
        "where", ["contnt = 'a'", "length(content", "true) UNION SELECT 1", "1; DROP TABLE items", " "]
    )
    def test_what_is_no_condition_is_refused(self, lake: Lake, where: str) -> None:
        with pytest.raises(SettingsError, match="is no condition over items"):
            report(lake, where)

    def test_a_key_taken_out_of_a_truth_value_is_told_with_the_way_out(self) -> None:
        with open_in_utc() as connection:
            check_condition(connection, "length(content) < 9 AND (metadata->>'desk') = 'x'")
            with pytest.raises(SettingsError, match=r"is no condition: .*brackets.*AND \(metadata->>'key'\) = 'x'"):
                check_condition(connection, "length(content) < 9 AND metadata->>'desk' = 'x'")

    def test_a_typed_condition_reaches_the_warehouse_only(self, lake: Lake, tmp_path) -> None:  # type: ignore[no-untyped-def]
        add_items(lake, TEXTS)
        run_vote(lake, [GOAL])
        secret = tmp_path / "secret.csv"
        secret.write_text("a\n1\n")
        with Reader(connect_locked_down(lake.path)) as reader:
            assert lf_report(reader, where="length(content) > 4").items == 3
            with pytest.raises(SettingsError, match="is no condition"):
                lf_report(reader, where=f"EXISTS (FROM read_csv('{secret}'))")

    def test_a_slice_without_items_is_said_and_its_zeros_are_not_shown(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "siftline.toml").write_text(
            '[project]\nname = "p"\nclasses = ["sports", "politics", "science"]\n'
            '[[sources]]\nname = "s"\npath = "s.csv"\n',
            "utf-8",
        )
        with Lake(tmp_path / "lake") as lake:
            add_items(lake, TEXTS)
            add_items(lake, {"t": "goal"}, split="test")
            add_classes_and_gold(lake, {"a": 0})
            run_vote(lake, [GOAL])
        assert run_command(["lf", "report", "--project", str(tmp_path), "--where", "split = 'test'"]) == 0
        said = capsys.readouterr()
        assert said.out == ""
        assert "No item of the train split is one where split = 'test'." in said.err


def test_empty_warehouse(lake: Lake) -> None:
    found = report(lake)
    assert (found.items, found.functions, found.pairs, found.disagreements) == (0, [], [], [])


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (8, 10, 0.4902, 0.9433)]
)
def test_wilson_equals_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=1e-4)
