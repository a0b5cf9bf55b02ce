"""A second read of sources or settings that were changed: what is stored anew, and that nothing vanishes."""

from pathlib import Path
from typing import Any

import pytest

from features.ingest.stage import ingest
from tests.features.ingesting import config, counts, items, write
from warehouse import Lake, SettingsError

BEFORE = ({"id": 1, "text": "a", "body": "x"}, {"id": 2, "text": "b"})


@pytest.mark.parametrize(
    ("rows", "settings", "told", "texts"),
    [
        (({"id": 1, "text": "A"},), {}, counts(1, 1, 0, 0, missing=1), ["A", "b"]),
        (({"id": 8, "text": "a"}, {"id": 9, "text": "b"}), {}, counts(2, 2, 0, 0, missing=2), ["a", "b", "a", "b"]),
        (({"id": 2, "text": "a"}, {"id": 1, "text": "b"}), {}, counts(2, 2, 0, 0), ["b", "a"]),
        (({"id": 1, "text": ""}, BEFORE[1]), {}, counts(2, 0, 1, 1, missing=1), ["a", "b"]),
        (BEFORE, {"text": "body"}, counts(2, 1, 1, 0, missing=1), ["x", "b"]),
        (BEFORE, {"name": "t"}, counts(2, 0, 0, 2), ["a", "b"]),
        (BEFORE, {"id": None}, counts(2, 0, 0, 2), ["a", "b"]),
        (BEFORE, {"metadata": ("body",)}, counts(2, 1, 0, 1), ["a", "b"]),
    ],
    ids=[
        "an edited row and a deleted one",
        "other ids",
        "ids that changed places",
        "a row that became bad",
        "another text field",
        "another name of the source",
        "no id any more",
        "metadata kept as well",
    ],
)
def test_counts_add_up_and_nothing_vanishes(
    lake: Lake, tmp_path: Path, rows: tuple[dict[str, Any], ...], settings: dict[str, Any], told: Any, texts: list[str]
) -> None:
    write(tmp_path / "a.jsonl", *BEFORE)
    ingest(lake, config(tmp_path))
    write(tmp_path / "a.jsonl", *rows)
    result = ingest(lake, config(tmp_path, **settings))
    assert result.detail == told
    assert [text for _, text in items(lake)] == texts
    assert ingest(lake, config(tmp_path, **settings)).committed is False


def test_the_records_of_before_under_other_ids_are_refused(lake: Lake, tmp_path: Path) -> None:
    texts = ["same", "same", *(f"text {n}" for n in range(9))]
    write(tmp_path / "a.jsonl", *({"id": n, "text": text} for n, text in enumerate(texts)))
    ingest(lake, config(tmp_path))
    stored = items(lake)
    others = [{"id": f"new {n}", "text": text} for n, text in enumerate(["another", *texts])]
    write(tmp_path / "a.jsonl", *others)
    with pytest.raises(SettingsError, match=r"all their 10 texts are, under other ids.*leave id out"):
        ingest(lake, config(tmp_path))
    assert items(lake) == stored
    assert ingest(lake, config(tmp_path, id=None)).detail == counts(12, 1, 0, 11)  # as the message says
    write(tmp_path / "a.jsonl", *others[:-1], {"id": 9, "text": "edited"})  # one has its id
    assert ingest(lake, config(tmp_path)).detail["stored"] == 12


def test_a_few_records_that_were_edited_or_are_gone_hide_no_other_ids(lake: Lake, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", *({"id": n, "text": f"text {n}"} for n in range(20)))
    ingest(lake, config(tmp_path))
    others = [{"id": f"new {n}", "text": f"text {n}" if n else "edited"} for n in range(19)]
    write(tmp_path / "a.jsonl", *others)
    with pytest.raises(SettingsError, match=r"18 of their 20 texts are, under other ids"):
        ingest(lake, config(tmp_path))
    write(tmp_path / "a.jsonl", *others[:-1])
    assert ingest(lake, config(tmp_path)).detail == counts(18, 18, 0, 0, missing=20)


def test_a_file_of_other_records_with_some_texts_of_before_is_read(lake: Lake, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", *({"id": n, "text": f"text {n}"} for n in range(10)))
    ingest(lake, config(tmp_path))
    write(tmp_path / "a.jsonl", *({"id": 100 + n, "text": f"text {n}"} for n in range(1, 10)))
    assert ingest(lake, config(tmp_path)).detail == counts(9, 9, 0, 0, missing=10)


def test_canned_messages_come_again_each_day_under_other_ids(lake: Lake, tmp_path: Path) -> None:
    for day, records in enumerate((30, 90)):
        write(tmp_path / "a.jsonl", *({"id": f"{day}-{n}", "text": f"message {n % 9}"} for n in range(records)))
        assert ingest(lake, config(tmp_path)).detail["stored"] == records
