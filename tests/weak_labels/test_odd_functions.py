"""Functions that return or raise what nobody expects: each is a fault of its own, and the others vote."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from snorkel.labeling import labeling_function

from tests.weak_labels.lf_helpers import CLASSES, add_items, batch, config, faults, votes
from warehouse import Lake, SettingsError
from weak_labels import keywords, nearest, prompt, sql, vectorized
from weak_labels.analysis.preview import preview
from weak_labels.applying.stage import vote
from weak_labels.functions.call import NotAVote, call_function, check_vote
from weak_labels.functions.types import ItemBatch, LabelingFunction

GOAL = keywords("sports", ["goal"], name="goal")


class Mute(Exception):
    """An error whose message raises."""

    def __str__(self) -> str:
        raise ValueError("no message")


class Mutest:
    """A value that cannot be shown."""

    def __repr__(self) -> str:
        raise ValueError("no picture")


def by_row(rule: Callable[[Any], Any]) -> LabelingFunction:
    return LabelingFunction(name="odd", kind="snorkel", version="1", rule=rule, by_row=True)


def raise_half_a_character(_: Any) -> int:
    raise OSError("no such file: \ud800.txt")


def raise_without_message(_: Any) -> int:
    raise Mute


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (raise_half_a_character, r"OSError: no such file: \ud800.txt"),
        (raise_without_message, "Mute: its message cannot be read (ValueError)"),
        (lambda _: Mutest(), "ValueError: no picture"),
        (lambda _: "\ud800", r"voted '\ud800'; the classes are sports"),
    ],
)
def test_what_cannot_be_told_is_told_as_far_as_it_can(lake: Lake, rule: Callable[[Any], Any], words: str) -> None:
    add_items(lake, {"a": "a goal"})
    vote(lake, [by_row(rule), GOAL], config())
    assert votes(lake) == {("a", "goal"): 0}
    assert list(faults(lake)) == [("a", "odd")]
    with lake.read() as reader:
        assert words in reader.scalar("SELECT detail FROM lf_faults")


def test_a_column_of_what_cannot_be_shown_is_a_fault_of_each_item() -> None:
    @vectorized()
    def mute(batch: ItemBatch) -> object:
        return [Mutest() for _ in batch.texts]

    outcome = call_function(mute, batch(["x", "y"]))
    assert [(fault.row, fault.fault) for fault in outcome.faults] == [(0, "raised"), (1, "raised")]


def test_nobody_is_asked_about_no_items() -> None:
    @vectorized()
    def first(items: ItemBatch) -> list[str]:
        return [items.texts[0]] * len(items)

    outcome = call_function(first, batch([]))
    assert (outcome.votes.tolist(), outcome.faults) == ([], [])


def test_who_votes_for_several_classes_at_once_is_told_to_write_several_functions() -> None:
    @vectorized()
    def both(batch: ItemBatch) -> object:
        return [list(CLASSES[:2]), CLASSES[0]]

    [fault] = call_function(both, batch(["x", "y"])).faults
    assert fault.row == 0
    assert fault.detail.endswith("(list); a vote is for one class, so write a function for each")


@pytest.mark.parametrize(
    ("value", "way_out"),
    [
        (None, "returned None (NoneType); return a class, or else ABSTAIN"),
        (False, "returned False (bool); return a class, or else ABSTAIN"),
        ("Sport", "voted 'Sport', perhaps meant as 'sports'; the classes are sports, politics, science"),
        ("", "voted '', which is no class; where a function has nothing to say it returns ABSTAIN, without quotes"),
        ("Abstain", "which is no class; where a function has nothing to say it returns ABSTAIN, without quotes"),
    ],
)
def test_what_is_no_vote_is_told_with_what_to_return(value: object, way_out: str) -> None:
    [fault] = call_function(by_row(lambda _: value), batch(["x"])).faults
    assert fault.detail.endswith(way_out)


def test_a_file_that_is_looked_for_where_the_command_was_called_is_told_with_the_way_out() -> None:
    def reads(name: str) -> str:
        [fault] = call_function(by_row(lambda _: Path(name).read_text("utf-8")), batch(["x"])).faults
        return fault.detail

    assert reads("words/none.txt").endswith("write: Path(__file__).parent / 'words/none.txt'")
    assert reads("/none/words.txt").endswith("'/none/words.txt'")
    [fault] = call_function(by_row(lambda _: subprocess.run(["no-such-program"]).returncode), batch(["x"])).faults
    assert "no-such-program" in fault.detail
    assert "relative path" not in fault.detail


def test_a_column_that_a_batch_has_not_is_told_with_those_it_has() -> None:
    [fault] = call_function(vectorized("sports")(lambda items: items.text), batch(["x"])).faults
    assert fault.detail.startswith("AttributeError: a batch has no 'text'; its columns are texts, item_ids, metadata")


@pytest.mark.parametrize("given", [["sports"], [1], [None]])
def test_what_is_no_truth_value_is_told_with_what_to_return(given: list[object]) -> None:
    [fault] = call_function(vectorized("sports")(lambda _: given), batch(["x"])).faults
    assert "values where truth values are expected; return a list of True and False, or leave" in fault.detail


def test_a_class_may_be_called_none() -> None:
    with pytest.raises(NotAVote, match="voted 'None', perhaps meant as 'none'; the classes are none, some"):
        check_vote("None", ("none", "some"))


def test_what_lies_below_a_mask_is_no_vote() -> None:
    @vectorized()
    def masked(batch: ItemBatch) -> object:
        return np.ma.masked_array([0, 1], mask=[True, False])

    outcome = call_function(masked, batch(["x", "y"]))
    assert outcome.votes[1] == 1
    assert [(fault.row, fault.fault) for fault in outcome.faults] == [(0, "not_a_vote")]


@pytest.mark.parametrize(
    "rule",
    [
        lambda x: CLASSES[0] if x["text"] == x.text else -1,
        lambda x: CLASSES[0] if x.get("desk") == "a" and x.get("page", 7) == 7 and x.get("page") is None else -1,
        lambda x: CLASSES[0] if "desk" in x and "page" not in x else -1,
    ],
)
def test_a_row_may_be_asked_as_pandas_rows_are(rule: Callable[[Any], Any]) -> None:
    outcome = call_function(by_row(rule), batch(["x"], ['{"desk": "a"}']))
    assert outcome.votes.tolist() == [0]


@pytest.mark.parametrize(("rule", "kind"), [(lambda x: x.body, "AttributeError"), (lambda x: x["body"], "KeyError")])
def test_a_field_that_is_not_there_is_told_with_where_the_text_is(rule: Callable[[Any], Any], kind: str) -> None:
    [fault] = call_function(by_row(rule), batch(["x"])).faults
    assert fault.detail.startswith(f"{kind}: ")
    assert "no field 'body'; the text is x.text, and further columns are there if siftline.toml names" in fault.detail


def test_snorkels_functions_of_a_running_program_vote_as_they_are(lake: Lake) -> None:
    @labeling_function()
    def goes(x: Any) -> int:
        return 0 if "goal" in x.text else -1

    add_items(lake, {"a": "a goal", "b": "a vote"})
    assert [(p.name, p.hits) for p in preview(lake, [goes, GOAL], config())] == [("goes", 1), ("goal", 1)]
    vote(lake, [goes, GOAL], config())
    assert votes(lake) == {("a", "goes"): 0, ("b", "goes"): -1, ("a", "goal"): 0, ("b", "goal"): -1}
    assert not vote(lake, [goes, GOAL], config()).committed


@pytest.mark.parametrize("call", [vote, preview])
def test_what_is_no_function_is_refused_in_words(lake: Lake, call: Callable[..., Any]) -> None:
    with pytest.raises(SettingsError, match=r"'goal' is no labeling function. Make one with keywords"):
        call(lake, ["goal"], config())
    with pytest.raises(SettingsError, match="two labeling functions are named 'goal'"):
        call(lake, [GOAL, GOAL], config())


def test_a_batch_of_ones_own_says_what_it_needs_and_leaves_what_it_is_given() -> None:
    vectors = np.eye(2, dtype=np.float32)
    given = batch(["oil", "wheat"], vectors=vectors)
    assert vectors.flags.writeable
    assert not given.vectors.flags.writeable
    with pytest.raises(
        SettingsError,
        match="'sport', perhaps meant as 'sports'; the classes are sports, politics, science",
    ):
        given.class_id("sport")
    columns: dict[str, Any] = {"item_ids": given.id_array, "texts": given.text_array, "metadata": given.metadata_array}
    listed: dict[str, Any] = {**columns, "texts": ["oil", "wheat"]}
    with pytest.raises(SettingsError, match=r"texts of a batch are list; give an Arrow array: pa\.array"):
        ItemBatch(**listed, classes=CLASSES)
    short: dict[str, Any] = {**columns, "metadata": pa.array(["{}"])}
    with pytest.raises(SettingsError, match="'item_ids': 2, 'texts': 2, 'metadata': 1"):
        ItemBatch(**short, classes=CLASSES)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"texts": pa.array(["oil", None])}, "texts of a batch are missing for 1 of 2 items; leave these out, or fill"),
        ({"texts": pa.array([1, 2])}, "texts of a batch are int64; give text"),
        (
            {"metadata": pa.array([{"desk": "a"}, {}])},
            "metadata of a batch are struct.*; give a JSON object for each item",
        ),
        ({"classes": {"sports", "science"}}, "classes must be a list of names, in the order of their numbers"),
        ({"classes": "sports"}, "classes must be a list of names"),
    ],
)
def test_columns_that_functions_cannot_read_are_refused(wrong: dict[str, Any], message: str) -> None:
    given = batch(["oil", "wheat"])
    columns: dict[str, Any] = {
        "item_ids": given.id_array,
        "texts": given.text_array,
        "metadata": given.metadata_array,
    }
    with pytest.raises(SettingsError, match=message):
        ItemBatch(**{**columns, "classes": CLASSES, **wrong})


def test_columns_of_frames_are_read_as_they_come() -> None:
    """Each pattern failed on every text of a column of categories, and a list of vectors ended in a traceback."""
    frame = pd.DataFrame({"id": [7, 8], "text": pd.Categorical(["a goal", "an atom"])})
    items = ItemBatch(
        item_ids=pa.array(frame["id"]),
        texts=pa.array(frame["text"]),
        metadata=pa.array([None, None]),
        classes=CLASSES,
        vectors=cast("Any", pd.DataFrame([[1.0, 0.0], [0.0, 1.0]])),
    )
    assert (items.item_ids, items.metadata, items.vectors.shape) == (["7", "8"], [{}, {}], (2, 2))

    @labeling_function()
    def snorkels(x: Any) -> int:
        return 0 if x.item_id == "7" else -1

    for function in (GOAL, sql("sports", "text LIKE '%goal%'", name="sql"), snorkels):
        outcome = call_function(function, items)
        assert (outcome.votes.tolist(), outcome.faults) == ([0, -1], [])
    with pytest.raises(SettingsError, match=r"is no labeling function\. Make one with keywords"):
        call_function(len, items)
    near = call_function(nearest({"sports": ["goal"]}, radius=0.5, name="near"), items)
    assert "this batch has no encoder. Give it the one that made its vectors" in near.faults[0].detail
    asked = call_function(prompt("Is it about sports?", {"yes": "sports", "no": None}, model="m", name="asked"), items)
    assert "this batch has no language model. Give it one: ask=..." in asked.faults[0].detail
