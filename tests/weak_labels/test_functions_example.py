"""The functions of the Reuters example load, show every kind, and each votes on news written for this test."""

import tomllib
from pathlib import Path

import pytest

from tests.weak_labels.lf_helpers import batch
from weak_labels import ItemBatch, LabelingFunction, load_functions
from weak_labels.functions.call import call_function

PROJECT = Path(__file__).parents[2] / "examples" / "reuters"
NEWS = {
    "acq": "globex to acquire initech globex corp said it signed a definitive agreement to acquire initech inc",
    "crude": "opec ministers discuss crude oil output opec will cut output by one mln barrels per day",
    "earn": "globex corp th qtr net shr cts vs cts net mln vs mln revs mln vs mln",
    "grain": "soviet union buys u s wheat and corn the agriculture department said mln tonnes of wheat and corn crop",
    "interest": "first bank raises prime rate first bank said it raised its prime rate to pct",
    "money-fx": "dollar falls against yen and mark dealers said central banks intervened to support the currency",
    "ship": "dockers strike closes port ships with cargo wait and tanker crew is ashore",
    "trade": "u s trade deficit widens as imports rise congress debates tariffs and the trade bill",
}


@pytest.fixture(scope="module")
def functions() -> list[LabelingFunction]:
    return load_functions(PROJECT / "labeling_functions.py", classes())


def classes() -> list[str]:
    settings = tomllib.loads((PROJECT / "siftline.toml").read_text(encoding="utf-8"))
    return settings["project"]["classes"]


def test_every_kind_is_shown_and_described(functions: list[LabelingFunction]) -> None:
    assert len(functions) >= 16
    assert {f.kind for f in functions} == {"keywords", "regex", "nearest", "vectorized", "snorkel"}
    assert [f.name for f in functions if not f.description] == []


@pytest.mark.parametrize("label", NEWS)
def test_typical_news_get_votes_of_their_class(functions: list[LabelingFunction], label: str) -> None:
    items = batch([NEWS[label]])
    items = ItemBatch(item_ids=items.id_array, texts=items.text_array, metadata=items.metadata_array, classes=classes())
    cast = {f.name: call_function(f, items) for f in functions if not f.uses_vectors}
    assert [name for name, outcome in cast.items() if outcome.faults] == []
    voted = [classes()[o.votes[0]] for o in cast.values() if o.votes[0] >= 0]
    assert voted.count(label) > len(voted) / 2
