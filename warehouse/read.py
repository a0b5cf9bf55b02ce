"""Opening the warehouse to read it at one snapshot: the newest, a numbered one, or the one in force at a time.

This is the door for data scientists. What it gives is a `Reader`: one snapshot however long it stays open, beside a
pipeline that writes. The past is part of the warehouse until its snapshots are expired on purpose, and whatever is no
longer kept is said so: reading a neighbouring snapshot instead would be a wrong answer without a sign.
"""

from datetime import UTC, datetime
from pathlib import Path

import duckdb

from warehouse.connection import Location
from warehouse.connection import connect as attach
from warehouse.errors import SettingsError, SnapshotNotFound, WarehouseNotFound
from warehouse.lake import Lake
from warehouse.migrations import connect_checked
from warehouse.protection import connect_locked_down, refuse_reaching_out
from warehouse.reader import Reader

# CREATE makes temporary tables, also for PIVOT; the warehouse itself is attached read-only. EXPLAIN is left out, since
# EXPLAIN ANALYZE runs what it explains, even a COPY.
_ALLOWED = {duckdb.StatementType.SELECT, duckdb.StatementType.CREATE}

At = int | str | datetime | None
"""A snapshot number, a time (ISO text or datetime; UTC unless it names its zone), or None for the newest."""


def connect(path: Path | str | Location, *, read_only: bool = True, at: At = None) -> Reader:
    """Open a warehouse for reading at one snapshot. Use the result as a context manager, or close it.

    Args:
        path: folder of the warehouse, the one that holds `catalog.sqlite`, or its `Location`.
        read_only: always True; it stands here because people who know `duckdb.connect` look for it.
        at: snapshot number or time; the newest when left out.

    Raises:
        WarehouseNotFound: there is no warehouse at this place.
        SnapshotNotFound: the snapshot does not exist, lies in the future or has been expired.
        SettingsError: `at` cannot be read, or `read_only` is False.
        SchemaTooNew, SchemaTooOld: another Siftline wrote it.
    """
    if not read_only:
        raise SettingsError(
            "connect() only reads. What writes is a stage, in one commit: Lake(path).stage(...).commit(...); see "
            "warehouse/README.md."
        )
    folder = _folder(path)
    number = resolve(folder, at)
    # Where there is a number, `resolve` has checked the schema.
    connection = connect_checked(folder) if number is None else attach(folder, read_only=True, at=number)
    return Reader(connection, at=number)


def connect_for_people(path: Path | Location, *, at: At = None) -> duckdb.DuckDBPyConnection:
    """A locked-down connection at a snapshot, for SQL that a person types; raises as `connect` does."""
    folder = _folder(path)
    return connect_locked_down(folder, at=resolve(folder, at))


def reading_statements(connection: duckdb.DuckDBPyConnection, query: str) -> list[duckdb.Statement]:
    """The statements of a person's query, all of which only read.

    Raises:
        SettingsError: one of them would write or leave the warehouse.
        duckdb.Error: the query cannot be parsed.
    """
    statements = connection.extract_statements(query)
    refuse_reaching_out(query)
    for statement in statements:
        if statement.type not in _ALLOWED:
            raise SettingsError(
                f"This {statement.type.name} is not for this prompt, which only reads. To write a file, name it: "
                'siftline sql --format csv --output file.csv "select ..."'
            )
    return statements


def resolve(path: Path | Location, at: At) -> int | None:
    """Number of the kept snapshot that `at` means; None for the newest.

    Raises:
        SnapshotNotFound: there is none, or it cannot be told because its neighbours were expired.
        SettingsError: `at` is neither a number nor a time.
    """
    wanted = parse_at(at)
    if wanted is None:
        return None
    with Lake(path, read_only=True) as lake, lake.read() as reader:
        # Schema version 0 is the empty catalogue from before the first table.
        rows = reader.rows(
            "SELECT snapshot_id, snapshot_time FROM lake.snapshots() WHERE schema_version > 0 ORDER BY snapshot_id"
        )
    kept = [(int(number), time) for number, time in rows]
    return _numbered(wanted, kept) if isinstance(wanted, int) else _in_force(wanted, kept)


def parse_at(at: At) -> int | datetime | None:
    """A snapshot number or a time with its zone from what a person wrote; None for the newest."""
    if isinstance(at, str):
        text = at.strip()
        if text.isascii() and text.isdigit():
            return int(text)
        try:
            at = datetime.fromisoformat(text)
        except ValueError as error:
            raise SettingsError(
                f"'{at}' is neither a snapshot number nor a time. Write 42, 2026-11-24 or 2026-11-24T09:30+01:00; "
                "`siftline snapshots` lists both."
            ) from error
    if isinstance(at, datetime):
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at
    if isinstance(at, int) and at < 0:
        raise SettingsError(f"Snapshot {at} cannot exist; the numbers begin at 0. `siftline snapshots` lists them.")
    return at


def _numbered(number: int, kept: list[tuple[int, datetime]]) -> int:
    numbers = [n for n, _ in kept]
    newest = numbers[-1]
    if number > newest:
        raise SnapshotNotFound(
            f"There is no snapshot {number} yet; the newest is {newest}. `siftline snapshots` lists them."
        )
    if number < numbers[0]:
        raise SnapshotNotFound(
            f"Snapshot {number} was expired or is older than the first table; the oldest that can be read is "
            f"{numbers[0]}. `siftline snapshots` lists them."
        )
    if number not in numbers:
        raise SnapshotNotFound(
            f"Snapshot {number} was expired and cannot be read any more; the nearest kept are "
            f"{max(n for n in numbers if n < number)} and {min(n for n in numbers if n > number)}. "
            "`siftline snapshots` lists them."
        )
    return number


def _in_force(time: datetime, kept: list[tuple[int, datetime]]) -> int:
    if time > datetime.now(UTC):
        raise SnapshotNotFound(
            f"{time.isoformat()} lies in the future; the newest snapshot is {kept[-1][0]} of "
            f"{kept[-1][1].isoformat()}. Leave the time out to read it."
        )
    before = [n for n, t in kept if t <= time]
    after = [n for n, t in kept if t > time]
    if not before:
        raise SnapshotNotFound(
            f"No snapshot of {time.isoformat()} is kept; the oldest is {kept[0][0]} of {kept[0][1].isoformat()}. "
            "`siftline snapshots` lists them."
        )
    if after and after[0] != before[-1] + 1:
        raise SnapshotNotFound(
            f"Which snapshot was in force at {time.isoformat()} cannot be told: those between {before[-1]} and "
            f"{after[0]} were expired. Name one of the two by its number."
        )
    return before[-1]


def _folder(path: Path | str | Location) -> Path | Location:
    """The folder as an absolute path; a project's folder is told apart from its warehouse's."""
    if isinstance(path, Location):
        return path
    folder = Path(path).absolute()
    inside = folder / "lake"
    if not (folder / "catalog.sqlite").is_file() and (inside / "catalog.sqlite").is_file():
        raise WarehouseNotFound(f"{folder} is not a warehouse, but the folder {inside} in it is; name that one.")
    return folder
