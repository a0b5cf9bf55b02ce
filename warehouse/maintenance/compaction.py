"""Keeping a warehouse fast and small beside readers and writers: compaction, expiry on purpose, clean-up, vacuum.

Every step holds the write lock for itself only, is one transaction, and may be killed: what it had not finished, the
next call does. Merging keeps every snapshot as it was, since DuckLake notes in the merged file which snapshot each row
came with. Files that no snapshot needs any more stay for a grace, because a reader may have them open; so do files that
no snapshot knows, which a writer that was killed left behind. Snapshots, deleted rows that still lie in files, and what
superseded models said, are given up only when a number of days is named.
"""

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import duckdb

from warehouse.catalog.connection import connect
from warehouse.catalog.disk_full import disk_full
from warehouse.catalog.sqlite_file import vacuum_fault
from warehouse.catalog.write_lock import Sure
from warehouse.commits.lake import Lake
from warehouse.commits.transaction import describe, under_lock
from warehouse.errors import SettingsError, WarehouseBusy, WarehouseError
from warehouse.maintenance.superseded import delete_superseded
from warehouse.session.server_errors import closing, server_fault
from warehouse.storage.checksums import note_all
from warehouse.storage.deleted_rows import tables_with_rows_deleted
from warehouse.storage.durable import NewFiles
from warehouse.storage.layout import give_statistics, set_file_options, sort_tables
from warehouse.text import quote

GRACE_H = 24.0
MOST_DAYS = 1_000_000  # DuckDB's times reach back further
REWRITE_FRAC = 0.5  # share of deleted rows from which a file is written anew
OWN_FILE = re.compile(r"main/[a-z_]+/ducklake-[0-9a-f-]+(-delete)?\.parquet")
MOST_WITH_DELETIONS = 8  # files of a table with any deleted rows; DuckLake merges none of those

_READS_OF_AN_OLDER_SCHEMA = """
    SELECT DISTINCT held.pid FROM ducklake_inlined_data_tables older
    JOIN ducklake_inlined_data_tables newer USING (table_id)
    JOIN pg_locks held ON held.relation = to_regclass(quote_ident(older.table_name))
    WHERE newer.schema_version > older.schema_version
    AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

Done = TypeVar("Done")


@dataclass(frozen=True, kw_only=True, slots=True)
class Maintained:
    """What one call did.

    Attributes:
        rows_flushed: rows of small commits that moved from the catalogue into files.
        files_merged: files that were merged into `files_made`.
        files_rewritten: files of which much was deleted or replaced; earlier snapshots keep the old ones.
        rows_superseded: rows of earlier models and selections that were deleted, of items that nobody was asked about.
        snapshots_expired: numbers of snapshots that cannot be read any more.
        files_removed: files deleted, because no kept snapshot needs them or none ever knew them.
        catalog_bytes: size of a SQLite catalogue before and after; None for PostgreSQL, which vacuums itself.
        vacuumed: False when a reader was at work; the space comes back at the next call.
    """

    rows_flushed: int
    files_merged: int
    files_made: int
    files_rewritten: int
    rows_superseded: int
    snapshots_expired: tuple[int, ...]
    files_removed: int
    catalog_bytes: tuple[int, int] | None
    vacuumed: bool


def maintain(lake: Lake, *, expire_older_than_days: float | None = None, grace_h: float = GRACE_H) -> Maintained:
    """Compact the warehouse and remove what nothing needs.

    Args:
        lake: the warehouse, open for writing.
        expire_older_than_days: give up snapshots older than this, except the newest, and what models and selections
            older than this said of items that nobody was asked about, except the latest; files with rows that were
            deleted before are written anew without any deleted row. None keeps all.
        grace_h: hours that files without use are kept at least; longer than any reader reads. With a SQLite catalogue
            those go that are unused since a day before.

    Raises:
        SettingsError: a number is negative, more than `MOST_DAYS`, or none.
        WarehouseError: also when files that no writer of ours left lie among the data; all else is done then.
        WarehouseBusy, CommitFailed, WarehouseError: as a commit; steps that were done stay done.
    """
    if not (0 <= grace_h <= 24 * MOST_DAYS and 0 <= (expire_older_than_days or 0) <= MOST_DAYS):
        raise SettingsError(
            f"grace ({grace_h} h) and days to keep ({expire_older_than_days}) must not be negative, nor more than "
            f"{MOST_DAYS:,} days."
        )
    if lake.read_only:
        raise WarehouseError(f"The warehouse at {lake.location.words} is open for reading only.")
    _refuse_readers_of_an_older_schema(lake)
    _bring_layout(lake)
    flush = "CALL ducklake_flush_inlined_data('lake')"
    flushed = _step(lake, flush, "maintain: small commits moved into files", partial(_on_one_thread, lake))
    if flushed:
        lake.reopen()  # the flush drops tables of the catalogue that hold rows of an older schema
    superseded = 0
    age = ""
    if expire_older_than_days is not None:
        age = f"now() - INTERVAL '{int(expire_older_than_days * 86_400_000)} milliseconds'"
        words = "maintain: what superseded models said deleted"
        superseded = _commit(lake, partial(delete_superseded, before=age), words)
    merged = _step(lake, "CALL ducklake_merge_adjacent_files('lake')", "maintain: adjacent files merged")
    rewritten = _step(
        lake,
        f"CALL ducklake_rewrite_data_files('lake', delete_threshold => {REWRITE_FRAC})",
        "maintain: files without their deleted rows",
    )
    for table in _to_write_anew(lake, age):
        call = f"CALL ducklake_rewrite_data_files('lake', '{table}', delete_threshold => 0)"
        rewritten += _step(lake, call, f"maintain: {table} without its deleted rows")
        merged += _step(lake, f"CALL ducklake_merge_adjacent_files('lake', '{table}')", f"maintain: {table} merged")
    expired: list[tuple[object, ...]] = []
    if age and (old := _older(lake, age)):
        expired = _step(lake, f"CALL ducklake_expire_snapshots('lake', versions => {old})", "")
    unused = f"now() - INTERVAL '{int(grace_h * 3_600_000)} milliseconds'"
    unneeded = unused
    if lake.location.dsn is None and grace_h:  # by a SQLite catalogue only the day counts, see `_older`
        unneeded = f"date_trunc('day', {unused}) - INTERVAL 1 microsecond"
    removed: list[tuple[object, ...]] = []
    foreign: list[str] = []
    for call, since in (("cleanup_old_files", unneeded), ("delete_orphaned_files", unused)):
        foreign += (theirs := _foreign(lake, call, since))
        if not theirs:
            removed += _step(lake, f"CALL ducklake_{call}('lake', older_than => {since})", "")
    with lake.lock.held(), _asking(lake) as cursor:
        note_all(cursor, lake.location)
    sizes, vacuumed = _vacuum(lake)
    if foreign:
        more = f" and {len(foreign) - 1:,} more" if foreign[1:] else ""
        raise WarehouseError(
            f"Among the files to remove is {foreign[0]}{more}, which is none of the warehouse's. So it stays, and all "
            "that would go with it; all else is done. If it lies among the warehouse's data, move it to another "
            "folder. If not, the catalogue was not written by Siftline alone: bring it back from a backup."
        )
    return Maintained(
        rows_flushed=sum(int(str(row[2])) for row in flushed),
        files_merged=sum(int(str(row[2])) for row in merged),
        files_made=sum(int(str(row[3])) for row in merged),
        files_rewritten=sum(int(str(row[2])) for row in rewritten),
        rows_superseded=superseded,
        snapshots_expired=tuple(int(str(row[0])) for row in expired),
        files_removed=len(removed),
        catalog_bytes=sizes,
        vacuumed=vacuumed,
    )


@contextmanager
def _asking(lake: Lake) -> Generator[duckdb.DuckDBPyConnection]:
    """A cursor for a question between the commits; a server that is away is told by type, as by those."""
    try:
        with closing(lake.new_cursor()) as cursor:
            yield cursor
    except duckdb.Error as error:
        raise server_fault(str(error)) or error from None


def _older(lake: Lake, age: str) -> list[int]:
    """Snapshots from before a time, but the newest.

    DuckLake's `older_than` is not asked: it holds the times in a SQLite catalogue, which are texts, against a text of
    another form, of which only the day counts. So it takes all of the day that the time is in.
    """
    older = f"SELECT snapshot_id FROM ducklake_snapshots('lake') WHERE snapshot_time < {age}"
    with _asking(lake) as cursor:
        newest = "(SELECT max(snapshot_id) FROM ducklake_snapshots('lake'))"
        return [int(n) for (n,) in cursor.execute(f"{older} AND snapshot_id < {newest} ORDER BY ALL").fetchall()]


def _foreign(lake: Lake, call: str, since: str) -> list[str]:
    """Files that DuckLake would remove and no writer of ours made: strangers among the data, or named in the catalogue.

    The catalogue of a warehouse from somebody else may name any file of this machine for removal.
    """
    with _asking(lake) as cursor:
        found = cursor.execute(f"CALL ducklake_{call}('lake', older_than => {since}, dry_run => true)").fetchall()
    top = lake.location.data_path
    paths = [str(path) for path, *_ in found]
    return sorted(p for p in paths if not (p.startswith(top) and OWN_FILE.fullmatch(p.removeprefix(top))))


def _bring_layout(lake: Lake) -> None:
    """Order, file options and statistics for a warehouse that was made before them."""

    def attempt(sure: Sure) -> None:
        with closing(lake.new_cursor()) as cursor:
            cursor.execute("BEGIN TRANSACTION")
            changes = [
                f"{', '.join(names)} {what}"
                for names, what in (
                    (sort_tables(cursor), "sorted from now on"),
                    (give_statistics(cursor), "with statistics"),
                )
                if names
            ]
            if changes:
                describe(cursor, f"maintain: {'; '.join(changes)}")
            sure()
            cursor.execute("COMMIT" if changes else "ROLLBACK")
            set_file_options(cursor)

    under_lock(attempt, lock=lake.lock, new_cursor=lake.new_cursor, location=lake.location)


def _refuse_readers_of_an_older_schema(lake: Lake) -> None:
    """Refuse to flush what a reader would hold up, while nobody else could write: a notebook may stay open for days.

    DuckLake drops the tables of a PostgreSQL catalogue that held rows of an older schema, and waits for their readers.
    Merging without the flush fails there.

    Raises:
        WarehouseBusy: somebody reads such a table.
    """
    if lake.location.dsn is None:
        return
    with _asking(lake) as cursor:
        asked = f"SELECT * FROM postgres_query('__ducklake_metadata_lake', {quote(_READS_OF_AN_OLDER_SCHEMA)})"
        readers = ", ".join(str(pid) for (pid,) in cursor.execute(asked).fetchall())
    if readers:
        raise WarehouseBusy(
            f"A reader, such as a notebook, has rows open from before a table changed (PostgreSQL process {readers}). "
            "Upkeep would wait for it, and nobody could write meanwhile. Close it, or call again later."
        )


def _on_one_thread(lake: Lake) -> duckdb.DuckDBPyConnection:
    """A connection that shares nothing with the lake's, for a flush.

    DuckLake finishes the tables of a flush side by side and notes each in one list without a lock: with two threads the
    process dies of it, once in some hundred flushes. The lake's own threads are not for changing, since that waits for
    them while they wait for what its other users hold (docs/decisions/maintenance-keeps-history.md).
    """
    own = connect(lake.location, read_only=False)
    own.execute("SET threads = 1")
    return own


def _to_write_anew(lake: Lake, age: str) -> list[str]:
    """Tables with many files that have deletions, and where a time is given those with a deletion of before it."""
    with _asking(lake) as cursor:
        found = cursor.execute(
            "SELECT table_name FROM ducklake_table_info('lake') WHERE delete_file_count > ?", [MOST_WITH_DELETIONS]
        )
        names = {str(name) for (name,) in found.fetchall()}
        return sorted(names.union(tables_with_rows_deleted(cursor, age) if age else ()))


def _step(
    lake: Lake, call: str, message: str, opened: Callable[[], duckdb.DuckDBPyConnection] | None = None
) -> list[tuple[object, ...]]:
    """Run one call of DuckLake's as `_commit` does."""
    return _commit(lake, lambda cursor: cursor.execute(call).fetchall(), message, opened)


def _commit(
    lake: Lake,
    work: Callable[[duckdb.DuckDBPyConnection], Done],
    message: str,
    opened: Callable[[], duckdb.DuckDBPyConnection] | None = None,
) -> Done:
    """Do something in a transaction; where nothing was done, no snapshot is made."""

    def attempt(sure: Sure) -> Done:
        written = NewFiles(lake.location)
        with closing((opened or lake.new_cursor)()) as cursor:
            cursor.execute("BEGIN TRANSACTION")
            done = work(cursor)
            if not done:
                cursor.execute("ROLLBACK")
                return done
            if message:
                describe(cursor, message)
            written.sync()
            sure()
            with written.kept():
                cursor.execute("COMMIT")
            return done

    return under_lock(attempt, lock=lake.lock, new_cursor=lake.new_cursor, location=lake.location)


def _vacuum(lake: Lake) -> tuple[tuple[int, int] | None, bool]:
    """Give the catalogue's free pages back; skipped while a reader holds the file."""
    if lake.location.dsn is not None:
        return None, True
    file = lake.location.catalog_file
    before = file.stat().st_size
    with lake.lock.held():
        fault = vacuum_fault(file)
    if fault and "locked" not in fault:
        raise disk_full(fault, lake.location) or WarehouseError(f"The catalogue {file} cannot be vacuumed: {fault}.")
    return (before, file.stat().st_size), not fault
