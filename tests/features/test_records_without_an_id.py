"""Records without an id are known by their content: when one is stored, a duplicate, or refused."""

import hashlib
from pathlib import Path

import pytest

from features.ingest.stage import ingest
from tests.features.ingesting import config, counts, items, write
from warehouse import Lake

NO_ID = {"advice": "No record of source 's' has 'id'. Look at its names in siftline.toml."}


def test_records_without_an_id_are_known_by_their_content(lake: Lake, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"text": "a"}, {"text": "a"}, {"id": None, "text": "b"}, {"id": "", "text": "b"})
    assert ingest(lake, config(tmp_path)).detail == {**counts(4, 2, 0, 2), **NO_ID}
    assert items(lake, "item_id") == sorted((hashlib.sha256(t).hexdigest(),) for t in (b"a", b"b"))


def test_a_record_without_an_id_whose_content_is_stored_under_an_id_is_a_duplicate(lake: Lake, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"id": 1, "text": "a"})
    ingest(lake, config(tmp_path))
    write(tmp_path / "a.jsonl", {"text": "a"}, {"text": "c"})
    assert ingest(lake, config(tmp_path)).detail == {**counts(2, 1, 0, 1), **NO_ID}
    assert [c for _, c in items(lake)] == ["a", "c"]


@pytest.mark.parametrize("first", [0, 1], ids=["before it", "after it"])
def test_a_record_without_an_id_is_stored_where_the_item_that_had_its_content_is_edited(
    lake: Lake, tmp_path: Path, first: int
) -> None:
    write(tmp_path / "a.jsonl", {"id": "1", "text": "a"})
    ingest(lake, config(tmp_path))
    rows = [{"text": "a"}, {"id": "1", "text": "edited"}, {"text": "a"}]
    write(tmp_path / "a.jsonl", *rows[first : first + 2])
    assert ingest(lake, config(tmp_path)).detail == counts(2, 2, 0, 0)
    own = hashlib.sha256(b"a").hexdigest()
    assert items(lake, "item_id, content, source, position") == [
        ("1", "edited", "s", 2 - first),
        (own, "a", "s", 1 + first),
    ]
    write(tmp_path / "a.jsonl", *rows)
    assert ingest(lake, config(tmp_path)).detail == counts(3, 0, 0, 3)


def test_of_records_without_an_id_that_wait_for_an_edit_one_is_stored(lake: Lake, tmp_path: Path) -> None:
    own = hashlib.sha256(b"b").hexdigest()
    write(tmp_path / "a.jsonl", {"id": "1", "text": "a"}, {"id": "2", "text": "b"}, {"id": "3", "text": "c"})
    ingest(lake, config(tmp_path))
    texts = [{"text": text} for text in ("a", "b", "a", "b", "c")]
    edits = [{"id": "1", "text": "edited"}, {"id": "2", "text": "edited"}, {"id": own, "text": "not b"}]
    write(tmp_path / "a.jsonl", *texts, *edits)
    # The id that the record with b would have is taken by another content, so it cannot be stored.
    assert ingest(lake, config(tmp_path)).detail == counts(8, 4, 2, 2)
    assert [content for _, content in items(lake)] == ["edited", "edited", "c", "not b", "a"]
    with lake.read() as reader:
        found = reader.rows("SELECT position, reason FROM quarantine ORDER BY position")
    assert found == [(2, "duplicate_id_conflict"), (4, "duplicate_id_conflict")]


def test_an_edit_leaves_the_content_to_other_items_that_have_it(lake: Lake, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"id": "1", "text": "a"}, {"id": "2", "text": "a"})
    ingest(lake, config(tmp_path))
    write(tmp_path / "a.jsonl", {"id": "1", "text": "edited"}, {"text": "a"})
    assert ingest(lake, config(tmp_path)).detail == counts(2, 1, 0, 1)
    assert items(lake) == [("1", "edited"), ("2", "a")]


def test_a_split_or_metadata_named_later_reaches_records_without_an_id(lake: Lake, tmp_path: Path) -> None:
    rows = [{"text": "a", "split": "test", "m": 1}, {"text": "a", "split": "train", "m": 2}, {"text": "b", "m": 3}]
    write(tmp_path / "a.jsonl", *rows)
    ingest(lake, config(tmp_path))
    later = config(tmp_path, split="split", metadata=("m",))
    assert ingest(lake, later).detail == {**counts(3, 2, 1, 0), **NO_ID}
    stored = items(lake, "content, split, metadata")
    assert sorted(stored) == [("a", "test", '{"m":1}'), ("b", "train", '{"m":3}')]
    write(tmp_path / "a.jsonl", *rows, {"text": "c"})
    assert ingest(lake, later).detail == {**counts(4, 1, 1, 2), **NO_ID}


def test_an_id_that_equals_the_hash_of_another_content_is_not_overwritten(lake: Lake, tmp_path: Path) -> None:
    taken = hashlib.sha256(b"b").hexdigest()
    write(tmp_path / "a.jsonl", {"id": taken, "text": "a"}, {"text": "b"})
    assert ingest(lake, config(tmp_path)).detail == counts(2, 1, 1, 0)
    assert items(lake) == [(taken, "a")]
