"""The tables that a run leaves in Prefect's view say of how many they are, and of whose labels."""

import base64
from pathlib import Path

import pytest

from flows.figures import Rows, curve_picture, figures
from tests.flows import report_lake


def test_of_too_many_figures_those_with_the_most_labels_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with report_lake.full_lake(tmp_path / "lake") as lake, lake.read() as reader:
        whole = {name: (rows, words) for name, rows, words in figures(reader)}
        monkeypatch.setattr("flows.figures.FIGURES", 20)
        cut = {name: (rows, words) for name, rows, words in figures(reader)}
    rows, words = whole["metrics"]
    assert len(rows) == 3 * (3 + 4 * 2 + 1)
    assert words == "All figures, seeds averaged. 16 of the present labels are the simulated annotator's."
    rows, words = cut["metrics"]
    assert words.startswith("The 20 of 36 figures with the most labels, seeds averaged.")
    assert [row["labels"] for row in rows] == [60] * 3 + [16] * 15 + [8] * 2
    assert {"series": "siftline", "metric": "accuracy", "split": "test", "labels": 16, "value": 0.908} in rows


def test_the_curve_goes_by_labels_also_where_their_number_fell() -> None:
    curve: Rows = [
        {"gold labels": n, "accuracy": value, "split": "valid"}
        for n, value in ((0, 0.8), (32, 0.9), (16, 0.85), (64, ""))
    ]
    picture = base64.b64decode(curve_picture(curve).split(",")[1]).decode()
    places = [float(pair.split(",")[0]) for pair in picture.split('points="')[1].split('"')[0].split()]
    assert places == [60, 320, 580]
    assert "Valid accuracy by number" in picture
