"""Files that other tools export, as docs/label-studio.md has them: taken as they are, or by a line of SQL."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from warehouse.label_file import read_given_labels

PAGE = (Path(__file__).parents[2] / "docs" / "label-studio.md").read_text("utf-8")
LINES = dict(re.findall(r"^\| ([^|]+) \| `(select .+)` \|$", PAGE, re.MULTILINE))


def text(name: str, *lines: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_text("".join(line + "\n" for line in lines), "utf-8")

    return write


def table(**columns: Sequence[object]) -> Callable[[Path], None]:
    return lambda folder: pq.write_table(pa.table(columns), folder / "export.parquet")


def studio(*annotations: tuple[int, list[str], bool]) -> str:
    given = [
        {
            "completed_by": who,
            "was_cancelled": skipped,
            "result": [{"from_name": "label", "value": {"choices": names}}] if names else [],
        }
        for who, names, skipped in annotations
    ]
    return json.dumps([{"id": 7, "data": {"text": "a"}, "annotations": given}])


FILES: dict[str, tuple[Callable[[Path], None], list[tuple[object, ...]]]] = {
    "Label Studio's JSON, of one class or several": (
        text(
            "export.json", studio((1, ["grain"], False), (2, ["corn", "wheat"], False), (3, [], False), (4, [], True))
        ),
        [("1", ("grain",)), ("2", ("corn", "wheat")), ("3", ())],
    ),
    "a label by another name": (
        text("export.csv", "text,annotator,sentiment", "a,ann,grain"),
        [("ann", ("grain",))],
    ),
    "Prodigy's choices": (
        text(
            "export.jsonl",
            '{"text": "a", "accept": ["grain", "corn"], "answer": "accept"}',
            '{"text": "b", "accept": [], "answer": "ignore"}',
        ),
        [("", ("grain", "corn"))],
    ),
    "Argilla's responses": (
        table(**{"text": ["a"], "topic.responses": [["grain", "corn"]], "topic.responses.users": [["ann", "bob"]]}),
        [("ann", ("grain",)), ("bob", ("corn",))],
    ),
    "numbers for classes, as in Hugging Face data sets": (
        table(text=["a", "b"], label=[0, 2]),
        [("", ("grain",)), ("", ("corn",))],
    ),
    "names in another case": (
        text("export.csv", "\ufefftext;label", "a;Grain", "b;CORN"),
        [("", ("grain",)), ("", ("corn",))],
    ),
    "several classes in one cell, `grain;wheat`": (
        text("export.csv", "id,label", "1,grain;corn", "2,", "3,corn"),
        [("", ("grain", "corn")), ("", ()), ("", ("corn",))],
    ),
    "a column of 0 and 1 for each class": (
        text("export.csv", "id,text,grain,corn", "1,a,1,1", "2,b,0,0", "3,c,0,1"),
        [("", ("grain", "corn")), ("", ()), ("", ("corn",))],
    ),
}


def test_every_line_of_the_page_is_tried() -> None:
    assert {*LINES} == {*FILES, "contradictions, to look at"}


@pytest.mark.parametrize("there_is", FILES)
def test_a_line_makes_a_file_of_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there_is: str) -> None:
    monkeypatch.chdir(tmp_path)
    make, expected = FILES[there_is]
    make(tmp_path)
    duckdb.connect().sql(f"copy ({LINES[there_is]}) to 'labels.jsonl'")
    assert sorted((row.annotator, row.labels) for row in read_given_labels(Path("labels.jsonl"))) == sorted(expected)


def test_contradictions_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text("export.csv", "text,label", "a,grain", "a,corn", "b,corn", "b,corn")(tmp_path)
    rows = duckdb.connect().sql(LINES["contradictions, to look at"]).fetchall()
    assert [(name, sorted(labels)) for name, labels in rows] == [("a", ["corn", "grain"])]


@pytest.mark.parametrize(
    ("name", "lines", "expected"),
    [
        ("excel.csv", ["\ufefftext;label\r", "a;grain\r"], [("", ("grain",))]),
        (
            "studio.csv",  # as 1.23.2 writes it
            [
                '"annotation_id","annotator","id","label","text"',
                '1,"2",1,"grain","a"',
                '2,"3",1,"{""choices"":[""grain"",""corn""]}","a"',
            ],
            [("2", ("grain",)), ("3", ("grain", "corn"))],
        ),
        (
            "prodigy.jsonl",
            [f'{{"text": "a", "label": "grain", "answer": "{said}"}}' for said in ("accept", "reject", "ignore")],
            [("", ("grain",)), ("", None), ("", None)],
        ),
        ("doccano.jsonl", ['{"id": 1, "text": "a", "label": ["grain"], "Comments": []}'], [("", ("grain",))]),
    ],
)
def test_these_are_taken_as_they_are(
    tmp_path: Path, name: str, lines: list[str], expected: list[tuple[str, tuple[str, ...] | None]]
) -> None:
    text(name, *lines)(tmp_path)
    given = read_given_labels(tmp_path / name)
    assert [(row.annotator, row.labels) for row in given] == expected
    assert {row.content_hash for row in given} == {
        "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"  # sha256 of "a"
    }
