"""Two vote runs at once: only votes in force stay, and no function misses items that the other run took."""

import dataclasses
import itertools

import pytest

from tests.weak_labels.lf_helpers import add_items, run_vote, votes
from warehouse import Lake, Overtaken
from weak_labels import ItemBatch, keywords, vectorized
from weak_labels.applying.stage import TURNS

SPORT = keywords("sports", ["goal", "match"], name="sport")
TEXTS = {"a": "a goal", "b": "an atom", "c": "nothing"}


def test_votes_of_a_changed_function_replace_those_that_came_meanwhile(lake: Lake) -> None:
    @vectorized("sports", name="sport")
    def code(batch: ItemBatch) -> list[bool]:
        run_vote(lake, [keywords("sports", ["nothing"], name="sport")])
        return [item == "b" for item in batch.item_ids]

    add_items(lake, TEXTS)
    run_vote(lake, [SPORT])
    assert run_vote(lake, [dataclasses.replace(code, version="2")]).committed
    assert {item: vote for (item, _), vote in votes(lake).items()} == {"a": -1, "b": 0, "c": -1}


def test_only_votes_in_force_stay_where_two_runs_bring_a_function_of_one_name(lake: Lake) -> None:
    @vectorized("sports", name="new")
    def code(batch: ItemBatch) -> list[bool]:
        run_vote(lake, [SPORT, keywords("sports", ["nothing"], name="new")])
        return [item == "b" for item in batch.item_ids]

    add_items(lake, TEXTS)
    run_vote(lake, [SPORT])
    assert run_vote(lake, [SPORT, dataclasses.replace(code, version="2")]).committed
    assert {item: vote for (item, name), vote in votes(lake).items() if name == "new"} == {"a": -1, "b": 0, "c": -1}


def test_a_function_sees_the_items_that_another_run_took_meanwhile(lake: Lake) -> None:
    calls: list[str] = []

    @vectorized("science", name="new")
    def code(batch: ItemBatch) -> list[bool]:
        calls.extend(batch.item_ids)
        if len(calls) == 2:
            add_items(lake, {"y": "came meanwhile"})
            run_vote(lake, [SPORT])
        return [True] * len(batch)

    new = dataclasses.replace(code, version="1")
    add_items(lake, {"x": "a goal"})
    run_vote(lake, [SPORT])
    add_items(lake, {"z": "another goal"})
    assert run_vote(lake, [SPORT, new]).committed
    assert {item: vote for (item, name), vote in votes(lake).items() if name == "new"} == {"x": 2, "y": 2, "z": 2}
    assert calls == ["x", "z", "x", "y", "z"]


def test_a_run_gives_up_where_another_one_is_always_faster(lake: Lake) -> None:
    others = itertools.count()

    @vectorized("science", name="new")
    def code(batch: ItemBatch) -> list[bool]:
        run_vote(lake, [keywords("sports", [f"word{next(others)}"], name="sport")])
        return [True] * len(batch)

    add_items(lake, TEXTS)
    with pytest.raises(Overtaken, match="Another run of vote was faster; nothing was written"):
        run_vote(lake, [dataclasses.replace(code, version="1")])
    assert next(others) == TURNS
    assert {name for _, name in votes(lake)} == {"sport"}
