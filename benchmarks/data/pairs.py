"""Similarity sets as they are published: pairs of sentences with a score from people, of any range.

A file is CSV, TSV, JSONL (these also gzipped) or Parquet. Columns are known by the names that published sets have
(MTEB, GLUE, SICK, sentence-transformers, SemEval); a file without a heading has sentence, sentence, score, or the
columns of STS-B's own files. Rows of a split named *train* are left out, as files of that name are.
"""

import csv
import gzip
import io
import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Pairs = list[tuple[str, str, float]]
Cells = tuple[int, list[Any]]
"""Number of a row; its sentence, sentence and score."""

SUFFIXES = (".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".parquet")
COLUMNS = (
    ("sentence1", "sentence_1", "sentence_a", "text1", "text_a"),
    ("sentence2", "sentence_2", "sentence_b", "text2", "text_b"),
    ("score", "similarity_score", "relatedness_score", "similarity", "label", "gold_score"),
)
SPLIT = ("split", "semeval_set")
BARE, BARE_STSB = (0, 1, 2), (5, 6, 4)
"""Places of the sentences and the score in a file without a heading, and in STS-B's own files."""


def pair_files(folder: Path) -> dict[str, Path]:
    """Files of similarity pairs below a folder by name, without those named *train*.

    Raises:
        ValueError: two have one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)
        if suffix is None or "train" in path.name.lower() or not path.is_file():
            continue
        name = path.relative_to(folder).as_posix()[: -len(suffix)]
        if name in found:
            raise ValueError(f"{found[name]} and {path} have one name, by which figures are kept. Rename one.")
        found[name] = path
    return found


def read_pairs(path: Path) -> Pairs:
    """Pairs of one file.

    Raises:
        ValueError: it cannot be read, lacks a column, or a row has no text or no finite number as its score.
    """
    try:
        pairs = [_pair(place, row) for place, row in _rows(path)]
        if len(pairs) > 1 and len({score for _, _, score in pairs}) == 1:
            raise ValueError("all scores are alike, as where a set keeps its gold scores back")
    except (ValueError, csv.Error, pa.ArrowException, EOFError, gzip.BadGzipFile) as error:
        named = ", ".join(names[0] for names in COLUMNS)
        raise ValueError(
            f"{path} holds no rows of sentence, sentence, score: {error}. Columns may be named {named}."
        ) from error
    return pairs


def _pair(place: int, row: list[Any]) -> tuple[str, str, float]:
    first, second, score = row
    try:
        if not isinstance(first, str) or not isinstance(second, str):
            raise ValueError("a sentence is no text")
        if not math.isfinite(float(score)):
            raise ValueError(f"its score is {score}")
    except (ValueError, TypeError) as error:
        raise ValueError(f"row {place} is {str(tuple(row))[:100]}: {error}") from None
    return first, second, float(score)


def _rows(path: Path) -> Iterator[Cells]:
    name = path.name.lower()
    if name.endswith(".parquet"):
        return _named(enumerate(pq.ParquetFile(path).read().to_pylist(), start=1))
    data = path.read_bytes()
    text = (gzip.decompress(data) if name.endswith(".gz") else data).decode("utf-8-sig")
    if ".jsonl" in name:
        lines = enumerate(text.split("\n"), start=1)
        return _named((place, json.loads(line)) for place, line in lines if line.strip())
    # STS-B's own files have tabs and are named .csv.
    tabs = text.partition("\n")[0].count("\t") > 1
    quoting = csv.QUOTE_NONE if tabs and not _quoted(text) else csv.QUOTE_MINIMAL
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t" if tabs else ",", quoting=quoting))
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    if not all(any(name in head for name in names) for names in COLUMNS):
        return _bare(rows)
    for row in rows[1:]:
        if row and len(row) < len(head):
            raise ValueError(f"a row has {len(row)} columns where the heading has {len(head)}: {str(row)[:100]}")
    return _named((place, dict(zip(head, row, strict=False))) for place, row in enumerate(rows[1:], start=2) if row)


def _named(rows: Iterable[tuple[int, Any]]) -> Iterator[Cells]:
    for place, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"row {place} is no object with columns")
        cells = {str(name).strip().lower(): value for name, value in row.items()}
        if any("train" in str(cells.get(name, "")).lower() for name in SPLIT):
            continue
        columns = [next((name for name in names if name in cells), None) for names in COLUMNS]
        if None in columns:
            raise ValueError(f"row {place} has the columns {', '.join(cells)}")
        yield place, [cells[str(name)] for name in columns]


def _bare(rows: list[list[str]]) -> Iterator[Cells]:
    stsb = rows and rows[0] and rows[0][0].startswith("main-") and len(rows[0]) > max(BARE_STSB)
    places = BARE_STSB if stsb else BARE
    for number, row in enumerate(rows, start=1):
        cells = [row[place] if place < len(row) else None for place in places]
        if row and (number > 1 or _is_number(cells[2])):  # else it is a heading of other names
            yield number, cells


def _is_number(cell: str | None) -> bool:
    try:
        return math.isfinite(float(cell or "none"))
    except ValueError:
        return False


def _quoted(text: str) -> bool:
    """Whether quotation marks in a file with tabs are marks around cells, and not of the sentences as in GLUE's."""
    cells = (cell for line in text.splitlines() for cell in line.split("\t") if '"' in cell)
    return all(re.fullmatch(r'"(?:[^"]|"")*"', cell) for cell in cells)
