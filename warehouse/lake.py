"""The warehouse: DuckLake tables in a folder, and the only place that opens or writes them.

A warehouse is a folder with a SQLite catalogue and immutable Parquet files. Readers attach it and see a snapshot;
writers go through `Lake.stage(...).commit(...)`, which holds an inter-process lock and retries the whole transaction,
because concurrent DuckLake writers on SQLite fail with "database is locked" (measured, see docs/decisions/0001).
"""

import getpass
import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from filelock import FileLock, Timeout

from warehouse.errors import CommitFailed, WarehouseBusy, WarehouseError, WarehouseNotFound
from warehouse.extensions import open_duckdb
from warehouse.hashing import combine, hash_rows
from warehouse.migrations import check_schema, migrate, schema_version
from warehouse.reader import Reader
from warehouse.schema import TABLE_BY_NAME, TABLES
from warehouse.stage import Append, Delete, Stage, StageResult, Write, last_token

LOCK_TIMEOUT_S = 300.0
COMMIT_ATTEMPTS = 12
BUSY_TIMEOUT_MS = 10_000
_RETRYABLE = ("database is locked", "conflict", "SQLITE_BUSY", "Failed to commit", "cannot start a transaction")


class Lake:
    """An open warehouse. Safe to use from several threads; every reader and stage has a cursor of its own.

    Args:
        path: folder of the warehouse.
        create: make it when it does not exist.
        read_only: refuse writes; needs no lock and never waits for a writer.

    Raises:
        WarehouseNotFound: there is none and `create` is False.
        WarehouseError: it cannot be opened; the message names the file.
        SchemaTooNew: it was written by a newer Siftline.
    """

    def __init__(self, path: Path, *, create: bool = True, read_only: bool = False) -> None:
        self.path = path.absolute()
        self.catalog = self.path / "catalog.sqlite"
        self.read_only = read_only
        if not self.catalog.is_file():
            if any((self.path / "data").rglob("*.parquet")):
                raise WarehouseError(
                    f"{self.path} holds data files, but its catalogue {self.catalog.name} is gone. Bring it back from "
                    "a backup, or move the folder away and run `siftline run` to build a new warehouse."
                )
            if read_only or not create:
                raise WarehouseNotFound(
                    f"There is no warehouse at {self.path}. Run `siftline run` in the project first, or name another "
                    "project with --project."
                )
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = FileLock(str(self.path / "write.lock"), timeout=LOCK_TIMEOUT_S, mode=0o600)
        if not read_only:
            with self._held_lock():
                self._connection = connect(self.path, read_only=False)
                self._bring_schema()
        else:
            self._connection = connect(self.path, read_only=True)
            self._bring_schema()

    def __enter__(self) -> "Lake":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._connection.close()

    def new_cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own on the same attached warehouse; the caller closes it."""
        cursor = self._connection.cursor()
        cursor.execute("USE lake")
        return cursor

    def read(self) -> Reader:
        """A reader on the newest snapshot; use it as a context manager."""
        return Reader(self.new_cursor(), at=None)

    def snapshot(self) -> int:
        """Number of the newest snapshot."""
        with self.read() as reader:
            return int(reader.scalar("SELECT id FROM lake.current_snapshot()"))

    def table_version(self, table: str) -> str:
        """Token of the last commit that wrote a table; empty when none did."""
        with self.read() as reader:
            return last_token(reader, table)

    def stage(
        self, name: str, *, version: int, inputs: Sequence[str], params: Mapping[str, Any] | None = None
    ) -> Stage:
        """Begin a run of a stage on the newest snapshot; see `docs/architecture.md`.

        Args:
            name: stage name as shown to people.
            version: number of the stage's code; raise it when equal inputs would give another output.
            inputs: tables whose content decides the output.
            params: settings that decide the output; JSON values.
        """
        unknown = [t for t in inputs if t not in TABLE_BY_NAME]
        assert not unknown, f"stage {name} reads unknown tables {unknown}"
        return Stage(self, name, version=version, inputs=inputs, params=params or {})

    def commit_stage(
        self,
        stage: Stage,
        writes: Sequence[Write],
        *,
        rows_read: int,
        detail: Mapping[str, Any],
        message: str,
    ) -> StageResult:
        """Write a stage's tables and its row of `runs`; called by `Stage.commit`."""
        if self.read_only:
            raise WarehouseError(f"The warehouse at {self.path} is open for reading only.")
        writes = [w for w in writes if w.rows.num_rows]
        counts: dict[str, int] = {}
        for write in writes:
            written = 0 if isinstance(write, Delete) else write.rows.num_rows
            counts[write.table] = counts.get(write.table, 0) + written
        message = message or f"{stage.name}: " + (", ".join(f"{n} {t}" for t, n in counts.items()) or "no rows")
        with self._held_lock():
            committed = self._retry(lambda: self._transaction(stage, writes, counts, rows_read, detail, message))
        return StageResult(
            stage=stage.name,
            token=stage.token,
            committed=committed,
            rows_read=rows_read,
            rows_written=counts if committed else {},
            detail=dict(detail),
            seconds=stage.elapsed_s(),
        )

    def content_hash(self, tables: Iterable[str] | None = None) -> dict[str, str]:
        """sha256 of each table's content without bookkeeping columns; independent of row order and of history."""
        names = list(tables) if tables is not None else [t.name for t in TABLES if t.name != "schema_migrations"]
        hashes: dict[str, str] = {}
        with self.read() as reader:
            for name in names:
                columns = [c.name for c in TABLE_BY_NAME[name].columns if not c.bookkeeping]
                row = "to_json([" + ", ".join(f"to_json({c})" for c in columns) + "])::VARCHAR"
                # The column name is qualified by the table, because one of them is called "values".
                lines = reader.rows(f'SELECT {row} AS line FROM "{name}" ORDER BY line')
                digest = hashlib.sha256()
                for (line,) in lines:
                    digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
                hashes[name] = digest.hexdigest()
        return hashes

    # --- writing -------------------------------------------------------------------------------------------------

    def _transaction(
        self,
        stage: Stage,
        writes: Sequence[Write],
        counts: Mapping[str, int],
        rows_read: int,
        detail: Mapping[str, Any],
        message: str,
    ) -> bool:
        cursor = self.new_cursor()
        try:
            cursor.execute("BEGIN TRANSACTION")
            found = cursor.execute("SELECT count(*) FROM runs WHERE token = ?", [stage.token]).fetchone()
            if found and found[0]:
                cursor.execute("ROLLBACK")
                return False
            now = self._next_commit_time(cursor)
            run_id = f"{stage.name}-{stage.short_token}"
            for write in writes:
                _write(cursor, write, run_id, now)
            run = pa.table(
                {
                    "token": [stage.token],
                    "fingerprint": [stage.fingerprint],
                    "stage": [stage.name],
                    "tables": pa.array([sorted(counts)], pa.list_(pa.string())),
                    "rows_read": pa.array([rows_read], pa.int64()),
                    "rows_written": [json.dumps(dict(counts), sort_keys=True)],
                    "detail": [json.dumps(dict(detail), sort_keys=True)],
                    "started_at": pa.array([stage.started_at], pa.timestamp("us", "UTC")),
                    "seconds": [stage.elapsed_s()],
                    "siftline_version": [siftline_version()],
                    "author": [author()],
                    "content_hash": [json.dumps(_hashes(cursor, writes), sort_keys=True)],
                }
            )
            _write(cursor, Append("runs", run), run_id, now)
            cursor.execute("CALL ducklake_set_commit_message('lake', ?, ?)", [author(), message])
            cursor.execute("COMMIT")
            return True
        finally:
            cursor.close()

    def _next_commit_time(self, cursor: duckdb.DuckDBPyConnection) -> datetime:
        """Now, or a microsecond after the last commit when the clock stands still or went back: order decides."""
        row = cursor.execute("SELECT max(committed_at) + INTERVAL 1 MICROSECOND FROM runs").fetchone()
        now = datetime.now(UTC)
        return max(now, row[0]) if row and row[0] is not None else now

    def _retry(self, attempt: Callable[[], bool]) -> bool:
        for number in range(COMMIT_ATTEMPTS):
            try:
                return attempt()
            except duckdb.Error as error:
                text = str(error)
                if "No space left" in text or "disk is full" in text:
                    raise CommitFailed(
                        f"The disk of {self.path} is full; nothing was written. Free space and run again."
                    ) from error
                if not any(sign in text for sign in _RETRYABLE):
                    raise WarehouseError(
                        f"The commit to {self.path} was refused, nothing was written: {text}"
                    ) from error
                if number == COMMIT_ATTEMPTS - 1:
                    raise CommitFailed(f"The commit to {self.path} did not land: {text}") from error
                time.sleep(min(2.0, 0.02 * 2**number) * (0.5 + random.SystemRandom().random()))
        raise AssertionError("the loop above returns or raises")

    def _held_lock(self) -> Any:
        try:
            return self._lock.acquire()
        except Timeout as error:
            raise WarehouseBusy(
                f"Another process holds the write lock of {self.path} for more than {LOCK_TIMEOUT_S:.0f} s. "
                "See who: `siftline status`; the lock frees itself when that process ends."
            ) from error

    def _bring_schema(self) -> None:
        cursor = self.new_cursor()
        try:
            found = schema_version(cursor)
            check_schema(found, str(self.path), read_only=self.read_only)
            if not self.read_only:
                migrate(cursor, found)
        finally:
            cursor.close()


def connect(path: Path, *, read_only: bool, at: int | None = None) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with the warehouse attached as `lake` and in use.

    Args:
        path: folder of the warehouse.
        read_only: attach without the right to write.
        at: number of a kept snapshot to read; the newest when left out.

    Raises:
        WarehouseError: the catalogue cannot be attached; the message names it.
    """
    connection = open_duckdb()
    try:
        connection.execute(attach_statement(path, read_only=read_only, at=at))
    except duckdb.Error as error:
        connection.close()
        raise WarehouseError(
            f"The catalogue {path / 'catalog.sqlite'} cannot be opened: {error}. Restore it from a backup, or move "
            "the folder away and run `siftline run` to build a new warehouse."
        ) from error
    connection.execute("USE lake")
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def connect_locked_down(path: Path, *, at: int | None = None) -> duckdb.DuckDBPyConnection:
    """A read-only connection for SQL that a person types: it reaches the warehouse's own files and nothing else.

    Args:
        path: folder of the warehouse.
        at: number of a kept snapshot to read; the newest when left out.

    Raises:
        WarehouseNotFound: there is no warehouse.
        WarehouseError: the catalogue cannot be opened.
    """
    Lake(path, read_only=True).close()  # the checks and messages of opening
    connection = connect(path.absolute(), read_only=True, at=at)
    connection.execute(f"SET allowed_directories = [{_quote(str(path.absolute()) + os.sep)}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def attach_statement(path: Path, *, read_only: bool, at: int | None = None, name: str = "lake") -> str:
    """The `ATTACH` statement that any DuckDB client can use; `at` is a snapshot number, `name` the catalogue's."""
    options = [
        f"DATA_PATH {_quote(str(path / 'data') + os.sep)}",
        "OVERRIDE_DATA_PATH true",  # the catalogue keeps the folder it was made in; a project may be moved
        "META_JOURNAL_MODE 'WAL'",
        f"META_BUSY_TIMEOUT {BUSY_TIMEOUT_MS}",
    ]
    if read_only:
        options.append("READ_ONLY")
    if at is not None:
        options.append(f"SNAPSHOT_VERSION {at}")
    return f"ATTACH {_quote('ducklake:sqlite:' + str(path / 'catalog.sqlite'))} AS {name} ({', '.join(options)})"


def siftline_version() -> str:
    """Installed version of the distribution."""
    return distribution_version("siftline")


def author() -> str:
    """Who writes: `SIFTLINE_AUTHOR`, else the user of this process."""
    name = os.environ.get("SIFTLINE_AUTHOR", "")
    if name:
        return name
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without an entry in passwd
        return f"uid {os.getuid()}"


def _hashes(cursor: duckdb.DuckDBPyConnection, writes: Sequence[Write]) -> dict[str, str]:
    """Per table, the hash of the rows written; the cast to the table's types is DuckDB's own."""
    parts: dict[str, list[tuple[str, str]]] = {}
    for write in writes:
        known = {c.name: c.type for c in TABLE_BY_NAME[write.table].columns}
        cursor.register("siftline_rows", write.rows)
        try:
            casts = ", ".join(f'"{name}"::{known[name]} AS "{name}"' for name in write.rows.column_names)
            rows = cursor.execute(f"SELECT {casts} FROM siftline_rows").to_arrow_table()
        finally:
            cursor.unregister("siftline_rows")
        parts.setdefault(write.table, []).append((type(write).__name__.lower(), hash_rows(write.table, rows)))
    return {table: combine(hashes) for table, hashes in parts.items()}


def _write(cursor: duckdb.DuckDBPyConnection, write: Write, run_id: str, now: datetime) -> None:
    if isinstance(write, Delete):
        _delete(cursor, write)
        return
    table = TABLE_BY_NAME[write.table]
    expected = [c.name for c in table.columns]
    assert sorted(write.rows.column_names) == sorted(expected), (
        f"{write.table}: columns {write.rows.column_names}, expected {expected}"
    )
    cursor.register("siftline_rows", write.rows)
    types = ", ".join(f'r."{c.name}"::{c.type} AS "{c.name}"' for c in table.columns)
    source = f"SELECT {types}, ?::VARCHAR AS run_id, ?::TIMESTAMPTZ AS committed_at FROM siftline_rows r"
    try:
        if isinstance(write, Append) or not table.key:
            cursor.execute(f'INSERT INTO "{table.name}" BY NAME {source}', [run_id, now])
        else:
            match = " AND ".join(f't."{k}" = s."{k}"' for k in table.key)
            cursor.execute(
                f'MERGE INTO "{table.name}" t USING ({source}) s ON {match} '
                "WHEN MATCHED THEN UPDATE WHEN NOT MATCHED THEN INSERT BY NAME",
                [run_id, now],
            )
    finally:
        cursor.unregister("siftline_rows")


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


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
