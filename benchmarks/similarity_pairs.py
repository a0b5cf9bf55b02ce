"""Similarity sets as they are published: pairs of sentences with a score from people, of any range.

A file is CSV, TSV, JSONL (these also gzipped) or Parquet. Columns are known by the names that published sets have
(MTEB, GLUE, SICK, sentence-transformers, SemEval); a file without a heading has sentence, sentence, score, or the
columns of STS-B's own files. Rows of a split named *train* are left out, as files of that name are. Only the order of
scores counts, so 0 to 5, 1 to 5 and 0 to 1 are alike.
"""

import csv
import gzip
import io
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Pairs = list[tuple[str, str, float]]

SUFFIXES = (".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".parquet")
FIRST = ("sentence1", "sentence_1", "sentence_a", "text1", "text_a")
SECOND = ("sentence2", "sentence_2", "sentence_b", "text2", "text_b")
SCORE = ("score", "similarity_score", "relatedness_score", "similarity", "label", "gold_score")
SPLIT = ("split", "semeval_set")
BARE = (0, 1, 2)
BARE_STSB = (5, 6, 4)
"""Places of the sentences and the score in STS-B's own files: genre, file, year, number, score, sentence, sentence."""


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
            raise ValueError(f"{found[name]} and {path} have one name, by which figures are kept; rename one.")
        found[name] = path
    return found


def read_pairs(path: Path) -> Pairs:
    """Pairs of one file.

    Raises:
        ValueError: it cannot be read, lacks a column, or a row has no text or no finite number as its score.
    """
    try:
        pairs = [_pair(row, place) for place, row in _rows(path)]
        if len(pairs) > 1 and len({score for _, _, score in pairs}) == 1:
            raise ValueError("all scores are alike, as where a set keeps its gold scores back")
    except (ValueError, csv.Error, pa.ArrowException, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path} holds no rows of sentence, sentence, score: {error}. Columns may be named "
            f"{FIRST[0]}, {SECOND[0]}, {SCORE[0]}."
        ) from error
    return pairs


def _pair(row: tuple[Any, Any, Any], place: int) -> tuple[str, str, float]:
    first, second, score = row
    try:
        if not isinstance(first, str) or not isinstance(second, str):
            raise ValueError("a sentence is no text")
        value = float(score)
        if not math.isfinite(value):
            raise ValueError(f"its score is {score}")
    except (ValueError, TypeError) as error:
        raise ValueError(f"row {place} is {str(row)[:100]}: {error}") from None
    return first, second, value


def _rows(path: Path) -> Iterator[tuple[int, tuple[Any, Any, Any]]]:
    """Sentence, sentence and score of each row that is of no train split, with the number of the row."""
    if path.suffix.lower() == ".parquet":
        return _named(enumerate(pq.ParquetFile(path).read().to_pylist(), start=1))
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix.lower() == ".gz" else data).decode("utf-8-sig")
    if ".jsonl" in path.name.lower():
        lines = ((place, line) for place, line in enumerate(text.split("\n"), start=1) if line.strip())
        return _named((place, json.loads(line)) for place, line in lines)
    return _delimited(text)


def _named(rows: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, tuple[Any, Any, Any]]]:
    for place, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"row {place} is no object with columns")
        told: dict[str, Any] = {str(name).strip().lower(): value for name, value in row.items()}
        if any("train" in str(told.get(name, "")).lower() for name in SPLIT):
            continue
        columns = [next((name for name in names if name in told), None) for names in (FIRST, SECOND, SCORE)]
        if None in columns:
            raise ValueError(f"row {place} has the columns {', '.join(told)}")
        first, second, score = (told[str(name)] for name in columns)
        yield place, (first, second, score)


def _delimited(text: str) -> Iterator[tuple[int, tuple[Any, Any, Any]]]:
    # STS-B's own files have tabs and are named .csv.
    tabs = text.partition("\n")[0].count("\t") > 1
    quoting = csv.QUOTE_NONE if tabs and not _quoted(text) else csv.QUOTE_MINIMAL
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if tabs else ",", quoting=quoting)
    head = next(reader, [])
    names = [name.strip().lower() for name in head]
    if all(any(name in names for name in known) for known in (FIRST, SECOND, SCORE)):
        told = ((place, _filled(names, row)) for place, row in enumerate(reader, start=2) if row)
        yield from _named(told)
        return
    bare = BARE_STSB if head and head[0].startswith("main-") and len(head) > max(BARE_STSB) else BARE
    for place, row in enumerate(itertools.chain([head], reader), start=1):
        if place == 1 and not _is_number(row[bare[2] : bare[2] + 1]):
            continue  # a heading of other names
        if row:
            first, second, score = ((row[at] if at < len(row) else None) for at in bare)
            yield place, (first, second, score)


def _filled(names: Sequence[str], row: Sequence[str]) -> dict[str, str]:
    if len(row) < len(names):
        raise ValueError(f"a row has {len(row)} columns where the heading has {len(names)}: {str(row)[:100]}")
    return dict(zip(names, row, strict=False))


def _is_number(cell: Sequence[str]) -> bool:
    try:
        return bool(cell) and math.isfinite(float(cell[0]))
    except ValueError:
        return False


def _quoted(text: str) -> bool:
    """Whether quotation marks in a file with tabs are marks around cells, and not of the sentences as in GLUE's."""
    cells = (cell for line in text.splitlines() for cell in line.split("\t") if '"' in cell)
    return all(re.fullmatch(r'"(?:[^"]|"")*"', cell) for cell in cells)
