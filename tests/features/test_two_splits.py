"""A record that stands in two splits is stored once, and what is left out is told."""

from pathlib import Path
from typing import Any

import pytest

from features.ingest.stage import IngestConfig, ingest
from features.readers.source import SourceConfig
from tests.features.ingesting import CLASSES, config, counts, items, write
from warehouse import Lake

REFUSED = "SELECT source, position, reason, detail FROM quarantine ORDER BY position"


def train_and_test(root: Path) -> IngestConfig:
    train = SourceConfig(name="train", path="train.jsonl", id="id")
    test = SourceConfig(name="test", path="test.jsonl", default_split="test")
    return IngestConfig(root=root, classes=CLASSES, sources=(train, test))


@pytest.mark.parametrize("ids", [{}, {"id": "1"}], ids=["without ids", "with ids in train"])
def test_a_text_of_train_and_test_stays_where_it_stands_first(lake: Lake, tmp_path: Path, ids: dict[str, Any]) -> None:
    write(tmp_path / "train.jsonl", {**ids, "text": "both"}, {"text": "only train"})
    write(tmp_path / "test.jsonl", {"text": "only test"}, {"text": "both"}, {"text": "only test"})
    told = ingest(lake, train_and_test(tmp_path)).detail
    assert {key: told[key] for key in counts(0, 0, 0, 0)} == counts(5, 3, 1, 1)
    assert sorted(items(lake, "content, split")) == [("both", "train"), ("only test", "test"), ("only train", "train")]
    with lake.read() as reader:
        [(source, position, reason, detail)] = reader.rows(REFUSED)
    assert (source, position, reason) == ("test", 2, "other_split")
    assert "this test record stands elsewhere in this read in another split" in detail
    assert "to have it in test, name its source above the other" in detail


def test_a_text_that_a_test_record_has_by_its_id_is_no_second_item_of_train(lake: Lake, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", {"text": "both"})
    write(tmp_path / "test.jsonl", {"id": "1", "text": "both"})
    for first, second in (("test", "train"), ("train", "test")):
        named = SourceConfig(name="named", path="test.jsonl", id="id", default_split=first)
        unnamed = SourceConfig(name="unnamed", path="train.jsonl", default_split=second)
        told = ingest(lake, IngestConfig(root=tmp_path, classes=CLASSES, sources=(named, unnamed))).detail
        assert {key: told[key] for key in counts(0, 0, 0, 0)} == counts(2, 1, 1, 0)
        assert items(lake, "item_id, split") == [("1", first)]


def test_a_later_read_tells_it_of_an_item_that_is_stored(lake: Lake, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", {"text": "a"})
    write(tmp_path / "test.jsonl", {"text": "b"})
    ingest(lake, train_and_test(tmp_path))
    write(tmp_path / "test.jsonl", {"text": "b"}, {"text": "a"})
    assert ingest(lake, train_and_test(tmp_path)).detail["quarantined"] == 1
    write(tmp_path / "train.jsonl", {"text": "c"})  # a is of test alone now
    assert ingest(lake, train_and_test(tmp_path)).detail["quarantined"] == 0
    assert sorted(items(lake, "content, split")) == [("a", "test"), ("b", "test"), ("c", "train")]


def test_in_one_file_the_way_out_is_not_another_order_of_sources(lake: Lake, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"id": 1, "text": "a"}, {"id": 1, "text": "a", "split": "test"})
    assert ingest(lake, config(tmp_path, split="split")).detail == counts(2, 1, 1, 0)
    with lake.read() as reader:
        [(_, position, reason, detail)] = reader.rows(REFUSED)
    assert (position, reason) == (2, "other_split")
    assert detail.endswith("in another split, where it stays")
