"""The one function that writes a warehouse: all tables of a run and its row of `runs`, whole or not at all, once.

Concurrent DuckLake writers on SQLite fail with "database is locked" and on PostgreSQL with conflicts (see
docs/decisions/one-function-commits.md). So a commit holds the write lock, is one transaction, and is retried whole.
"""

import getpass
import json
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Any, Protocol, TypeVar

import duckdb
import pyarrow as pa

from warehouse.catalog.disk_full import disk_full, no_leftovers
from warehouse.catalog.location import Location
from warehouse.catalog.write_lock import Sure, WriteLock
from warehouse.commits.row_hash import combine, hash_rows
from warehouse.commits.stage import Append, Delete, Stage, Upsert, Write, newest
from warehouse.errors import CommitFailed, Overtaken, ServerAway, Terminal, WarehouseError, without_secrets
from warehouse.files.permissions import private_files
from warehouse.schema.tables import TABLE_BY_NAME, rows_in_words
from warehouse.session.server_errors import closing, server_fault
from warehouse.storage.checksums import note
from warehouse.storage.durable import NewFiles

ATTEMPTS = 12
PATIENCE_S = 30.0
"""So long a catalogue's server that is away is asked again; an address that nobody has takes minutes to be refused."""
MANY_ROWS = 10_000
"""From so many rows on an `Upsert` asks first whether its table is empty, which saves half of its time then."""
_RETRYABLE = (
    "database is locked",
    "conflict",
    "SQLITE_BUSY",
    "Failed to commit",
    "cannot start a transaction",
    "could not serialize",
    "deadlock detected",
)

Result = TypeVar("Result")


class NewCursor(Protocol):
    """Makes a cursor on the warehouse, as `Lake.new_cursor`."""

    def __call__(self, *, begin: bool = False) -> duckdb.DuckDBPyConnection:
        """A cursor that the caller closes, in a transaction if told to begin one."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """What a commit writes: the rows per table, and what its row of `runs` tells.

    Attributes:
        counts: rows written per table; a delete counts none.
        in_turn: only where the stage's last commit is still the one that this run found.
    """

    stage: Stage
    writes: Sequence[Write]
    counts: Mapping[str, int]
    rows_read: int
    detail: Mapping[str, Any]
    message: str
    in_turn: bool


def plan(
    stage: Stage, writes: Sequence[Write], *, rows_read: int, detail: Mapping[str, Any], message: str, in_turn: bool
) -> Commit:
    """A commit of a stage: writes without rows left out, rows counted, a message made where none is given."""
    writes = [w for w in writes if w.rows.num_rows]
    counts: dict[str, int] = {}
    for write in writes:
        written = 0 if isinstance(write, Delete) else write.rows.num_rows
        counts[write.table] = counts.get(write.table, 0) + written
    message = message or f"{stage.name}: " + (rows_in_words(counts) or "no rows")
    return Commit(
        stage=stage,
        writes=writes,
        counts=counts,
        rows_read=rows_read,
        detail=detail,
        message=message,
        in_turn=in_turn,
    )


def land(commit: Commit, *, new_cursor: NewCursor, lock: WriteLock, location: Location) -> bool:
    """Write a commit.

    Args:
        commit: what to write.
        new_cursor: makes a cursor on the warehouse, open for writing.
        lock: the warehouse's write lock.
        location: where the warehouse is.

    Returns:
        False when the token had been committed before; then nothing is written.

    Raises:
        WarehouseBusy: another process held the write lock for too long.
        ServerAway: the catalogue's server, or the store of the data files, did not come back; the next run finds out
            whether the commit arrived.
        Overtaken: the commit was to be in turn, and another run of the stage was faster; nothing was written.
        CommitFailed: it did not land after all attempts, or the disk is full (`DiskFull`); nothing was written.
        WarehouseError: the rows do not fit the tables; nothing was written.
    """
    tried = False  # our own COMMIT may have arrived although its answer did not, so a token found later is ours
    files: list[Path] = []

    def attempt(sure: Sure) -> bool:
        nonlocal tried
        written = NewFiles(location, {*commit.counts, "runs"})
        with closing(new_cursor(begin=True)) as cursor:
            found, now, newest_run = _look_before(cursor, commit.stage)
            if found:
                note(location, files)
                return tried
            if commit.in_turn and newest_run != commit.stage.previous:
                raise Overtaken(f"Another run of {commit.stage.name} was faster; nothing was written. Run it again.")
            _write_all(cursor, commit, hashes.result, now)
            files.extend(written.sync())
            sure()
            tried = True
            with written.kept():
                cursor.execute("COMMIT")
            note(location, files)
            return True

    with ThreadPoolExecutor(1) as beside:  # hashing needs no lock, and DuckDB writes on little more than one core
        hashes = beside.submit(_hash_all, commit.writes)
        return under_lock(attempt, lock=lock, new_cursor=new_cursor, location=location)


def under_lock(
    attempt: Callable[[Sure], Result], *, lock: WriteLock, new_cursor: NewCursor, location: Location
) -> Result:
    """Run a whole transaction as `retried`, each attempt under the write lock.

    A lock that is held around all of them would be gone after the first one where PostgreSQL was started again in
    between.

    Args:
        attempt: is given what to call right before its COMMIT.
        lock, new_cursor, location: as in `land`.
    """

    def locked() -> Result:
        with lock.held() as sure, private_files(location.folder), no_leftovers(new_cursor, location):
            try:
                return attempt(sure)
            except duckdb.Error as error:
                if full := disk_full(without_secrets(str(error)), location):
                    raise full from error  # told here, where its leftovers are removed
                raise

    return retried(locked, location)


def retried(attempt: Callable[[], Result], location: Location) -> Result:
    """Run a whole transaction, again where another writer or the server was in its way.

    Raises:
        ServerAway: a server of the warehouse's did not come back within `PATIENCE_S`.
        CommitFailed: it did not pass after `ATTEMPTS`, or the disk is full (`DiskFull`).
        WarehouseError: it was refused for a reason that trying again does not change.
    """
    place = location.words
    deadline = time.monotonic() + PATIENCE_S
    for number in range(ATTEMPTS):
        try:
            return attempt()
        except ServerAway:
            if number == ATTEMPTS - 1 or time.monotonic() > deadline:
                raise
        except duckdb.Error as error:
            text = without_secrets(str(error))
            if fault := server_fault(text):
                if isinstance(fault, Terminal) or number == ATTEMPTS - 1 or time.monotonic() > deadline:
                    raise fault from error
            elif full := disk_full(text, location):
                raise full from error
            elif "permission denied for" in text:
                raise WarehouseError(
                    f"The user of {place} may read the catalogue and not write to it; nothing was written. Ask for the "
                    f"right to write to all tables of that database's schema, or only read here: {text}"
                ) from error
            elif not any(sign in text for sign in _RETRYABLE):
                raise WarehouseError(f"The commit to {place} was refused, nothing was written: {text}") from error
            elif number == ATTEMPTS - 1:
                raise CommitFailed(f"The commit to {place} did not land: {text}") from error
        time.sleep(min(2.0, 0.02 * 2**number) * (0.5 + random.SystemRandom().random()))
    raise AssertionError("the loop above returns or raises")


def author() -> str:
    """Who writes: `SIFTLINE_AUTHOR`, else the user of this process."""
    name = os.environ.get("SIFTLINE_AUTHOR", "")
    if name:
        return name
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without an entry in passwd
        return f"uid {os.getuid()}"


def siftline_version() -> str:
    """Installed version of the distribution."""
    return distribution_version("siftline")


def _write_all(
    cursor: duckdb.DuckDBPyConnection, commit: Commit, hashes: Callable[[], Mapping[str, str]], now: datetime
) -> None:
    stage = commit.stage
    run_id = f"{stage.name}-{stage.short_token}"
    for write in commit.writes:
        _write(cursor, write, run_id, now)
    run = pa.table(
        {
            "token": [stage.token],
            "fingerprint": [stage.fingerprint],
            "stage": [stage.name],
            "tables": pa.array([sorted(commit.counts)], pa.list_(pa.string())),
            "rows_read": pa.array([commit.rows_read], pa.int64()),
            "rows_written": [json.dumps(dict(commit.counts), sort_keys=True)],
            "detail": [json.dumps(dict(commit.detail), sort_keys=True)],
            "started_at": pa.array([stage.started_at], pa.timestamp("us", "UTC")),
            "seconds": [stage.elapsed_s()],
            "siftline_version": [siftline_version()],
            "author": [author()],
            "content_hash": [json.dumps(dict(hashes()), sort_keys=True)],
        }
    )
    _write(cursor, Append("runs", run), run_id, now)
    describe(cursor, commit.message)


def describe(cursor: duckdb.DuckDBPyConnection, message: str) -> None:
    """Say in the open transaction's snapshot who made it, and what it is."""
    cursor.execute("CALL ducklake_set_commit_message('lake', ?, ?)", [author(), message])


def _look_before(cursor: duckdb.DuckDBPyConnection, stage: Stage) -> tuple[bool, datetime, str]:
    """Whether the token was committed before, the time of this commit, and the token of the stage's last commit.

    The time is now, or a microsecond after the last commit when the clock stands still or went back: order decides.
    """
    row = cursor.execute(
        "SELECT count(*) FILTER (token = ?), max(committed_at) + INTERVAL 1 MICROSECOND, "
        f"{newest('token', 'stage = ?')} FROM runs",
        [stage.token, stage.name],
    ).fetchone()
    assert row is not None
    now = datetime.now(UTC)
    return row[0] > 0, max(now, row[1]) if row[1] is not None else now, row[2] or ""


def _hash_all(writes: Sequence[Write]) -> dict[str, str]:
    """Per table, the hash of the rows written."""
    parts: dict[str, list[tuple[str, str]]] = {}
    for write in writes:
        try:
            found = hash_rows(write.table, write.rows)
        except pa.ArrowException as error:
            raise WarehouseError(
                f"The rows do not fit the table {write.table}: {error}. Nothing was written."
            ) from error
        parts.setdefault(write.table, []).append((type(write).__name__.lower(), found))
    return {table: combine(hashes) for table, hashes in parts.items()}


def _write(cursor: duckdb.DuckDBPyConnection, write: Write, run_id: str, now: datetime) -> None:
    if isinstance(write, Delete):
        _delete(cursor, write)
        return
    table = TABLE_BY_NAME[write.table]
    given, expected = set(write.rows.column_names), {c.name for c in table.columns}
    left_out = {c.name for c in table.columns if c.optional} - given
    assert given | left_out == expected, f"{write.table}: columns {sorted(given)}, expected {sorted(expected)}"
    cursor.register("siftline_rows", write.rows)
    value = {c.name: "NULL" if c.name in left_out else f'r."{c.name}"' for c in table.columns}
    types = ", ".join(f'{value[c.name]}::{c.type} AS "{c.name}"' for c in table.columns)
    source = f"SELECT {types}, ?::VARCHAR AS run_id, ?::TIMESTAMPTZ AS committed_at FROM siftline_rows r"
    try:
        if isinstance(write, Append) or not table.key or _first_of_many(cursor, write):
            cursor.execute(f'INSERT INTO "{table.name}" BY NAME {source}', [run_id, now])
        else:
            match = " AND ".join(f't."{k}" = s."{k}"' for k in table.key)
            replaced = ", ".join(
                f'"{c.name}" = s.{"committed_at" if c.on_replacement else c.name}' for c in table.all_columns
            )
            cursor.execute(
                f'MERGE INTO "{table.name}" t USING ({source}) s ON {match} '
                f"WHEN MATCHED THEN UPDATE SET {replaced} WHEN NOT MATCHED THEN INSERT BY NAME",
                [run_id, now],
            )
    finally:
        cursor.unregister("siftline_rows")


def _first_of_many(cursor: duckdb.DuckDBPyConnection, write: Upsert) -> bool:
    if write.rows.num_rows < MANY_ROWS:
        return False
    return cursor.execute(f'SELECT count(*) FROM (FROM "{write.table}" LIMIT 1)').fetchone() == (0,)


def _delete(cursor: duckdb.DuckDBPyConnection, write: Delete) -> None:
    known = {c.name for c in TABLE_BY_NAME[write.table].columns}
    names = write.rows.column_names
    assert known.issuperset(names), f"{write.table}: columns {names}, expected some of {sorted(known)}"
    columns = ", ".join(f'"{name}"' for name in names)
    cursor.register("siftline_rows", write.rows)
    try:
        cursor.execute(f'DELETE FROM "{write.table}" WHERE ({columns}) IN (SELECT ({columns}) FROM siftline_rows)')
    finally:
        cursor.unregister("siftline_rows")
