"""Which items the rows of a file of labels are about, and when its ids are taken for those of another tool."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from features.readers.label_file import GivenLabel
from features.readers.label_items import LabelledItems, no_item_in_words
from warehouse import DataError, Lake

ITEMS = LabelledItems([(f"i{n}", f"hash {n}") for n in range(9)])


def row(item_id: str, unmarked: str = "", unread: Mapping[str, str] | None = None) -> GivenLabel:
    return GivenLabel(
        item_id=item_id,
        content_hash="",
        unmarked=(unmarked or item_id, ""),
        labels=("a",),
        annotator="",
        about=item_id,
        unread=unread or {},
    )


def test_a_row_without_a_text_is_about_one_item() -> None:
    both = LabelledItems([("'=a", "hash"), ("=a", "hash")])
    assert both.about(row("'=a", "=a")) == ["'=a"]


def test_rows_that_say_nothing_of_an_item_do_not_outvote_those_that_do() -> None:
    others = [row(f"i{n}", unread={"message": f"hash {n + 1}"}) for n in range(2)]
    with pytest.raises(DataError, match="column 'message'"):
        ITEMS.check_ids(Path("labels.csv"), [*others, *(row(str(n), unread={"message": "none"}) for n in range(9))])
    edited = [row(f"i{n}", unread={"message": "edited"}) for n in range(3, 6)]
    ITEMS.check_ids(Path("labels.csv"), [*others, *edited])


def test_before_any_record_no_id_of_one_is_shown(lake: Lake) -> None:
    with lake.read() as reader:
        assert "such as 'one'. `siftline sql" in no_item_in_words(Path("labels.csv"), [row("one")], reader)
