"""What benchmarks make of data folders and output files that are not ours."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import drawn_functions, selection
from benchmarks.earlier import earlier_figures
from benchmarks.selection_data import NoSet, TextSet, data_folder, reader_of


def wrench(folder: Path, name: str, splits: str, label: Any = 1) -> None:
    (folder / "weak" / name).mkdir(parents=True)
    for split in splits.split():
        row = {"label": label, "weak_labels": [1, -1], "data": {"text": f"a text of {split}"}}
        (folder / "weak" / name / f"{split}.json").write_text(json.dumps({"0": row}))


def texts(rows: list[Any]) -> list[str]:
    return [row[0] for row in rows]


def test_an_output_that_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    assert earlier_figures(None, "engine") == earlier_figures(tmp_path / "new.json", "engine") == {}
    with pytest.raises(ValueError, match="whose folder is not there; make it first"):
        earlier_figures(tmp_path / "nowhere" / "new.json", "engine")
    kept = tmp_path / "kept.json"
    for other in ("{}", "[]", "no JSON", '{"benchmark": "serving"}'):
        kept.write_text(other)
        with pytest.raises(ValueError, match="holds something else; give another name"):
            earlier_figures(kept, "engine")
    kept.write_text('{"benchmark": "engine", "parts": {}}')
    assert earlier_figures(kept, "engine") == {"benchmark": "engine", "parts": {}}


def test_the_selection_takes_any_folder_in_wrenchs_format(tmp_path: Path) -> None:
    wrench(tmp_path, "imdb", "train valid test")
    wrench(tmp_path, "mine", "valid test")
    assert data_folder(tmp_path) == tmp_path
    pool, test = reader_of("imdb", tmp_path)(tmp_path)
    assert (texts(pool), texts(test)) == (["a text of train"], ["a text of valid", "a text of test"])
    assert pool[0][1:] == ("1", (1, -1))
    pool, test = reader_of("mine", tmp_path)(tmp_path)
    assert (texts(pool), texts(test)) == (["a text of valid"], ["a text of test"])


def test_a_set_that_is_not_there_or_has_no_labels_is_refused(tmp_path: Path) -> None:
    wrench(tmp_path, "spouse", "train test", label=-1)
    wrench(tmp_path, "half", "test")
    with pytest.raises(NoSet, match="row 0 has no text or no label"):
        reader_of("spouse", tmp_path)(tmp_path)
    with pytest.raises(NoSet, match=r"half has no test\.json beside"):
        reader_of("half", tmp_path)
    for name in ("subj", "sources", "trec"):
        with pytest.raises(NoSet, match="is not there"):
            reader_of(name, tmp_path)(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds neither weak nor text"):
        data_folder(tmp_path / "weak")


@pytest.mark.parametrize("program", [selection.main, drawn_functions.main])
def test_a_folder_that_lacks_a_set_is_told_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, program: Any
) -> None:
    wrench(tmp_path, "imdb", "train test")
    monkeypatch.setattr("sys.argv", ["program", "--data", str(tmp_path)])
    with pytest.raises(SystemExit):
        program()
    assert "train.json is not there" in capsys.readouterr().err.splitlines()[-1]


def test_functions_are_drawn_on_the_sets_that_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrench(tmp_path, "mine", "train test")
    words = (("goal match win", "team cup"), ("atom cell gene", "virus lab"))
    rows = {
        str(n): {
            "label": n % 2,
            "weak_labels": [],
            "data": {"text": f"{words[n % 2][0]} {words[n % 2][n % 3 % 2]} {n}"},
        }
        for n in range(120)
    }
    (tmp_path / "weak" / "mine" / "train.json").write_text(json.dumps(rows))
    page = tmp_path / "page.json"
    options = ["--data", str(tmp_path), "--sets", "mine", "--draws", "2", "--output", str(page)]
    monkeypatch.setattr("sys.argv", ["program", *options])
    drawn_functions.main()
    assert "drawn from 1 set of real texts" in capsys.readouterr().out
    assert {row["set"] for row in json.loads(page.read_text())["draws"]} == {"mine"}
    assert "| mine |" in page.with_suffix(".md").read_text()
    (tmp_path / "weak" / "mine" / "train.json").write_text(json.dumps(dict(list(rows.items())[:8])))
    with pytest.raises(SystemExit):
        drawn_functions.main()
    assert "No draw gave 3 functions" in capsys.readouterr().err


def test_runs_are_kept_for_a_set_and_not_for_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`--data` of somebody else's trec must not be answered with what was measured on ours."""
    monkeypatch.setattr(selection, "CACHE", tmp_path)
    monkeypatch.setattr(selection, "ProcessPoolExecutor", Here)
    measured: list[str] = []

    def curve(folder: str) -> dict[str, Any]:
        def work(job: Any) -> dict[str, dict[str, float]]:
            measured.append(job[3])
            return {"0": {"16": 0.5}}

        return selection.curves(work, ["trec"], ["random"], 1, 1, Path(folder))

    monkeypatch.setattr(selection, "read_set", lambda name, folder: text_set(str(folder)))
    for folder in ("ours", "theirs", "ours"):
        assert curve(folder) == {"trec": {"random": {"16": {"mean": 0.5, "sd": 0.0}}}}
    assert measured == ["ours", "theirs"]


class Here:
    """Stands for the pool of processes."""

    def __init__(self, max_workers: int) -> None: ...

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None: ...

    map = staticmethod(map)


def text_set(text: str) -> TextSet:
    nothing = np.zeros((1, 2), np.float32)
    ids = np.zeros(1, np.int64)
    return TextSet("trec", ("a",), nothing, (text,), ids, ids.reshape(1, 1), nothing, ids)


def test_every_part_of_a_set_is_in_its_hash() -> None:
    one = text_set("a")
    assert one.content() == text_set("a").content() != text_set("b").content()
    for name in ("vectors", "labels", "votes", "test_vectors", "test_labels"):
        assert replace(one, **{name: getattr(one, name) + 1}).content() != one.content()
