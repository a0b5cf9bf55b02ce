"""A preview shows what functions would hit and writes nothing."""

import dataclasses
import time
from typing import Any

from tests.weak_labels.lf_helpers import add_items, add_vectors, config, encode
from warehouse import Lake
from weak_labels import ItemBatch, keywords, nearest, vectorized
from weak_labels.analysis.preview import preview
from weak_labels.functions.types import LabelingFunction

GOAL = keywords("sports", ["goal"], name="goal")
TEXTS = {"a": "goal game", "b": "goal vote", "c": "goal", "d": "nothing"}


@vectorized("science", name="broken")
def broken(batch: ItemBatch) -> object:
    raise ValueError("never works")


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


def test_a_function_that_hangs_is_tried_three_times_in_all(lake: Lake) -> None:
    add_items(lake, TEXTS)
    calls: list[str] = []

    def hang(row: Any) -> int:
        calls.append(row.item_id)
        time.sleep(60)
        return 0

    hangs = LabelingFunction(name="hangs", kind="snorkel", version="1", rule=hang, by_row=True, timeout_s=0.05)
    (shown,) = preview(lake, [hangs], config(batch_items=1))
    assert calls == ["a", "b", "c"]
    assert (shown.hits, shown.faults, shown.first_fault) == (0, 3, "timeout: took longer than 0.05 s")


def test_items_that_were_not_reached_do_not_count(lake: Lake) -> None:
    add_items(lake, TEXTS)

    def hang_later(row: Any) -> int:
        if row.item_id != "a":
            time.sleep(60)
        return 0

    hangs = LabelingFunction(name="hangs", kind="snorkel", version="1", rule=hang_later, by_row=True, timeout_s=0.5)
    add_items(lake, {f"later {number}": "text" for number in range(10)})
    (shown,) = preview(lake, [hangs], config())
    assert (shown.items, shown.hits, shown.coverage) == (4, 1, 0.25)


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
