"""Files that other tools export, as docs/label-studio.md has them: taken as they are, or by a line of SQL."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.readers.label_file import read_label_file
from warehouse import DataError

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
            "id": 60 + who,
            "created_at": "2026-11-30T10:00:00.000000Z",
            "completed_by": who,
            "was_cancelled": skipped,
            "result": [
                {"from_name": "stars", "value": {"rating": 3}},
                {"from_name": "urgency", "value": {"choices": ["now"]}},
                *([{"from_name": "label", "value": {"choices": names}}] if names else []),
            ],
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
    "Prodigy's labels of several people": (
        text(
            "export.jsonl",
            '{"text": "a", "label": "grain", "answer": "accept", "_annotator_id": "corn-ann"}',
            '{"text": "a", "label": "corn", "answer": "accept", "_annotator_id": "corn-bob"}',
            '{"text": "b", "label": "corn", "answer": "reject", "_annotator_id": "corn-bob"}',
        ),
        [("corn-ann", ("grain",)), ("corn-bob", ("corn",)), ("corn-bob", None)],
    ),
    "Argilla's submitted responses, by `records.to_datasets().to_parquet`": (
        table(
            **{
                "text": ["a", "b"],
                "topic.responses": [["grain", "corn", "wheat"], None],
                "topic.responses.users": [["ann", "bob", "eve"], None],
                "topic.responses.status": [["submitted", "submitted", "discarded"], None],
            }
        ),
        [("ann", ("grain",)), ("bob", ("corn",))],
    ),
    "numbers for classes, as in other files of Hugging Face": (
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
    "a row for each class of a text": (
        text("export.csv", "text,label", "a,grain", "a,grain", "b,corn"),
        [("", ("corn",)), ("", ("grain",))],
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
    given = [(row.annotator, row.labels) for row in read_label_file(Path("labels.jsonl"))]
    assert sorted(given, key=str) == sorted(expected, key=str)


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
        ("doccano.json", ["﻿ [", '{"id": 1, "text": "a", "label": ["grain"]}', "]"], [("", ("grain",))]),
        (
            "studio.json",  # JSON-MIN, as 1.23.2 writes it
            [
                '[{"text": "a", "id": 1, "label": "grain", "annotator": 2, "annotation_id": 1},',
                '{"text": "a", "id": 1, "label": {"choices": ["grain", "corn"]}, "annotator": 3},',
                '{"text": "a", "id": 1, "stars": [{"rating": 3}], "annotator": 4, "annotation_id": 3}]',
            ],
            [("2", ("grain",)), ("3", ("grain", "corn")), ("4", None)],
        ),
        (
            "lines.json",
            ['{"text": "a", "label": "grain"}', '{"text": "a", "label": null}'],
            [("", ("grain",)), ("", None)],
        ),
    ],
)
def test_these_are_taken_as_they_are(
    tmp_path: Path, name: str, lines: list[str], expected: list[tuple[str, tuple[str, ...] | None]]
) -> None:
    text(name, *lines)(tmp_path)
    given = read_label_file(tmp_path / name)
    assert [(row.annotator, row.labels) for row in given] == expected
    assert {row.content_hash for row in given} == {
        "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"  # sha256 of "a"
    }


@pytest.mark.parametrize(
    ("labels", "feature", "expected"),
    [
        ([1, 0, -1, None, 7], {"names": ["corn", "grain"]}, [("grain",), ("corn",), None, None, ("7",)]),
        ([[1, 0], []], {"feature": {"names": ["corn", "grain"]}, "_type": "List"}, [("grain", "corn"), ()]),
        (["grain"], {"names": ["corn", "wheat"]}, [("grain",)]),
        ([1], {"dtype": "int64", "_type": "Value"}, [("1",)]),
        ([1], ["names"], [("1",)]),
    ],
)
def test_a_parquet_file_of_hugging_face_says_what_its_numbers_mean(
    tmp_path: Path, labels: list[object], feature: object, expected: list[tuple[str, ...] | None]
) -> None:
    table = pa.table({"text": ["a"] * len(labels), "label": labels})
    said = json.dumps({"info": {"features": {"text": {"dtype": "string"}, "label": feature}}})
    pq.write_table(table.replace_schema_metadata({"huggingface": said}), tmp_path / "train.parquet")
    assert [row.labels for row in read_label_file(tmp_path / "train.parquet")] == expected


@pytest.mark.parametrize(
    ("name", "lines", "told"),
    [
        (
            "a.json",
            ['[{"text": "a", "label": "grain"}, {"data": {}, "id": 2}]'],
            "entry 2 has the fields data, id. Call",
        ),
        ("a.json", ['[{"text": "a", "label": "grain"}, 3]'], "entry 2 is no object"),
        ("a.json", ['[{"text": "a", "text": "b", "label": "grain"}]'], "in the array the field 'text' stands 2 times"),
        (
            "a.json",
            [studio((1, ["grain"], False))],
            "Export CSV or JSON-MIN from Label Studio in place of JSON, or take",
        ),
        (
            "a.json",
            ['[{"id": "1", "fields": {"text": "a"}, "responses": {"topic": [{"value": "grain", "user_id": "ann"}]}}]'],
            "Argilla's JSON does not say which responses are drafts; its Parquet does, by the line of: siftline docs",
        ),
        (
            "a.json",
            ['[{"text": "a", "annotation_id": 1, "mood": "bad"}]'],
            "the labels 'label'; for files of other tools",
        ),
        ("a.json", ["[1,"], "cannot be read as JSON with columns id or text, and label"),
        (
            "a.jsonl",
            ['{"text": "a", "accept": ["grain"]}'],
            "labels 'label'; for files of other tools: siftline docs label-st",
        ),
        (
            "a.jsonl",
            ['{"text": "a", "label": 0}'],
            "Names of numbers: siftline docs label-studio 'Files of other tools'",
        ),
    ],
)
def test_what_is_not_such_a_file_is_told_with_the_way(tmp_path: Path, name: str, lines: list[str], told: str) -> None:
    text(name, *lines)(tmp_path)
    with pytest.raises(DataError, match=re.escape(told)):
        read_label_file(tmp_path / name)
