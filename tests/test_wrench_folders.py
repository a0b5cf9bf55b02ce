"""What the benchmark of weak labels takes of a folder in WRENCH's format, and what it says of one that is not."""

import functools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.weak_labels import main
from benchmarks.weak_labels_curve import BOTTOM, TOP, curve
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
        ([TEXT, {**TEXT, "weak_labels": [1]}], [TEXT], "format.*row 1 has 1 votes and row 0 has 2 votes"),
        ([{**TEXT, "weak_labels": None}], [TEXT], "row 0: its weak_labels are no list"),
        ([TEXT, {**TEXT, "weak_labels": [None, 1]}], [TEXT], "row 1: None is no class"),
        ([{**TEXT, "data": "good"}], [TEXT], "row 0: its data is no object"),
        ([TEXT, NUMBERS], [TEXT], "row 1 has no text, and others have"),
        ([{**TEXT, "data": {"text": "bad \ud800"}}], [TEXT], "row 0: its text holds half a character"),
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
    with pytest.raises(ValueError, match="nowhere is no folder"):
        read(tmp_path / "nowhere", f1=False)
    with pytest.raises(ValueError, match=r"has no test\.json"):
        read(tmp_path, f1=False)
    (tmp_path / "test.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has no train\.json and no valid\.json to learn from"):
        read(tmp_path, f1=False)


def test_a_folder_of_several_sets_names_them(tmp_path: Path) -> None:
    for name in ("yelp", "imdb"):
        (tmp_path / name).mkdir()
        folder(tmp_path / name, [TEXT], [TEXT])
    with pytest.raises(ValueError, match=r"folders of their own: imdb, yelp\. Name those"):
        read(tmp_path, f1=False)


def test_classes_that_no_row_has_count_if_label_json_names_them(tmp_path: Path) -> None:
    at = folder(tmp_path, [TEXT], [TEXT])
    (at / "label.json").write_text('{"0": "ham", "1": "spam", "2": "other"}')
    assert read(at, f1=False).classes == 3
    (at / "label.json").write_text('{"0": "ham"}')
    with pytest.raises(ValueError, match=r"rows have class 1, and label\.json names 1"):
        read(at, f1=False)
    (at / "label.json").write_text('["ham"]')  # of another form: rows tell
    assert read(at, f1=False).classes == 2


@pytest.mark.parametrize(("ones", "f1", "rare"), [(1, False, 0.1), (9, False, 0.1), (1, True, None), (3, False, None)])
def test_a_rare_class_that_is_scored_by_accuracy_is_seen(tmp_path: Path, ones: int, f1: bool, rare: Any) -> None:
    test = [TEXT] * ones + [{**TEXT, "label": 0}] * (10 - ones)
    assert read(folder(tmp_path, [TEXT], test), f1=f1).rare() == (None if rare is None else pytest.approx(rare))


def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str:
    monkeypatch.setattr("sys.argv", ["weak_labels", *map(str, arguments)])
    with pytest.raises(SystemExit):
        main()
    return capsys.readouterr().err


def test_what_the_command_says_before_it_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = folder(tmp_path, [TEXT], [TEXT])
    monkeypatch.chdir(at)
    said = functools.partial(told, capsys, monkeypatch, "--data", ".")
    assert "whose folder is not there" in said("--output", at / "new" / "a.json")
    assert "--f1 names smss, which --data does not" in said("--f1", "smss", at.name)


def test_the_measure_is_f1_where_published_figures_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spouse").mkdir()
    at = folder(tmp_path / "spouse", [TEXT], [TEXT, {**TEXT, "label": 0}])
    monkeypatch.chdir(at)
    monkeypatch.setattr("benchmarks.weak_labels.end", lambda data: {"measure": data.measure})
    for given, measure in ((["--data", "."], "F1"), (["--data", f"{at}/", "--f1"], "accuracy")):
        monkeypatch.setattr("sys.argv", ["weak_labels", *given, "--parts", "end"])
        main()
        assert json.loads(capsys.readouterr().out)["parts"]["end"]["spouse"]["figures"]["measure"] == measure


def test_the_curve_of_a_set_that_is_small_and_got_worse_lies_inside_its_panel() -> None:
    sizes = {"10": {"weak_then_gold": {"mean": 0.3}, "gold_only": {"mean": 0.5}}}
    picture = curve({"tiny": {"figures": {"weak_only": 0.9, "measure": "accuracy", "sizes": sizes}}})
    heights = [float(height) for height in re.findall(r'y1="([\d.]+)"', picture)]
    (path,) = re.findall(r'd="M([\d.]+)[ ,]([\d.]+)[^"]*" class="both"', picture)
    assert all(TOP <= height <= 300 for height in heights)
    assert TOP <= float(path[1]) <= BOTTOM


def test_a_peer_that_crashes_costs_its_own_figure_alone() -> None:
    crash = "lambda: os.kill(os.getpid(), 11)"
    code = f"import os; from benchmarks.weak_labels_peers import limited; print(limited({crash}, 5)[0])"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert said.stdout == "its process ended with -11\n"
