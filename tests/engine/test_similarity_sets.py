"""Similarity sets in the forms in which they are published come out as the same pairs."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.data.pairs import pair_files, read_pairs

PAIRS = [
    ("A man, singing.", 'He said "hi" to her.', 4.5),
    ('"Stop," she said.', "It\u2028rains.", 0.5),
    ("Zwölf Züge", "", 1.0),
]


def delimited(head: list[str] | None, rows: list[list[Any]], sign: str, quoting: Any = csv.QUOTE_MINIMAL) -> bytes:
    told = io.StringIO(newline="")
    if quoting == csv.QUOTE_NONE:
        told.write("".join(sign.join(map(str, row)) + "\n" for row in ([head] if head else []) + rows))
    else:
        csv.writer(told, delimiter=sign, quoting=quoting).writerows(([head] if head else []) + rows)
    return told.getvalue().encode()


def columns(*names: str) -> list[dict[str, Any]]:
    return [dict(zip(names, pair, strict=True)) for pair in PAIRS]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    told = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), told)
    return told.getvalue()


FORMS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "bare": ("a.csv", lambda: delimited(None, [list(p) for p in PAIRS], ",")),
    "another heading": ("a.csv", lambda: delimited(["a", "b", "c"], [list(p) for p in PAIRS], ",")),
    "mark of the order of bytes": ("a.csv", lambda: b"\xef\xbb\xbf" + delimited(None, [list(p) for p in PAIRS], ",")),
    "STS-B": (
        "sts-test.csv",
        lambda: delimited(
            None, [["main-news", "headlines", "2016", "0001", p[2], p[0], p[1]] for p in PAIRS], "\t", csv.QUOTE_NONE
        ),
    ),
    "GLUE": (
        "dev.tsv",
        lambda: delimited(
            ["index", "genre", "sentence1", "sentence2", "score"],
            [["7", "main-news", *p] for p in PAIRS],
            "\t",
            csv.QUOTE_NONE,
        ),
    ),
    "tabs and marks around cells": (
        "dev.tsv",
        lambda: delimited(["sentence1", "sentence2", "score"], [list(p) for p in PAIRS], "\t"),
    ),
    "SICK": (
        "SICK.tsv",
        lambda: delimited(
            ["pair_ID", "sentence_A", "sentence_B", "relatedness_score", "entailment_judgment"],
            [["7", *p, "NEUTRAL"] for p in PAIRS],
            "\t",
            csv.QUOTE_NONE,
        ),
    ),
    "sentence-transformers": (
        "stsbenchmark.tsv.gz",
        lambda: gzip.compress(
            delimited(
                ["split", "genre", "score", "sentence1", "sentence2"],
                [["train", "x", "2.0", "a", "b"], *(["test", "x", p[2], p[0], p[1]] for p in PAIRS)],
                "\t",
                csv.QUOTE_NONE,
            )
        ),
    ),
    "MTEB": ("test.jsonl.gz", lambda: gzip.compress(lines(columns("sentence1", "sentence2", "score")))),
    "scores as texts": ("test.jsonl", lambda: lines([{**row, "score": str(row["score"])} for row in columns(
        "sentence1", "sentence2", "score")])),
    "Hugging Face": ("test-00000.parquet", lambda: parquet(columns("sentence1", "sentence2", "label"))),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_published_form_is_read(tmp_path: Path, form: str) -> None:
    name, made = FORMS[form]
    (tmp_path / name).write_bytes(made())
    assert read_pairs(tmp_path / name) == PAIRS


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"sentence1": "a", "sentence2": "b"}\n', "row 1 has the columns sentence1, sentence2.*named"),
        ("a.jsonl", b"[1]\n", "row 1 is no object"),
        ("a.jsonl", b'{"sentence1": "a", "sentence2": null, "score": 1}\n', "a sentence is no text"),
        ("a.tsv", b"sentence1\tsentence2\tscore\na\tb\n", "a row has 2 columns where the heading has 3"),
        ("a.csv", b"a,b,1\nc,d\n", "row 2 is .*"),
        ("a.csv", b"a,b,-1\nc,d,-1\n", "all scores are alike"),
        ("a.csv.gz", b"a,b,1\n", "holds no rows of sentence, sentence, score"),
        ("a.parquet", b"a,b,1\n", "holds no rows of sentence, sentence, score"),
    ],
)
def test_other_files_are_refused_with_what_they_lack(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_pairs(tmp_path / name)


def test_sets_in_folders_have_names_of_their_own(tmp_path: Path) -> None:
    for name in ("STS12/test.jsonl", "STS13/test.jsonl", "STS13/train.jsonl", "dev.csv", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(pair_files(tmp_path)) == ["STS12/test", "STS13/test", "dev"]
    (tmp_path / "dev.tsv").touch()
    with pytest.raises(ValueError, match="one name"):
        pair_files(tmp_path)
