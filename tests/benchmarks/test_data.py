"""What benchmarks make of data folders and output files that are not ours."""

import gzip
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import drawn_functions
from benchmarks.data.files import data_folder
from benchmarks.data.sets import NoSet, TextSet, reader_of
from benchmarks.data.unseen import read_data
from benchmarks.data.wrench import read
from benchmarks.selection import __main__ as selection
from benchmarks.weak_labels import __main__ as weak_labels

TEXT = {"label": 1, "weak_labels": [1, -1], "data": {"text": "good"}}
NUMBERS = {**TEXT, "data": {"feature": [0.5, 1.0]}}
UNKNOWN = {**TEXT, "label": None}
NO_VOTE = {**TEXT, "weak_labels": [-1, -1]}
PARTS = ("label", "end", "gold", "selected")


def folder(at: Path, **splits: list[Any]) -> Path:
    at.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        (at / f"{name}.json").write_text(json.dumps({str(place): row for place, row in enumerate(rows)}))
    return at


@pytest.mark.parametrize(
    ("train", "test", "lacking"),
    [
        ([TEXT] * 300, TEXT, {}),
        ([NUMBERS] * 300, NUMBERS, dict.fromkeys(PARTS[1:], "texts")),
        ([UNKNOWN] * 300, TEXT, dict.fromkeys(PARTS[2:], "true classes of the train rows")),
        ([{**TEXT, "label": "1", "weak_labels": [1.0, "-1"]}] * 300, TEXT, {}),
        ([NO_VOTE] * 300, TEXT, dict.fromkeys(PARTS, "votes on train rows")),
        ([TEXT] * 300, NO_VOTE, {"label": "votes on test rows"}),
        ([TEXT] * 9, TEXT, {"gold": "10 train rows", "selected": "300 train rows"}),
    ],
)
def test_what_a_folder_lacks_is_named(tmp_path: Path, train: Any, test: Any, lacking: dict[str, str]) -> None:
    data = read(folder(tmp_path, train=train, test=[test] * 2), f1=False)
    assert (data.classes, data.test.truth.tolist()) == (2, [1, 1])
    assert {part: data.lacks(part) for part in PARTS if data.lacks(part)} == lacking


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
        ([{**TEXT, "label": "spam"}], [TEXT], "'spam' is no class; they are whole numbers"),
    ],
)
def test_a_folder_of_another_format_is_refused(tmp_path: Path, train: Any, test: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read(folder(tmp_path, train=train, test=test), f1=False)


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    for name in ("yelp", "imdb"):
        folder(tmp_path / name, test=[TEXT])
    for at, words in (("nowhere", "is no folder"), ("yelp", r"no train\.json"), (".", "their own: imdb, yelp")):
        with pytest.raises(ValueError, match=words):
            read(tmp_path / at, f1=False)


def test_classes_that_no_row_has_count_if_label_json_names_them(tmp_path: Path) -> None:
    at = folder(tmp_path, train=[TEXT], test=[TEXT])
    for names, classes in (('{"0": "ham", "1": "spam", "2": "other"}', 3), ('["ham"]', 2)):
        (at / "label.json").write_text(names)
        assert read(at, f1=False).classes == classes
    (at / "label.json").write_text('{"0": "ham"}')
    with pytest.raises(ValueError, match=r"rows have class 1, and label\.json names 1"):
        read(at, f1=False)


def test_texts_of_training_are_left_out_and_pairs_stay_whole(tmp_path: Path) -> None:
    for name in ("sts", "text", "unlabelled"):
        (tmp_path / name).mkdir()
    (tmp_path / "sts/dev.csv").write_text("A man sings.,A man is singing.,4.5\nA dog runs.,It rains.,0.5\n", "utf-8")
    (tmp_path / "text/reviews").write_text('1 it \'s a " fine " film .\n0 a dull one\n', "latin-1")
    (tmp_path / "text/old").write_text("1 it rains\n", "latin-1")
    with gzip.open(tmp_path / "unlabelled/some.tsv.gz", "wt", encoding="utf-8") as file:
        file.write('web\tIt\'s a "fine" film.\nweb\tIt rains\n')
    folder(tmp_path / "weak/census", test=[NUMBERS])
    data = read_data(tmp_path, pairs=None, texts=10)
    assert data.texts["reviews"] == ["a dull one"]
    assert data.seen == {"dev": 1, "old": 1, "reviews": 1, "census": 0}
    assert data.texts.keys() == {"dev", "reviews"}
    assert (len(data.pairs["dev"]), "It rains." in data.texts["dev"]) == (2, True)


def test_the_selection_takes_any_folder_in_wrenchs_format(tmp_path: Path) -> None:
    rows = {split: [{**TEXT, "data": {"text": split}}] for split in ("train", "valid", "test")}
    folder(tmp_path / "weak/imdb", **rows)
    pool, test = reader_of("imdb", data_folder(tmp_path, "weak"))(tmp_path)
    assert (pool, [row[0] for row in test]) == ([("train", "1", (1, -1))], ["valid", "test"])
    folder(tmp_path / "weak/spouse", train=[UNKNOWN], test=[UNKNOWN])
    with pytest.raises(NoSet, match="no text or no label"):
        reader_of("spouse", tmp_path)(tmp_path)
    with pytest.raises(NoSet, match=r"half has no test\.json beside"):
        reader_of("half", tmp_path)
    with pytest.raises(FileNotFoundError, match="has no folder text"):
        data_folder(tmp_path, "text")


def run(monkeypatch: pytest.MonkeyPatch, program: Any, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["program", *map(str, arguments)])
    program.main()


def test_commands_say_in_words_what_they_cannot_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = folder(tmp_path / "weak/imdb", train=[TEXT], test=[TEXT])
    for program, options, words in (
        (selection, ["--data", tmp_path], "train.json is not there"),
        (drawn_functions, ["--data", tmp_path], "train.json is not there"),
        (weak_labels, ["--data", at, "--output", at / "new/a.json"], "whose folder does not exist"),
        (weak_labels, ["--data", at, "--f1", "smss"], "--f1 names smss, which --data does not"),
        (weak_labels, ["--data", at, "--parts", "ends"], "it takes some of label, end"),
    ):
        with pytest.raises(SystemExit):
            run(monkeypatch, program, *options)
        assert words in capsys.readouterr().err


def test_functions_are_drawn_on_the_sets_that_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (("goal match win", "team cup"), ("atom cell gene", "virus lab"))
    texts = [f"{words[n % 2][0]} {words[n % 2][n % 3 % 2]} {n}" for n in range(120)]
    rows = [{"label": n % 2, "weak_labels": [-1], "data": {"text": text}} for n, text in enumerate(texts)]
    folder(tmp_path / "weak/mine", train=rows, test=rows)
    output = tmp_path / "drawn.json"
    run(monkeypatch, drawn_functions, "--data", tmp_path, "--sets", "mine", "--draws", 2, "--output", output)
    assert {row["set"] for row in json.loads(output.read_text())["draws"]} == {"mine"}
    assert "drawn from 1 set of real texts" in output.with_suffix(".md").read_text()


def test_runs_are_kept_by_the_content_of_a_set_and_not_by_its_name() -> None:
    nothing, ids = np.zeros((1, 2), np.float32), np.zeros(1, np.int64)
    one = TextSet("trec", ("a",), nothing, ("a",), ids, ids.reshape(1, 1), nothing, ids)
    assert one.content() == replace(one).content() != replace(one, texts=("b",)).content()
    for name in ("vectors", "labels", "votes", "test_vectors", "test_labels"):
        assert replace(one, **{name: getattr(one, name) + 1}).content() != one.content()


def test_a_peer_that_crashes_costs_its_own_figure_alone() -> None:
    crash = "lambda: os.kill(os.getpid(), 11)"
    code = f"import os; from benchmarks.peers.weak_labels import limited; print(limited({crash}, 5)[0])"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout == "its process ended with -11\n"
