"""An open warehouse: what reads and stages are made from, and the only way to write.

Readers see a snapshot and wait for nobody. Writers go through `Lake.stage(...).commit(...)`, which `commit.py` carries
out under the warehouse's lock. Where the catalogue and the data are is `connection.py`'s business.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import duckdb

from warehouse.catalog.connection import check_present, connect
from warehouse.catalog.disk_full import disk_full
from warehouse.catalog.location import Location, locate
from warehouse.catalog.object_store import held_above, holds_data
from warehouse.catalog.reader_locks import Hold
from warehouse.catalog.write_lock import writable
from warehouse.commits.stage import Stage, StageResult, Write, last_token
from warehouse.commits.transaction import land, plan, retried
from warehouse.errors import ServerAway, WarehouseError
from warehouse.files.atomic_file import keep_from_git
from warehouse.files.permissions import private_files
from warehouse.queries.reader import Reader
from warehouse.schema.migrations import check_schema, connect_checked, migrate, schema_version
from warehouse.schema.tables import TABLE_BY_NAME, TABLES
from warehouse.session.fork_guard import refuse_copy, refuse_of_another_process
from warehouse.session.server_errors import close, closing, server_fault


class Lake:
    """An open warehouse. Safe to use from several threads; every reader and stage has a cursor of its own.

    Args:
        place: folder of the warehouse, or its `Location` when the catalogue or the data are elsewhere.
        create: make it when it does not exist.
        read_only: refuse writes; needs no lock and never waits for a writer.

    Raises:
        WarehouseNotFound: there is none and `create` is False.
        WarehouseError: it cannot be opened; the message names the file.
        SchemaTooNew: it was written by a newer Siftline.
    """

    def __init__(self, place: str | Path | Location, *, create: bool = True, read_only: bool = False) -> None:
        self.location = locate(place)
        self.path = self.location.folder
        self.catalog = self.location.catalog_file
        self.read_only = read_only
        self._process = os.getpid()
        self._closed = False
        check_present(self.location, create=create and not read_only)
        if not create and not read_only:
            self._refuse_empty()
        if read_only:
            self._connection = connect_checked(self.location)
            return
        made = not self.path.is_dir()
        with writable(self.path):
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if made:
            keep_from_git(self.path)
        self.lock = self.location.write_lock()
        with self.lock.held(), private_files(self.path):
            if self.location.dsn is None and not os.path.lexists(self.catalog):
                self.catalog.touch(0o660)  # SQLite lets no group write to what it makes itself
            self._connection = connect(self.location, read_only=False)
            retried(self._bring_schema, self.location)

    def __enter__(self) -> "Lake":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise refuse_copy("warehouse", "Lake(...)")

    def close(self) -> None:
        """Close all connections."""
        if self._process == os.getpid():  # in a fork it would close those of the process that goes on with them
            self._closed = True
            self._connection.close()

    def reopen(self) -> None:
        """Have cursors from now on read the catalogue anew: DuckLake keeps what it read of one schema.

        Cursors that are in use stay as they are.
        """
        self._connection = connect(self.location, read_only=self.read_only)
        self._closed = False

    def new_cursor(self, *, begin: bool = False) -> duckdb.DuckDBPyConnection:
        """A connection of its own on the same attached warehouse; the caller closes it.

        Args:
            begin: begin a transaction, which is cheaper than one that is begun later: the catalogue is read once.
        """
        refuse_of_another_process(self._process, "warehouse")
        if self._closed:
            raise WarehouseError(
                "This warehouse is closed, as one is at the end of its `with` block. Open it again: Lake(...)."
            )
        cursor = self._connection.cursor()
        try:
            if begin:
                cursor.execute("BEGIN TRANSACTION")
            cursor.execute("USE lake")
        except duckdb.Error as error:
            close(cursor)
            if known := disk_full(str(error), self.location) or server_fault(str(error)):
                raise known from error
            raise
        return cursor

    def read(self) -> Reader:
        """A reader on the newest snapshot; use it as a context manager."""
        return Reader(self.new_cursor(begin=True), begun=True, hold=Hold.on(self.location))

    def snapshot(self) -> int:
        """Number of the newest snapshot."""
        with self.read() as reader:
            return reader.snapshot()

    def table_version(self, table: str) -> str:
        """Token of the last commit that wrote a table; empty when none did."""
        with self.read() as reader:
            return last_token(reader, table)

    def stage(
        self,
        name: str,
        *,
        version: int,
        inputs: Sequence[str],
        params: Mapping[str, Any] | None = None,
        unfinished: Callable[[Mapping[str, Any]], bool] = lambda _: False,
    ) -> Stage:
        """Begin a run of a stage on the newest snapshot; see `docs/architecture.md`.

        Args:
            name: stage name as shown to people.
            version: number of the stage's code; raise it when equal inputs would give another output.
            inputs: tables whose content decides the output.
            params: settings that decide the output; JSON values.
            unfinished: whether the last commit, by its `detail`, left work that may be done now with equal inputs.
        """
        unknown = [t for t in inputs if t not in TABLE_BY_NAME]
        assert not unknown, f"stage {name} reads unknown tables {unknown}"
        return Stage(self, name, version=version, inputs=inputs, params=params or {}, unfinished=unfinished)

    def commit_stage(
        self,
        stage: Stage,
        writes: Sequence[Write],
        *,
        rows_read: int,
        detail: Mapping[str, Any],
        message: str,
        in_turn: bool = False,
    ) -> StageResult:
        """Write a stage's tables and its row of `runs`; called by `Stage.commit`."""
        if self.read_only:
            raise WarehouseError(f"The warehouse at {self.location.words} is open for reading only.")
        commit = plan(stage, writes, rows_read=rows_read, detail=detail, message=message, in_turn=in_turn)
        committed = land(commit, new_cursor=self.new_cursor, lock=self.lock, location=self.location)
        return StageResult(
            stage=stage.name,
            token=stage.token,
            committed=committed,
            rows_read=rows_read,
            rows_written=commit.counts if committed else {},
            detail=dict(detail),
            seconds=stage.elapsed_s(),
        )

    def content_hash(self, tables: Iterable[str] | None = None) -> dict[str, str]:
        """sha256 of each table's content without bookkeeping columns; independent of row order and of history."""
        names = list(tables) if tables is not None else [t.name for t in TABLES if t.name != "schema_migrations"]
        hashes: dict[str, str] = {}
        with self.read() as reader:
            for name in names:
                columns = [
                    c.name
                    for c in TABLE_BY_NAME[name].columns
                    if not c.bookkeeping and (not c.optional or reader.scalar(f'SELECT count({c.name}) FROM "{name}"'))
                ]
                row = "to_json([" + ", ".join(f"to_json({c})" for c in columns) + "])::VARCHAR"
                # The column name is qualified by the table, because one of them is called "values".
                lines = reader.rows(f'SELECT {row} AS line FROM "{name}" ORDER BY line')
                digest = hashlib.sha256()
                for (line,) in lines:
                    digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
                hashes[name] = digest.hexdigest()
        return hashes

    def _refuse_empty(self) -> None:
        """Look before an opening for writing would make what is missing."""
        with contextlib.closing(connect(self.location, read_only=True)) as connection:
            if not schema_version(connection):
                check_schema(0, self.location.words, read_only=True)

    def _refuse_used(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """A new catalogue knows no files: those that are there are another one's, and maintenance would remove them."""
        try:
            used = holds_data(cursor, self.location)
        except duckdb.Error as error:
            if isinstance(server_fault(str(error)), ServerAway):
                raise
            used = False  # a key that may not list the store; what else is wrong the first commit will say
        if used:
            raise WarehouseError(
                f"{self.location.data_path} holds data files, and the catalogue in {self.location.words} is new: they "
                "are another warehouse's, and each would remove the other's. Give this one a place of its own "
                "([warehouse] path or data), or bring its catalogue back from a backup."
            )

        if above := held_above(self.location):
            raise WarehouseError(
                f"{self.location.data_path} is inside {above}, where another warehouse has its data files: its upkeep "
                "would stop at those of this one. Give this one a place beside it ([warehouse] data)."
            )

    def _bring_schema(self) -> None:
        with closing(self.new_cursor()) as cursor:
            found = schema_version(cursor)
            check_schema(found, self.location.words, read_only=False)
            if not found:
                self._refuse_used(cursor)
            migrate(cursor, found, self.location)
