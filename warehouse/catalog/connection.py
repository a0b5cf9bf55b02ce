"""How DuckDB gets to a warehouse: what is refused at opening, and in which words.

Secrets come from the environment only: PostgreSQL's client library reads PGPASSWORD by itself, the keys of S3 go into a
DuckDB secret (`warehouse.catalog.object_store`). What DuckDB says about a connection that failed is passed on only
after it was searched for them.
"""

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import duckdb

from warehouse.catalog.disk_full import disk_full
from warehouse.catalog.location import Location, locate
from warehouse.catalog.object_store import create_secret, has_files, refuse_files_elsewhere
from warehouse.catalog.sqlite_file import CHECKED_BYTES, catalog_faults, catalog_locked
from warehouse.catalog.trusted_sql import refuse_foreign_sql
from warehouse.errors import SettingsError, SnapshotNotFound, WarehouseError, WarehouseNotFound, without_secrets
from warehouse.files.permissions import private_files
from warehouse.session.extensions import open_duckdb
from warehouse.session.fork_guard import refuse_open_before_fork
from warehouse.session.server_errors import close, server_fault
from warehouse.session.server_health import watch
from warehouse.text import quote

BUSY_TIMEOUT_MS = 10_000
READS_AS_ONE = "SET GLOBAL sqlite_disable_multithreaded_scans = true"
"""Lets a transaction read all of a SQLite catalogue by its own connection; needs the extension `sqlite_scanner`.

Otherwise each scan opens a connection of its own, which sees the newest state, up to the row that was the last when the
transaction began: after a compaction by somebody else a reader misses rows.
"""
_IN_POSTGRES = "A catalogue in PostgreSQL has to be named: by [warehouse] catalog, in Python by warehouse.Location."

Look = Callable[[duckdb.DuckDBPyConnection], int | None]
"""Looks at a warehouse that was just attached; returns the number of the snapshot to read, None for the newest."""


def check_present(location: Location, *, create: bool) -> None:
    """Refuse a place without a SQLite catalogue, unless one may be created there; a server is asked by `connect`.

    Raises:
        WarehouseNotFound: there is no warehouse.
        WarehouseError: there are data files, but the catalogue is gone or empty; or this user may not look.
    """
    if location.dsn is None and _is_closed(location.folder):
        raise _not_allowed(location)
    # An empty file is a catalogue that was cut to nothing, or one whose making was cut short.
    if location.dsn is not None or (location.catalog_file.is_file() and location.catalog_file.stat().st_size):
        return
    if has_files(location):
        raise WarehouseError(
            f"{location.folder} holds data files, but its catalogue {location.catalog_file.name} is gone or empty. "
            "Bring it back from a backup, or move the folder away and run `siftline run` to build a new warehouse. "
            f"{_IN_POSTGRES}"
        )
    if not create:
        raise WarehouseNotFound(
            f"There is no warehouse at {location.folder}. Run `siftline run` in the project first, or name another "
            f"project with --project.{f' {_IN_POSTGRES}' if location.folder.is_dir() else ''}"
        )


def connect(
    place: Path | Location,
    *,
    read_only: bool,
    look: Look | None = None,
) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with the warehouse attached as `lake` and in use.

    Args:
        place: the warehouse, or its folder.
        read_only: attach without the right to write.
        look: is called first, in the transaction that reads the catalogue; what it raises is raised, and where it
            returns a number, that snapshot is attached instead of the newest.

    Raises:
        WarehouseNotFound: there is none, and `read_only` cannot make it.
        WarehouseError: the catalogue is damaged, cannot be attached, holds SQL that is not Siftline's, has its data
            files in another folder, is a link and is to be written to, or was open when this process was forked; the
            message names it.
        SnapshotNotFound: the snapshot that `look` named was expired meanwhile.
        WarehouseBusy: another program keeps the catalogue locked.
        CatalogAway: the server of a PostgreSQL catalogue does not answer.
        DiskFull: there is no room for the 32 KiB that SQLite needs beside the catalogue.
    """
    location = locate(place)
    if not read_only:
        _refuse_linked(location)
    check_present(location, create=not read_only)
    if location.dsn is None:
        refuse_open_before_fork(location.catalog_file)
    else:
        watch(location.dsn)
    # The catalogue is small: more threads, and more transactions than one, double what opening costs.
    connection = open_duckdb(location.extensions, threads=1)
    at: int | None = None
    try:
        if location.on_s3:
            create_secret(connection, location)
        if location.dsn is None:
            connection.execute(READS_AS_ONE)
        _refuse_damaged(connection, location)
        at = _attach(connection, location, look, read_only=read_only)
        refuse_files_elsewhere(connection, location)
        if at is not None:
            connection.execute("USE memory")
            connection.execute("DETACH lake")
            _attach(connection, location, None, read_only=True, at=at)
        connection.execute("RESET threads")
    except (SettingsError, WarehouseError):
        close(connection)
        raise
    except duckdb.Error as error:
        close(connection)
        text = without_secrets(str(error))
        if full := disk_full(text, location):
            raise full from None
        if at is not None and "No snapshot found" in text:
            raise SnapshotNotFound(
                f"Snapshot {at} was expired just now and cannot be read any more. `siftline snapshots` lists those "
                "that are kept."
            ) from None
        if location.dsn is None:
            if busy := catalog_locked(text, location.catalog_file):
                raise busy from None
            if not all(os.access(path, os.R_OK | os.W_OK) for path in (location.folder, location.catalog_file)):
                raise _not_allowed(location) from None
            raise _none_yet(location, text) or _unreadable(location, text) from None
        if fault := server_fault(text):
            raise fault from None
        raise _none_yet(location, text) or WarehouseError(
            f"The catalogue in {location.words} cannot be opened: {text}. Check that the server runs and that "
            "PGPASSWORD is set."
        ) from None
    return connection


def _refuse_linked(location: Location) -> None:
    """A link may lead to another warehouse, whose lock and data lie beside it, or to any SQLite file (0162)."""
    file = location.catalog_file
    if location.dsn is None and file.is_symlink():
        raise WarehouseError(
            f"The catalogue {file} is a link to {file.resolve()}. It is not written to, since its lock and its data "
            "files would be taken from beside the link. Give the folder of that file as [warehouse] path, or put a "
            f"link in the place of the whole folder {location.folder.name}. If the project is from somebody else, do "
            "not use it."
        )


def _refuse_damaged(connection: duckdb.DuckDBPyConnection, location: Location) -> None:
    file = location.catalog_file
    if location.dsn is not None or not file.is_file() or not 0 < file.stat().st_size <= CHECKED_BYTES:
        return
    if faults := catalog_faults(connection, file, "quick_check"):
        raise _unreadable(location, f"it is damaged ({'; '.join(faults)})")


def _is_closed(folder: Path) -> bool:
    """Whether this user may not look into a folder, or not into one above it."""
    try:
        return folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK)
    except PermissionError:
        return True


def _not_allowed(location: Location) -> WarehouseError:
    """The error for a catalogue that is well but closed to this user."""
    return WarehouseError(
        f"{location.folder} and {location.catalog_file.name} in it cannot be written to by this user, and its SQLite "
        "needs that for reading too. That is no sign of damage: let its owner open it to your group "
        "(siftline docs operations 'Other accounts'), or copy the whole project to a folder of your own and work there."
    )


def _none_yet(location: Location, why: str) -> WarehouseNotFound | None:
    """The error for a catalogue into which a first run is only now putting its tables; None for any other."""
    if "creating a new DuckLake is explicitly disabled" not in why or (location.dsn is None and has_files(location)):
        return None
    return WarehouseNotFound(f"There is no warehouse in {location.words} yet. Run `siftline run` in the project first.")


def _unreadable(location: Location, why: str) -> WarehouseError:
    words = why.partition("Stack Trace")[0].strip()
    return WarehouseError(
        f"The catalogue {location.catalog_file} cannot be opened: {words}. Bring it back from a backup, or move the "
        "folder away and run `siftline run` to build a new warehouse."
    )


def _attach(
    connection: duckdb.DuckDBPyConnection,
    location: Location,
    look: Look | None,
    *,
    read_only: bool,
    at: int | None = None,
) -> int | None:
    # A reader makes no file but SQLite's log, which has the rights of its catalogue whatever the mask.
    with nullcontext() if read_only else private_files(location.folder):
        connection.execute(attach_statement(location, read_only=read_only, at=at))
    connection.execute("BEGIN TRANSACTION")
    connection.execute("USE lake")  # reads the catalogue
    refuse_foreign_sql(connection, location.words, at=at)
    found = look(connection) if look is not None else None
    connection.execute("COMMIT")
    return found


def attach_statement(place: Path | Location, *, read_only: bool, at: int | None = None, name: str = "lake") -> str:
    """The `ATTACH` statement that any DuckDB client can use; it holds no secret.

    To a SQLite catalogue `READS_AS_ONE` belongs beside it, or a transaction may lose rows while upkeep works.

    Args:
        place: the warehouse, or its folder.
        read_only: attach without the right to write.
        at: number of a kept snapshot; the newest when left out.
        name: what the warehouse is called in that client.
    """
    location = locate(place)
    # The catalogue keeps the place it was made in; a project may be moved.
    options = [f"DATA_PATH {quote(location.data_path)}", "OVERRIDE_DATA_PATH true"]
    if location.dsn is None:
        target = f"ducklake:sqlite:{location.catalog_file}"
        options += ["META_JOURNAL_MODE 'WAL'", f"META_BUSY_TIMEOUT {BUSY_TIMEOUT_MS}"]
    else:
        target = f"ducklake:postgres:{location.dsn}"
    if read_only:
        options.append("READ_ONLY")
    if at is not None:
        options.append(f"SNAPSHOT_VERSION {at}")
    return f"ATTACH {quote(target)} AS {name} ({', '.join(options)})"
