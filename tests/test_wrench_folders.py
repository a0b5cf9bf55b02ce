"""What the benchmark of weak labels takes of a folder in WRENCH's format, and what it says of one that is not."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.weak_labels_data import read

TEXT = {"label": 1, "weak_labels": [1, -1], "data": {"text": "good"}}
NUMBERS = {**TEXT, "data": {"feature": [0.5, 1.0]}}
UNKNOWN = {**TEXT, "label": None}
PARTS = ("label", "end", "gold", "selected")


def folder(at: Path, train: list[Any], test: list[Any]) -> Path:
    for name, rows in (("train", train), ("test", test)):
        (at / f"{name}.json").write_text(json.dumps({str(place): row for place, row in enumerate(rows)}))
    return at


@pytest.mark.parametrize(
    ("train", "test", "lacking"),
    [
        (TEXT, TEXT, {}),
        (NUMBERS, NUMBERS, {"end": "texts", "gold": "texts", "selected": "texts"}),
        (UNKNOWN, TEXT, dict.fromkeys(("gold", "selected"), "true classes of the train rows")),
        ({**TEXT, "label": "1", "weak_labels": [1.0, "-1"]}, TEXT, {}),
        ({**TEXT, "weak_labels": [-1, -1]}, TEXT, dict.fromkeys(PARTS, "votes on train rows")),
        (TEXT, {**TEXT, "weak_labels": [-1, -1]}, {"label": "votes on test rows"}),
    ],
    ids=[
        "all",
        "numbers in place of texts",
        "no true classes to learn from",
        "classes as texts",
        "no vote to learn from",
        "no vote to score",
    ],
)
def test_what_a_folder_lacks(tmp_path: Path, train: Any, test: Any, lacking: dict[str, str]) -> None:
    data = read(folder(tmp_path, [train] * 300, [test] * 2), f1=False)
    assert data.classes == 2
    assert data.train.votes.tolist() == [[int(vote) for vote in train["weak_labels"]]] * 300
    assert data.test.truth.tolist() == [1, 1]
    assert {part: data.lacks(part) for part in PARTS if data.lacks(part)} == lacking


def test_a_small_folder_or_one_class_is_not_measured(tmp_path: Path) -> None:
    data = read(folder(tmp_path, [TEXT] * 9, [TEXT]), f1=False)
    lacking = {"label": None, "end": None, "gold": "10 train rows", "selected": "300 train rows"}
    assert {part: data.lacks(part) for part in PARTS} == lacking
    only = {**TEXT, "label": 0, "weak_labels": [0]}
    assert read(folder(tmp_path, [only] * 300, [only]), f1=False).lacks("label") == "a second class"


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        ([TEXT], [TEXT, UNKNOWN], "row 2 has no label to score by"),
        ([TEXT], [{**TEXT, "weak_labels": [1]}], "have 2 and 1 votes"),
        ([TEXT, {**TEXT, "weak_labels": [1]}], [TEXT], "not in WRENCH's format"),
        ([{"label": 1}], [TEXT], "not in WRENCH's format.*weak_labels"),
        ([7], [TEXT], "not in WRENCH's format"),
        ([TEXT], [], "has no rows"),
        ([{**TEXT, "weak_labels": []}], [TEXT], "no votes"),
        ([{**TEXT, "weak_labels": [0.7, -1]}], [TEXT], r"0\.7 is no class"),
        ([{**TEXT, "weak_labels": [-2, 1]}], [TEXT], "-2 is no class"),
        ([{**TEXT, "label": 1.5}], [TEXT], r"1\.5 is no class"),
        ([{**TEXT, "label": "spam"}], [TEXT], "'spam' is no class; they are whole numbers"),
        ([{**TEXT, "label": ["O", "B"]}], [TEXT], r"\['O', 'B'\] is no class; they are whole numbers"),
    ],
)
def test_a_folder_of_another_format_is_refused(tmp_path: Path, train: Any, test: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read(folder(tmp_path, train, test), f1=False)


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no valid\.json"):
        read(tmp_path, f1=False)
