"""A gold file may name items by their texts, as test files do that have no ids."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from features.ingest.stage import IngestConfig, ingest
from features.readers.source import SourceConfig
from warehouse import DataError, Lake
from weak_labels.analysis.gold_file import EvaluateConfig, Gold, read_gold, read_gold_file

CLASSES = ("earn", "ship")


@pytest.fixture
def items(tmp_path: Path) -> Lake:
    """Items of a file without ids, which got theirs of their texts; two have ids of their own and one text."""
    rows = [{"body": text} for text in ("one", "two", "three", "@four")]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    same = [{"key": key, "body": "same"} for key in ("a", "b")]
    (tmp_path / "same.jsonl").write_text("".join(json.dumps(row) + "\n" for row in same), "utf-8")
    lake = Lake(tmp_path / "lake")
    sources = (
        SourceConfig(name="test", path="test.jsonl", text="body"),
        SourceConfig(name="same", path="same.jsonl", text="body", id="key"),
    )
    ingest(lake, IngestConfig(root=tmp_path, classes=CLASSES, sources=sources))
    return lake


def config(folder: Path, *rows: dict[str, Any]) -> EvaluateConfig:
    path = folder / "gold.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return EvaluateConfig(gold=path, classes=CLASSES, ids=("key",), texts=("body",))


def read(lake: Lake, config: EvaluateConfig) -> tuple[Gold, dict[str, Any]]:
    """What the file says, and its labels by text, or by id where that is the test's own."""
    with lake.read() as reader:
        gold = read_gold(reader, config)
        text_of = {item_id: text if text != "same" else item_id for item_id, text in _texts(lake).items()}
    return gold, {text_of[item_id]: label for item_id, label in gold.class_of.items()}


def _texts(lake: Lake) -> dict[str, str]:
    with lake.read() as reader:
        return dict(reader.rows("SELECT item_id, content FROM items"))


def test_texts_say_which_items_are_meant(items: Lake, tmp_path: Path) -> None:
    rows = [
        {"body": "one", "label": "earn"},
        {"body": "one", "label": "earn"},  # test files repeat themselves
        {"body": "two", "label": "ship"},
        {"body": "three", "label": None},
        {"body": "same", "label": []},  # as doccano has it of an item that nobody labelled
        {"body": "'@four", "label": "ship"},  # as a CSV of Siftline has it
        {"body": "nobody's", "label": "earn"},
        {"body": "", "label": "earn"},
        {"body": " \t", "label": "ship"},
    ]
    gold, by_text = read(items, config(tmp_path, *rows))
    assert by_text == {"one": 0, "two": 1, "@four": 1}
    assert gold.without_item == 3


def test_an_id_beside_a_text_says_which_of_its_items(items: Lake, tmp_path: Path) -> None:
    rows = [{"key": "a", "body": "same", "label": "earn"}, {"key": "b", "body": "same", "label": "ship"}]
    assert read(items, config(tmp_path, *rows))[1] == {"a": 0, "b": 1}
    assert read(items, config(tmp_path, {"key": "a", "body": "one", "label": "ship"}))[1] == {"one": 1}
    assert read(items, config(tmp_path, {"body": "same", "label": "ship"}))[1] == {"a": 1, "b": 1}


def test_marks_before_formulas_and_sets_without_a_class_are_read(items: Lake, tmp_path: Path) -> None:
    said = config(tmp_path, {"body": "one", "label": "'=earn"})  # as a CSV of Siftline has it
    assert read(items, replace(said, classes=("=earn", "ship")))[1] == {"one": 0}
    assert read(items, replace(said, classes=("=earn", "'=earn")))[1] == {"one": 1}
    said = replace(config(tmp_path, {"body": "one", "label": []}), multi_label=True)
    assert read(items, said)[1] == {"one": ()}


def test_two_labels_of_one_text_are_refused(items: Lake, tmp_path: Path) -> None:
    said = config(tmp_path, {"body": "one", "label": "earn"}, {"body": "one", "label": "ship"})
    with pytest.raises(DataError, match=r"gold\.jsonl gives two labels to 'one'\."):
        read_gold_file(said)  # before any run
    said = config(tmp_path, *({"key": key, "body": "one", "label": CLASSES[key]} for key in (0, 1)))
    with pytest.raises(DataError, match=r"gold\.jsonl gives two labels to '1'\."):
        read(items, said)
    many = ({"body": f"text {n}", "label": label} for n in range(7) for label in ("earn", "ship"))
    with pytest.raises(DataError, match=r"two labels to 'text 0', .*'text 4' and 2 more\. Leave one of each"):
        read_gold_file(config(tmp_path, *many))


def test_what_fits_no_text_or_is_of_another_tool_is_refused(items: Lake, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gold file.*has the text of an item.*'One'.*leave `gold`"):
        read(items, config(tmp_path, {"body": "One", "label": "earn"}))
    with pytest.raises(DataError, match=r"item 'row 2' 2 classes"):
        read(items, config(tmp_path, {"body": "one", "label": "earn"}, {"body": "", "label": ["earn", "ship"]}))
    with pytest.raises(DataError, match=r"No row of .* has a label"):
        read(items, config(tmp_path, {"body": "one", "label": ""}))
    with pytest.raises(DataError, match="texts of this project's items in its column 'sentence'"):
        read(items, config(tmp_path, {"key": "a", "sentence": "one", "label": "earn"}))
