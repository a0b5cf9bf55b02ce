"""Where raw records come from: the settings of a source, the files it names, and a digest of their content.

The digest decides whether anything is new, so a second run on the same files stops after hashing them.
"""

import glob
import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from warehouse import SettingsError, Transient

SPLITS = ("train", "valid", "test")
SUFFIXES = {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
FORMATS = ("auto", "parquet", "csv", "tsv", "jsonl")
MOST_COLUMNS = 50
MOST_CHARACTERS = 100
"""Columns that a message names, and of each name."""

ARRAY_HINT = (
    "jq -c '.[]' FILE > data.jsonl, and without jq python3 -c 'import json, sys; [print(json.dumps(record)) for record "
    "in json.load(sys.stdin)]' < FILE > data.jsonl"
)
"""How an array of objects becomes one object a line, the only JSON that is read however large it is."""
_HINTS = {
    ".json": f"Name a file of one object a line .jsonl; an array becomes that by {ARRAY_HINT}",
    ".txt": "One with columns: end its name in .csv or .tsv. One text a line: jq -Rc '{text: .}' FILE > data.jsonl",
    ".xlsx": "Save the sheet as CSV UTF-8",
    ".xls": "Save the sheet as CSV UTF-8",
    **{f".{kind}": "Unpack it, or pack it with gzip" for kind in ("zst", "bz2", "xz", "zip", "7z")},
}

FileFormat = Literal["parquet", "csv", "tsv", "jsonl"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """Settings of one source of raw records.

    Attributes:
        name: name of the source, unique in a project.
        path: file or glob relative to the project folder; .parquet, or .csv .tsv .jsonl .ndjson plain or as .gz.
        query: a DuckDB SELECT instead of a path; it may read files below the project folder only.
        format: how to read the files; `auto` goes by their names.
        text: column or field that holds the text.
        id: column or field that holds the caller's id; a record without one is known by its content hash.
        split: column or field that holds train, valid or test.
        default_split: split of a record that names none.
        metadata: further columns or fields to keep.
        max_record_bytes: longest record, in raw bytes, that is read.
        max_total_bytes: most bytes that one gzip file may unpack to.

    Raises:
        SettingsError: a value is wrong.
    """

    name: str
    path: str | None = None
    query: str | None = None
    format: str = "auto"
    text: str = "text"
    id: str | None = None
    split: str | None = None
    default_split: str = "train"
    metadata: tuple[str, ...] = ()
    max_record_bytes: int = 1 << 20
    max_total_bytes: int = 8 << 30

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise SettingsError("A source has an empty name. Give every [[sources]] a name.")
        if bool(self.path) == bool(self.query):
            raise SettingsError(
                f"Source '{self.name}' has path={self.path!r} and query={self.query!r}. Give exactly one of them."
            )
        if self.format not in FORMATS:
            raise SettingsError(f"Source '{self.name}': format is {self.format!r}, allowed are {', '.join(FORMATS)}.")
        if self.default_split not in SPLITS:
            raise SettingsError(
                f"Source '{self.name}': default_split is {self.default_split!r}, allowed are {', '.join(SPLITS)}."
            )
        if not self.text:
            raise SettingsError(f"Source '{self.name}': text is empty. Name the column that holds the text.")
        for limit, value in (("max_record_bytes", self.max_record_bytes), ("max_total_bytes", self.max_total_bytes)):
            if value < 1:
                raise SettingsError(f"Source '{self.name}': {limit} is {value}; it must be 1 or more.")

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column or field the source reads, each once."""
        named = (self.text, self.id, self.split, *self.metadata)
        return tuple(dict.fromkeys(column for column in named if column))


class SourceChanged(Transient):
    """A source changed while it was read; nothing was stored. Run again when nobody writes to it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """One file of a source. `name` is relative to the project folder, as people read it in messages."""

    name: str
    path: Path
    format: FileFormat
    gzip: bool

    def state(self) -> tuple[int, int, int]:
        """Size in bytes, time of change in ns and inode: differs when the file was changed or replaced.

        Raises:
            SourceChanged: it is gone.
        """
        try:
            found = os.stat(self.path)
        except FileNotFoundError as error:
            raise self._gone() from error
        return (found.st_size, found.st_mtime_ns, found.st_ino)

    def open(self) -> io.FileIO:
        """Its raw bytes.

        Raises:
            SourceChanged: it is gone.
        """
        try:
            return io.FileIO(self.path)
        except FileNotFoundError as error:
            raise self._gone() from error

    def sha256(self) -> str:
        """sha256 of the raw bytes, hexadecimal, read as a stream.

        Raises:
            SettingsError: the file cannot be read.
            SourceChanged: it is gone.
        """
        try:
            with self.open() as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise SettingsError(f"{self.path} cannot be read: {error.strerror}. Mend its permissions.") from error

    def _gone(self) -> SourceChanged:
        return SourceChanged(
            f"{self.path} went away while this run read it; nothing was stored. Run again when nobody moves its files."
        )


def find_files(source: SourceConfig, root: Path) -> list[SourceFile]:
    """Files of a source with a path, sorted by name.

    Args:
        source: a source whose `path` is set.
        root: project folder.

    Raises:
        SettingsError: no file matches, or its format cannot be told.
    """
    assert source.path is not None
    pattern = source.path
    if (root / pattern).exists() or not glob.has_magic(pattern):
        names = [pattern]
    else:
        # A pattern with ** twice finds one file by several ways.
        names = sorted({n for n in glob.glob(pattern, root_dir=root, recursive=True) if not (root / n).is_dir()})
        if not names:
            raise SettingsError(
                f"Source '{source.name}': no file matches {pattern!r} in {root}. Put the data there, or change "
                "`path` in siftline.toml."
            )
    for name in names:
        if not (root / name).is_file():
            what = "is not a regular file" if (root / name).exists() else "does not exist"
            raise SettingsError(
                f"Source '{source.name}': {root / name} {what}. Put the data there, or change `path` in siftline.toml."
            )
    return [_source_file(source, root, name) for name in names]


class MissingColumns(SettingsError):
    """A file or query does not have columns that its source asks for.

    Attributes:
        missing: the columns that are not there, as people read them.
        found: the columns that are there, as people read them.
    """

    def __init__(self, source: SourceConfig, where: str, found: list[str]) -> None:
        there = set(found)
        self.missing = ", ".join(repr(c) for c in source.columns if c not in there)
        self.found = _shown(found) or "none"
        super().__init__(
            f"Source '{source.name}': {where} has no column {self.missing}. It has: {self.found}. Set text, id, split "
            "and metadata of this source in siftline.toml to columns that exist."
        )


def _shown(names: list[str]) -> str:
    """Names of columns; spaces around one and one without a name are seen, and very many or long ones are cut."""
    shown = [(name if name and name == name.strip() else repr(name))[:MOST_CHARACTERS] for name in names[:MOST_COLUMNS]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def check_columns(source: SourceConfig, where: str, found: list[str]) -> None:
    """Refuse a file or query that lacks a column of its source, or has it more than once.

    Raises:
        MissingColumns, SettingsError: it does.
    """
    if not set(source.columns) <= set(found):
        raise MissingColumns(source, where, found)
    for column in source.columns:
        if (times := found.count(column)) > 1:
            raise SettingsError(
                f"Source '{source.name}': {where} has the column {column!r} {times} times. Rename all but one."
            )


def _source_file(source: SourceConfig, root: Path, name: str) -> SourceFile:
    path = root / name
    suffixes = [s.lower() for s in path.suffixes]
    gzipped = bool(suffixes) and suffixes[-1] == ".gz"
    suffix = next(reversed(suffixes[:-1] if gzipped else suffixes), "")
    format = SUFFIXES.get(suffix) if source.format == "auto" else source.format
    if format is None:
        hint = _HINTS.get(suffix, "Rename it, or set `format` of this source")
        raise SettingsError(
            f"Source '{source.name}': the format of {name} cannot be told from its name. Known endings: "
            f"{', '.join(SUFFIXES)} (the text formats also with .gz). {hint}."
        )
    if format == "parquet" and gzipped:
        raise SettingsError(
            f"Source '{source.name}': {name} is Parquet inside gzip, which cannot be read as a stream. Unpack it: "
            f"gunzip {name}"
        )
    known: dict[str, FileFormat] = {"parquet": "parquet", "csv": "csv", "tsv": "tsv", "jsonl": "jsonl"}
    return SourceFile(name=name, path=path, format=known[format], gzip=gzipped)
