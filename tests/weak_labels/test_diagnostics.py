"""Figures of functions equal a count by hand; a preview shows hits and writes nothing."""

import dataclasses
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from tests.weak_labels.lf_helpers import CLASSES, add_items, add_vectors, config, encode, run_vote
from warehouse import Append, Lake, Upsert
from weak_labels import ItemBatch, keywords, nearest, vectorized
from weak_labels.diagnostics import FunctionFigures, lf_report, preview, wilson

GOAL = keywords("sports", ["goal"], name="goal")
GAME = keywords("sports", ["game"], name="game")
VOTE = keywords("politics", ["vote"], name="vote")
TEXTS = {"a": "goal game", "b": "goal vote", "c": "goal", "d": "nothing"}


@vectorized("science", name="broken")
def broken(batch: ItemBatch) -> object:
    raise ValueError("never works")


def add_classes_and_gold(lake: Lake, gold: dict[str, int]) -> None:
    classes = pa.table({"class_id": pa.array(range(3), pa.int32()), "name": list(CLASSES)})
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
            "class_id": pa.array(list(gold.values()), pa.int32()),
            "simulated": [False] * n,
            "created_at": times,
            "updated_at": times,
            "seconds": [1.0] * n,
        }
    )
    with lake.stage("collect", version=1, inputs=()) as stage:
        stage.commit([Upsert("classes", classes), Append("annotations", annotations)])


def report(lake: Lake) -> dict[str, FunctionFigures]:
    return {figures.name: figures for figures in lf_report(lake)}


def test_figures_equal_a_count_by_hand(lake: Lake) -> None:
    add_items(lake, TEXTS)
    add_items(lake, {"t": "goal vote game"}, split="test")
    add_classes_and_gold(lake, {"a": 0, "b": 1, "d": 0})
    run_vote(lake, [GOAL, GAME, VOTE])
    rows = report(lake)
    assert list(rows) == ["goal", "game", "vote"]
    goal = rows["goal"]
    assert (goal.polarity, goal.coverage, goal.overlap, goal.conflict) == (("sports",), 0.75, 0.5, 0.25)
    assert (goal.gold_votes, goal.accuracy) == (2, 0.5)
    assert (goal.accuracy_low, goal.accuracy_high) == pytest.approx(wilson(1, 2))
    vote = rows["vote"]
    assert (vote.polarity, vote.coverage, vote.overlap, vote.conflict, vote.accuracy) == (
        ("politics",),
        0.25,
        0.25,
        0.25,
        1,
    )
    assert (rows["game"].conflict, rows["game"].faults, rows["game"].switched_off) == (0, 0, False)


def test_no_gold_no_accuracy(lake: Lake) -> None:
    add_items(lake, TEXTS)
    run_vote(lake, [GOAL])
    goal = report(lake)["goal"]
    assert (goal.gold_votes, goal.accuracy, goal.accuracy_low, goal.accuracy_high) == (0, None, None, None)


def test_function_that_was_switched_off_is_listed(lake: Lake) -> None:
    add_items(lake, TEXTS)
    run_vote(lake, [GOAL, broken], min_faults=1)
    assert report(lake)["broken"].switched_off
    assert report(lake)["broken"].coverage == 0
    assert report(lake)["broken"].faults == 3


def test_empty_warehouse(lake: Lake) -> None:
    assert lf_report(lake) == []
    assert preview(lake, [GOAL], config())[0].coverage == 0


def test_preview_counts_hits_and_shows_examples(lake: Lake) -> None:
    add_items(lake, TEXTS)
    before = lake.snapshot()
    goal, fails = preview(lake, [GOAL, broken], config(), examples=2)
    assert (goal.name, goal.items, goal.hits, goal.coverage, goal.polarity) == ("goal", 4, 3, 0.75, ("sports",))
    assert [(e.item_id, e.label, e.text) for e in goal.examples] == [
        ("a", "sports", "goal game"),
        ("b", "sports", "goal vote"),
    ]
    assert (fails.hits, fails.faults, fails.first_fault) == (0, 4, "raised: ValueError: never works")
    assert lake.snapshot() == before


def test_preview_of_some_items_takes_the_same_ones(lake: Lake) -> None:
    add_items(lake, {f"i{n:03}": "goal" for n in range(50)})
    add_items(lake, {"t": "goal"}, split="test")
    first, second = (preview(lake, [GOAL], config(), items=10, examples=10)[0] for _ in range(2))
    assert first == second
    assert first.items == 10
    assert [e.item_id for e in first.examples] != [f"i{n:03}" for n in range(10)]
    assert preview(lake, [GOAL], config(), items=None)[0].items == 50


def test_preview_of_functions_on_vectors(lake: Lake) -> None:
    near = nearest({"science": ["goal"]}, radius=0.1, name="near")
    add_items(lake, TEXTS)
    assert preview(lake, [near], config(), encode=encode)[0].items == 0
    add_vectors(lake)
    result = preview(lake, [near, dataclasses.replace(near, name="again")], config(batch_items=2), encode=encode)
    assert [(p.items, p.hits) for p in result] == [(4, 1), (4, 1)]


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (8, 10, 0.4902, 0.9433)]
)
def test_wilson_equals_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=1e-4)
