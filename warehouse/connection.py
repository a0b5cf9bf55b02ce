"""Where a warehouse is and how DuckDB gets to it: SQLite or PostgreSQL catalogue, data in a folder or on S3.

Secrets come from the environment only. A password in a setting is refused, PostgreSQL's client library reads PGPASSWORD
by itself, and the keys of S3 go into a DuckDB secret, which DuckDB shows redacted. What DuckDB says about a connection
that failed is passed on only after it was searched for them.
"""

import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import duckdb

from warehouse.away import close, server_fault
from warehouse.catalog_file import CHECKED_BYTES, catalog_faults, catalog_locked
from warehouse.disk import disk_full
from warehouse.errors import (
    ServerAway,
    SettingsError,
    SnapshotNotFound,
    WarehouseError,
    WarehouseNotFound,
    without_secrets,
)
from warehouse.extensions import open_duckdb
from warehouse.forked import refuse_open_before_fork
from warehouse.hung_server import watch
from warehouse.locks import FolderLock, PostgresLock, WriteLock
from warehouse.quoting import quote
from warehouse.stored_sql import refuse_foreign_sql

BUSY_TIMEOUT_MS = 10_000
READS_AS_ONE = "SET GLOBAL sqlite_disable_multithreaded_scans = true"
"""Lets a transaction read all of a SQLite catalogue by its own connection; needs the extension `sqlite_scanner`.

Otherwise each scan opens a connection of its own, which sees the newest state, up to the row that was the last when the
transaction began: after a compaction by somebody else a reader misses rows (docs/decisions/0187).
"""
_METADATA = "__ducklake_metadata_lake"
FILES = f"""
    SELECT s.path || t.path || f.path, f.file_size_bytes FROM (
        SELECT table_id, path, file_size_bytes, begin_snapshot, end_snapshot FROM {_METADATA}.ducklake_data_file
        UNION ALL
        SELECT table_id, path, file_size_bytes, begin_snapshot, end_snapshot FROM {_METADATA}.ducklake_delete_file
    ) f
    JOIN (SELECT DISTINCT table_id, schema_id, path FROM {_METADATA}.ducklake_table) t ON t.table_id = f.table_id
    JOIN (SELECT DISTINCT schema_id, path FROM {_METADATA}.ducklake_schema) s ON s.schema_id = t.schema_id
"""
"""The data files that kept snapshots need: name below the data's place, and bytes."""

_MADE_AT = f"SELECT value FROM {_METADATA}.ducklake_metadata WHERE key = 'data_path' AND scope IS NULL"
_IN_POSTGRES = "A catalogue in PostgreSQL has to be named: by [warehouse] catalog, in Python by warehouse.Location."

Look = Callable[[duckdb.DuckDBPyConnection], int | None]
"""Looks at a warehouse that was just attached; returns the number of the snapshot to read, None for the newest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """Where the catalogue and the data of one warehouse are.

    Args:
        folder: folder of the warehouse on this machine; holds what is not elsewhere.
        catalog: "sqlite" for `catalog.sqlite` in the folder, or "postgres:" and a libpq connection string, such as
            "postgres:dbname=siftline host=db". The database holds one warehouse.
        data: "data" for that folder below, or "s3://bucket/prefix".

    Raises:
        SettingsError: the folder is no path, the catalogue or the data has another form, a password or a hostaddr
            stands in it, or data would be in a folder with a backslash in its path.
    """

    folder: Path
    catalog: str = "sqlite"
    data: str = "data"

    _POSTGRES: ClassVar[str] = "postgres:"

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", folder_of(self.folder).absolute())
        # First what may hold a secret, which no message repeats.
        if "password" in self.catalog.lower() or "://" in self.catalog:
            raise SettingsError(
                "[warehouse] catalog must be of the form 'postgres:dbname=... host=...' without a password. Set the "
                "environment variable PGPASSWORD, or use libpq's ~/.pgpass."
            )
        if "hostaddr" in self.catalog.lower():  # a password in ~/.pgpass is found by host, and sent to hostaddr
            raise SettingsError(
                "[warehouse] catalog names a hostaddr, by which a password that belongs to host would go to another "
                "server. Leave it out, and name the server by host; an address of your own goes into the environment "
                "variable PGHOSTADDR."
            )
        if self.catalog != "sqlite" and not self.catalog.startswith(self._POSTGRES):
            raise SettingsError(
                f"[warehouse] catalog is {self.catalog!r}; it must be 'sqlite' or start with 'postgres:', such as "
                "'postgres:dbname=siftline host=db'."
            )
        # DuckDB takes keys behind a question mark too.
        if "@" in self.data.partition("://")[2].partition("/")[0] or "?" in self.data:
            raise SettingsError(
                "[warehouse] data must be of the form 's3://bucket/prefix' without keys. Set the environment variables "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )
        if self.data != "data" and not self.data.startswith("s3://"):
            raise SettingsError(f"[warehouse] data is {self.data!r}; it must be 'data' or start with 's3://'.")
        if self.on_s3 and (not self.data.removeprefix("s3://").strip("/") or any(sign in self.data for sign in "*[")):
            raise SettingsError(
                f"[warehouse] data is {self.data!r}; it must name a bucket, and better a prefix in it, such as "
                "'s3://bucket/prefix', without * and [."
            )
        if not self.on_s3 and "\\" in str(self.folder):
            raise SettingsError(
                f"The warehouse cannot be in {self.folder}: DuckLake takes the backslash in this path for a border "
                "between folders. Rename the folder, or set [warehouse] path to one whose whole path has no backslash."
            )

    @property
    def dsn(self) -> str | None:
        """libpq connection string of a PostgreSQL catalogue; None for SQLite."""
        return self.catalog.removeprefix(self._POSTGRES) if self.catalog.startswith(self._POSTGRES) else None

    @property
    def catalog_file(self) -> Path:
        """File of a SQLite catalogue."""
        return self.folder / "catalog.sqlite"

    @property
    def data_path(self) -> str:
        """Where the Parquet files are, with a closing slash."""
        return self.data.rstrip("/") + "/" if self.on_s3 else str(self.folder / "data") + os.sep

    @property
    def on_s3(self) -> bool:
        """The Parquet files are on S3 or a server that speaks its protocol."""
        return self.data.startswith("s3://")

    @property
    def words(self) -> str:
        """The warehouse as a person knows it, without secrets."""
        return str(self.folder) if self.dsn is None else self.catalog

    @property
    def extensions(self) -> tuple[str, ...]:
        """DuckDB extensions that it needs."""
        catalog = ("sqlite_scanner",) if self.dsn is None else ("postgres_scanner",)
        return ("ducklake", *catalog, *(("httpfs",) if self.on_s3 else ()))

    def write_lock(self) -> WriteLock:
        """The lock around every write."""
        return FolderLock(self.folder) if self.dsn is None else PostgresLock(self.dsn)


def locate(place: str | Path | Location) -> Location:
    """A location from what callers pass: a folder means SQLite and local data."""
    return place if isinstance(place, Location) else Location(folder=folder_of(place))


def folder_of(place: str | Path) -> Path:
    """The path of a warehouse's folder.

    Raises:
        SettingsError: it is no path.
    """
    try:
        return Path(place)
    except TypeError as error:
        raise SettingsError(f"The warehouse's folder is {place!r}; give its path, such as 'lake'.") from error


def check_present(location: Location, *, create: bool) -> None:
    """Refuse a place without a SQLite catalogue, unless one may be created there; a server is asked by `connect`.

    Raises:
        WarehouseNotFound: there is no warehouse.
        WarehouseError: there are data files, but the catalogue is gone or empty.
    """
    # An empty file is a catalogue that was cut to nothing, or one whose making was cut short.
    if location.dsn is not None or (location.catalog_file.is_file() and location.catalog_file.stat().st_size):
        return
    if _has_files(location):
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


def _has_files(location: Location) -> bool:
    """Whether there are data files in a folder of this machine."""
    return not location.on_s3 and any(Path(location.data_path).rglob("*.parquet"))


def holds_data(cursor: duckdb.DuckDBPyConnection, location: Location) -> bool:
    """Whether there are Parquet files where the warehouse's are to be; `cursor` is on it."""
    if not location.on_s3:
        return _has_files(location)
    found = cursor.execute("SELECT file FROM glob(?) LIMIT 1", [location.data_path + "**/*.parquet"])
    return found.fetchone() is not None


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
            _create_s3_secret(connection, location)
        if location.dsn is None:
            connection.execute(READS_AS_ONE)
        _refuse_damaged(connection, location)
        at = _attach(connection, location, look, read_only=read_only)
        _refuse_files_elsewhere(connection, location)
        if at is not None:
            connection.execute("USE memory")
            connection.execute("DETACH lake")
            _attach(connection, location, None, read_only=True, at=at)
        connection.execute("RESET threads")
    except WarehouseError:
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
            raise _not_allowed(location) or _none_yet(location, text) or _unreadable(location, text) from None
        if fault := server_fault(text):
            raise fault from None
        raise _none_yet(location, text) or WarehouseError(
            f"The catalogue in {location.words} cannot be opened: {text}. Check that the server runs and that "
            "PGPASSWORD is set."
        ) from None
    return connection


def check_store(location: Location) -> None:
    """Ask the store of the data files whether it may be listed with the keys of this environment; writes nothing.

    Raises:
        SettingsError: the keys or the store's address are not set.
        StoreAway, StoreRefused: as they say.
    """
    connection = open_duckdb(location.extensions)
    try:
        _create_s3_secret(connection, location)
        holds_data(connection, location)
    except duckdb.Error as error:
        raise server_fault(str(error)) or error from None
    finally:
        connection.close()


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


def _refuse_files_elsewhere(connection: duckdb.DuckDBPyConnection, location: Location) -> None:
    """A catalogue's files are in one place, and settings may name another (docs/decisions/0204)."""
    _refuse_moved(connection, location)
    if location.dsn is None or location.on_s3:
        return
    folder = Path(location.data_path)
    names = [str(name) for name, _ in connection.execute(FILES).fetchall()]
    if names and not any((folder / name).exists() for name in names):
        raise WarehouseError(
            f"The catalogue in {location.words} has {len(names):,} data files, and none of them is in {folder}: they "
            "are in another folder, here or on another machine, whose settings name this catalogue. What one of both "
            "writes the other could not read. For several machines set [warehouse] data to a place on S3 that all "
            "reach; a copy of a project wants a database of its own under [warehouse] catalog; files that were moved "
            "or lost belong back into this folder."
        )


def _refuse_moved(connection: duckdb.DuckDBPyConnection, location: Location) -> None:
    """Refuse a place to which, or from which on S3, no file of this catalogue was moved.

    Upkeep would remove all that lies there and the catalogue does not name: the files of another project. The place is
    looked at only where it is another than at first.
    """
    if location.dsn is None and not location.on_s3 and Path(location.data_path).is_dir():
        return  # a folder of one machine may be moved, and its catalogue with it
    row = connection.execute(_MADE_AT).fetchone()
    made_at = location.data_path if row is None else str(row[0])
    if made_at == location.data_path or not (location.on_s3 or made_at.startswith("s3://")):
        return
    names = {str(name) for name, _ in connection.execute(FILES).fetchall()}
    newest = max(names, default="", key=lambda name: name.rpartition("/")[2])  # the names go by time
    stored: set[str] = set()
    try:
        for pattern in (f"{newest[:-1]}[t]", "**/*.parquet"):  # one file costs one request, all a request per 1,000
            found = connection.execute("SELECT file FROM glob(?)", [location.data_path + pattern]).fetchall()
            stored = {str(file).removeprefix(location.data_path) for (file,) in found}
            if names & stored:
                return
    except duckdb.Error as error:
        if isinstance(fault := server_fault(str(error)), ServerAway):
            raise fault from None
        return  # a key that may not list the store, with which upkeep removes nothing; what else is wrong reading says
    if names or stored:
        raise WarehouseError(
            f"[warehouse] data names {location.data_path}, and none of the {len(names):,} data files of the catalogue "
            f"in {location.words} is there; it was made with {made_at}. What is written there others could not read, "
            "and upkeep would remove what another project has there. Put the former place back, or copy the files to "
            "the new one first. Another project wants a catalogue of its own: in PostgreSQL, a database."
        )


def _not_allowed(location: Location) -> WarehouseError | None:
    """The error for a catalogue that is well but closed to this user; None where the right to write is there."""
    if all(os.access(path, os.R_OK | os.W_OK) for path in (location.folder, location.catalog_file)):
        return None
    return WarehouseError(
        f"{location.folder} and {location.catalog_file.name} in it cannot be written to by this user, and its SQLite "
        "needs that for reading too. That is no sign of damage: ask for the right to write, or copy the whole project "
        "to a folder of your own and work there."
    )


def _none_yet(location: Location, why: str) -> WarehouseNotFound | None:
    """The error for a catalogue into which a first run is only now putting its tables; None for any other."""
    if "creating a new DuckLake is explicitly disabled" not in why or (location.dsn is None and _has_files(location)):
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
    with nullcontext() if read_only else private_files():
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


_umask = threading.Lock()
_private = 0
_outside = 0o022


@contextmanager
def private_files() -> Generator[None]:
    """Files and folders made in this block are their owner's only: 0600 and 0700.

    DuckDB has no setting for it. The mask is the whole process's, so files that other threads make in the meantime are
    private too.
    """
    global _private, _outside
    with _umask:
        if _private == 0:
            _outside = os.umask(0o077)
        _private += 1
    try:
        yield
    finally:
        with _umask:
            _private -= 1
            if _private == 0:
                os.umask(_outside)


def _create_s3_secret(connection: duckdb.DuckDBPyConnection, location: Location) -> None:
    key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    if not key or not secret:
        connection.close()
        raise SettingsError(
            f"[warehouse] data is {location.data}, but AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not both set. "
            "Set them in the environment."
        )
    try:
        statement = secret_statement(location, key, secret, os.environ.get("AWS_SESSION_TOKEN", ""))
    except SettingsError:
        connection.close()
        raise
    # The extension copies the keys from the environment into settings, where duckdb_settings() would show them.
    for setting in ("s3_access_key_id", "s3_secret_access_key", "s3_session_token"):
        connection.execute(f"SET GLOBAL {setting} = ''")
    connection.execute(statement)


def secret_statement(location: Location, key: str, secret: str, token: str) -> str:
    """The `CREATE SECRET` statement for data on S3 in the store that the environment names; an empty token is none.

    Raises:
        SettingsError: AWS_ENDPOINT_URL is no address of a store.
    """
    options = [f"KEY_ID {quote(key)}", f"SECRET {quote(secret)}", f"SCOPE {quote(location.data_path)}"]
    if token:
        options.append(f"SESSION_TOKEN {quote(token)}")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    options.append(f"REGION {quote(region)}")
    if endpoint := os.environ.get("AWS_ENDPOINT_URL", "").strip():
        scheme, _, host = endpoint.partition("://")
        if scheme.lower() not in ("http", "https") or not host.strip("/") or any(sign in host for sign in "@?#"):
            raise SettingsError(  # without it: it may hold a log-in
                "AWS_ENDPOINT_URL must look like http://host:9000 or https://host, without a log-in. The keys go into "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )
        options += [f"ENDPOINT {quote(host.rstrip('/'))}", "URL_STYLE 'path'"]
        options.append(f"USE_SSL {str(scheme.lower() == 'https').lower()}")
    return f"CREATE SECRET siftline (TYPE s3, PROVIDER config, {', '.join(options)})"
