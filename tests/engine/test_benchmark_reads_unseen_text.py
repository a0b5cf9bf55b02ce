"""The encoder's benchmark measures on texts that no training saw, however its copy of them is written."""

import gzip
from pathlib import Path

import pytest

from benchmarks.engine_data import read_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("sts", "text", "unlabelled"):
        (tmp_path / name).mkdir()
    (tmp_path / "sts/dev.csv").write_text("A man sings.,A man is singing.,4.5\nA dog runs.,It rains.,0.5\n", "utf-8")
    (tmp_path / "text/reviews").write_text('1 it \'s a " fine " film .\n0 a dull one\n', "latin-1")
    (tmp_path / "text/old").write_text("1 it rains\n", "latin-1")
    with gzip.open(tmp_path / "unlabelled/some.tsv.gz", "wt", encoding="utf-8") as file:
        file.write('web\tIt\'s a "fine" film.\nweb\tIt rains\n')
    return tmp_path


def test_texts_of_training_are_left_out_and_counted(folder: Path) -> None:
    data = read_data(folder, pairs=None, texts=10, seed=0)
    assert data.texts["reviews"] == ["a dull one"]
    assert data.seen == {"dev": 1, "old": 1, "reviews": 1}
    assert "old" not in data.texts


def test_pairs_stay_whole(folder: Path) -> None:
    data = read_data(folder, pairs=None, texts=10, seed=0)
    assert len(data.pairs["dev"]) == 2
    assert "It rains." in data.texts["dev"]


@pytest.mark.parametrize(
    "row", ["7,A man sings.,He sings.", "A man sings.\tHe sings.\t4", "A man sings.,He sings.,nan"]
)
def test_pairs_in_other_columns_are_refused_by_name(folder: Path, row: str) -> None:
    (folder / "sts/other.csv").write_text(f"a,b,score\n{row}\n", "utf-8")
    with pytest.raises(ValueError, match=r"other\.csv holds no rows of sentence, sentence, score: row 2"):
        read_data(folder, pairs=None, texts=10, seed=0)


def test_a_set_of_numbers_has_no_texts(folder: Path) -> None:
    (folder / "weak/census").mkdir(parents=True)
    (folder / "weak/census/test.json").write_text('{"0": {"label": 0, "data": {"feature": [1.0]}}}', "utf-8")
    assert "census" not in read_data(folder, pairs=None, texts=10, seed=0).texts
