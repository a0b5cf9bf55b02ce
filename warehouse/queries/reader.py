"""Reading one snapshot: rows, Arrow tables and matrices, all from the same moment."""

import contextlib
import os
import re
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Self, cast

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warehouse.catalog.reader_locks import Hold
from warehouse.errors import DataError, SettingsError, WarehouseError
from warehouse.session.fork_guard import refuse_copy, refuse_of_another_process
from warehouse.session.interrupt import stopped_with_us, stream, taken
from warehouse.session.server_errors import close, server_fault

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

Matrix = npt.NDArray[np.float32]
Params = Sequence[Any] | Mapping[str, Any]
"""Values of a query: in the order of its `?`, or by the names of its `$name`."""
Reopen = Callable[[int], duckdb.DuckDBPyConnection]
VECTOR_BATCH_ROWS = 122_880
"""Rows per batch of `read_vectors`: one row group of DuckDB."""
PLACED_BATCH_ROWS = 32_768
"""Rows per batch of `matrix_of`, which scatters them: 50 MB of 384 floats."""
_OWN = re.compile(rf'Python Object "(\w+)" of type .* found on line "{re.escape(__file__)}:')
"""What DuckDB says of a name in a query under which it finds, before any frame of the caller's, a variable of ours."""
_SNAPSHOT = "SELECT id FROM lake.current_snapshot()"
_TAKEN_AS_IS = frozenset((str, int, float, bool, bytes, datetime, date, type(None)))
"""Told apart at once: a list of values may hold a million."""


class Reader:
    """A read transaction on the warehouse. Use it as a context manager; every read sees the same snapshot.

    Queries take values as DuckDB does: `rows("... WHERE item_id = ?", [item])` or `rows("... = $a", {"a": item})`.
    A query that fails while it runs, or that Ctrl-C stops, ends the transaction, and temporary tables with it. The next
    read opens the same snapshot again where the reader knows how, as those of `warehouse.connect` do; the others raise
    `WarehouseError`, and a new one has to be opened. So it is where another SQLite in this process took the reader's
    locks on the catalogue; a query that went on without them is an error.

    Threads may share a reader, `batches` excepted: their reads wait for each other, since DuckDB keeps one result for a
    connection, and whoever fetches it gets that of the latest query, whosever that is. A fork of the process may not go
    on with it.

    Args:
        connection: to the warehouse; the reader closes it.
        begun: its transaction is begun already.
        again: opens a connection to the warehouse at the snapshot of a number.
        hold: its locks on a SQLite catalogue.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        *,
        begun: bool = False,
        again: Reopen | None = None,
        hold: Hold | None = None,
    ) -> None:
        self._connection = connection
        self._hold = hold
        self._turn = threading.RLock()
        self._process = os.getpid()
        self._failed = self._closed = False
        self._asked = 0
        self._again: Callable[[], duckdb.DuckDBPyConnection] | None = None
        try:
            if not begun:
                self._connection.execute("BEGIN TRANSACTION")
            if again is not None:
                self._again = partial(again, self.snapshot())
        except BaseException:
            self.close()  # nobody else can
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise refuse_copy("reader", "warehouse.connect(folder, at=number)")

    def close(self) -> None:
        """End the read transaction; the reader cannot be used afterwards."""
        if self._process == os.getpid():  # in a fork it would end that of the process that goes on with it
            self._closed = True
            close(self._connection)

    @contextlib.contextmanager
    def _asking(self) -> Generator[None]:
        refuse_of_another_process(self._process, "reader")
        if self._closed:
            raise WarehouseError(
                "This reader is closed, as one is at the end of its `with` block. Open another one, as you opened it."
            )
        if self._again is not None and ((lost := self._has_lost()) or (self._failed and _is_aborted(self._connection))):
            if lost:  # SQLite takes no lock anew that it believes to have
                close(self._connection)
            opened = self._again()
            opened.execute("BEGIN TRANSACTION")
            opened.execute(_SNAPSHOT).fetchall()  # takes its locks, as a query may read nothing of the catalogue
            close(self._connection)
            self._connection = opened
            if self._hold is not None:
                self._hold.renew()
        self._failed = True  # until it went well
        try:
            with stopped_with_us(self._connection):
                yield
            if self._hold is not None and self._has_lost():
                raise self._hold.error()
            self._failed = False
        except duckdb.Error as error:
            if fault := server_fault(str(error)):
                raise fault from error
            if own := _OWN.search(str(error)):
                raise SettingsError(
                    f"A frame named {own[1]} is not found by its variable's name, since the reader has a variable "
                    f"{own[1]} itself. Give yours another name."
                ) from error
            if not isinstance(error, duckdb.TransactionException) or "is aborted" not in str(error):
                raise
            raise WarehouseError(
                "An earlier query of this reader failed or was interrupted, and its snapshot went with it. Close the "
                "reader and open another one, as you opened this one."
            ) from error

    def _has_lost(self) -> bool:
        return self._hold is not None and not self._closed and self._hold.is_lost()

    @contextlib.contextmanager
    def _asking_in_turn(self) -> Generator[None]:
        refuse_of_another_process(self._process, "reader")  # first: a fork never gets the turn that a thread had
        with self._turn, self._asking():
            yield

    def _execute(self, sql: str, params: Any) -> duckdb.DuckDBPyConnection:
        self._asked += 1
        # DuckDB would take a tuple, or arrays, for a frame of this name in the query; of a function it tells `_OWN`.
        params = partial(_values, params)
        result: Any = self._connection.execute(_text(sql), params())
        if result is None:
            raise SettingsError("The query is empty; write one, such as: select * from items limit 5")
        return result

    def arrow(self, sql: str, params: Params = ()) -> pa.Table:
        """Result of a query as an Arrow table."""
        with self._asking_in_turn():
            return taken(self._connection, self._execute(sql, params).to_arrow_table)

    def pandas(self, sql: str, params: Params = ()) -> "pd.DataFrame":
        """Result of a query as a pandas frame."""
        with self._asking_in_turn():
            return taken(self._connection, self._execute(sql, params).df)

    def polars(self, sql: str, params: Params = ()) -> "pl.DataFrame":
        """Result of a query as a polars frame, over Arrow's memory.

        Raises:
            SettingsError: polars is not installed.
        """
        try:
            import polars
        except ModuleNotFoundError as error:
            raise SettingsError(
                "polars is not installed: pip install polars. Or ask for .arrow() or .pandas()."
            ) from error
        frame = polars.from_arrow(self.arrow(sql, params))
        assert isinstance(frame, polars.DataFrame)
        return frame

    def class_names(self) -> list[str]:
        """Names of the classes by number as the snapshot has them; siftline.toml may say something else by now."""
        return [str(name) for (name,) in self.rows("SELECT name FROM classes ORDER BY class_id")]

    def snapshot(self) -> int:
        """Number of the snapshot that this reader sees."""
        return int(self.scalar(_SNAPSHOT))

    def batches(self, sql: str, params: Params = (), *, rows: int) -> Iterator[pa.Table]:
        """Result of a query in Arrow tables of at most about `rows` rows, so that it need not fit into memory.

        No other read may happen on this reader until the last table was taken.

        Raises:
            WarehouseError: one did, or the reader was closed, after which DuckDB gives no more rows and no error.
        """
        with self._asking():
            result = self._execute(sql, params)
            asked = self._asked
            for batch in stream(self._connection, result, rows=rows):
                yield pa.Table.from_batches([batch])
                if (self._closed or self._asked != asked) and batch.num_rows >= rows:  # fewer are the last ones
                    raise WarehouseError(
                        "This reader was closed, or asked something else, before the last batch was taken, so the "
                        "others are lost. Ask another reader meanwhile."
                    )

    def rows(self, sql: str, params: Params = ()) -> list[tuple[Any, ...]]:
        """Result of a query as a list of tuples."""
        with self._asking_in_turn():
            return self._execute(sql, params).fetchall()

    def scalar(self, sql: str, params: Params = ()) -> Any:
        """First column of the first row, or None when there is no row."""
        with self._asking_in_turn():
            row = self._execute(sql, params).fetchone()
        return row[0] if row else None

    def matrix(self, sql: str, params: Params = ()) -> tuple[list[str], Matrix]:
        """Ids and vectors of a query whose columns are (id, FLOAT[]).

        Returns:
            ids, and their vectors [N, D] float32. D is 0 when there is no row.

        Raises:
            DataError: the vectors differ in length.
        """
        table = self.arrow(sql, params)
        ids = table.column(0).to_pylist()
        return ids, list_column_to_matrix(table.column(1), what=table.column_names[1])

    def matrix_of(self, ids: pa.ChunkedArray, sql: str, params: Params = ()) -> Matrix:
        """The vectors of a query whose columns are (id, FLOAT[]), in any order, at the places of their ids.

        The matrix is allocated once and filled batch by batch; sorting wide rows would need them twice.

        Args:
            ids: [N] all ids of the query, each once.
            sql: the query.
            params: its parameters.

        Returns:
            [N, D] float32. D is 0 when there is no row.

        Raises:
            DataError: the vectors differ in length.
        """
        matrix, filled = np.empty((len(ids), 0), np.float32), 0
        # Not `pc.index_in`, which hashes all ids anew for each batch: half a second each of a million.
        places = {item_id: place for place, item_id in enumerate(ids.to_pylist())}
        with self._turn:
            for batch in self.batches(sql, params, rows=PLACED_BATCH_ROWS):
                part = list_column_to_matrix(batch.column(1), what=batch.column_names[1])
                matrix = _as_wide(matrix, part, filled, what=batch.column_names[1])
                matrix[[places[item_id] for item_id in batch.column(0).to_pylist()]] = part
                filled += len(part)
        assert filled == len(ids), f"{filled} vectors read, {len(ids)} ids given"
        return matrix

    def read_vectors(
        self, encoder_id: str | None = None, *, split: str | None = None
    ) -> tuple[pa.ChunkedArray, Matrix]:
        """All vectors of one encoder as a matrix, in the order they are stored.

        The matrix is allocated once and filled batch by batch, so the peak is the matrix and one batch.

        Args:
            encoder_id: encoder; may be left out where the warehouse holds vectors of one only.
            split: train, valid or test; all when left out.

        Returns:
            item ids [N] as Arrow strings, and their unit vectors [N, D] float32; D is 0 when there is none.

        Raises:
            DataError: there are several encoders to choose from, none of this name, no such split, or lengths differ.
        """
        if split not in (None, "train", "valid", "test"):
            raise DataError(f"There is no split '{split}'; name train, valid or test.")
        found = [str(name) for (name,) in self.rows("SELECT DISTINCT encoder_id FROM vectors ORDER BY ALL")]
        if encoder_id is None and len(found) > 1:
            raise DataError(f"There are vectors of {len(found)} encoders, {', '.join(found)}; name one as encoder_id.")
        if encoder_id is not None and encoder_id not in found:
            raise DataError(f"There are no vectors of encoder '{encoder_id}'; found: {', '.join(found) or 'none'}.")
        where, params = ["encoder_id = ?"] if encoder_id else ["true"], [encoder_id] if encoder_id else []
        if split is not None:
            where.append("item_id IN (SELECT item_id FROM items WHERE split = ?)")
            params.append(split)
        source = f"FROM vectors WHERE {' AND '.join(where)}"
        n = int(self.scalar(f"SELECT count(*) {source}", params))
        ids: list[pa.Array] = []
        matrix, filled = np.empty((n, 0), np.float32), 0
        with self._turn:
            for batch in self.batches(f"SELECT item_id, vector {source}", params, rows=VECTOR_BATCH_ROWS):
                part = list_column_to_matrix(batch.column(1), what="vector")
                matrix = _as_wide(matrix, part, filled, what="vector")
                matrix[filled : filled + len(part)] = part
                filled += len(part)
                ids += batch.column(0).chunks
        assert filled == n, f"{filled} vectors read, {n} counted in the same snapshot"
        return pa.chunked_array(ids, pa.string()), matrix if filled else np.empty((0, 0), np.float32)


def _text(sql: object) -> str:
    if not isinstance(sql, str):
        raise SettingsError(f"The query is {sql!r}; give its text, such as: 'select * from items limit 5'")
    return sql


def _plain(value: Any) -> Any:
    """A value as DuckDB takes it, which refuses numpy's numbers and the columns of Arrow, pandas and polars."""
    if type(value) in _TAKEN_AS_IS:
        return value
    if isinstance(value, list | tuple):
        return [_plain(member) for member in cast("Iterable[Any]", value)]
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in cast("dict[Any, Any]", value).items()}
    if isinstance(value, np.integer | np.floating | np.bool):
        return value.item()
    if isinstance(value, np.ndarray | np.generic | memoryview):
        return value
    given = next((name for name in ("as_py", "to_pylist", "to_list", "tolist") if hasattr(value, name)), None)
    return value if given is None else getattr(value, given)()


def _values(params: object) -> dict[Any, Any] | list[Any]:
    if isinstance(params, Mapping):
        return {name: _plain(value) for name, value in cast("Mapping[Any, Any]", params).items()}
    if isinstance(params, str | bytes) or not isinstance(params, Iterable):
        raise SettingsError(f"The query's values are {params!r}; give them in a list, [{params!r}], or a dict by name.")
    return [_plain(value) for value in cast("Iterable[Any]", params)]


def _is_aborted(connection: duckdb.DuckDBPyConnection) -> bool:
    try:
        connection.execute("SELECT 1")
    except duckdb.TransactionException as error:
        return "is aborted" in str(error)
    except duckdb.Error:
        return False  # closed, or its server is away: the next query says so
    return False


def _as_wide(matrix: Matrix, part: Matrix, filled: int, *, what: str) -> Matrix:
    """The matrix, allocated when the first part tells how wide it is."""
    if not filled:
        return np.empty((len(matrix), part.shape[1]), np.float32)
    if part.shape[1] != matrix.shape[1]:
        lengths = sorted({part.shape[1], matrix.shape[1]})
        raise DataError(f"Column '{what}' mixes vectors of lengths {lengths}; they must be equal.")
    return matrix


def list_column_to_matrix(column: pa.ChunkedArray, *, what: str) -> Matrix:
    """A FLOAT[] column as a matrix [N, D] float32, without a Python loop over rows.

    Raises:
        DataError: rows differ in length or one is null.
    """
    n = len(column)
    if n == 0:
        return np.empty((0, 0), np.float32)
    if column.null_count:
        raise DataError(f"Column '{what}' holds {column.null_count} nulls where vectors are expected.")
    parts = [np.asarray(chunk.flatten(), np.float32) for chunk in column.chunks if len(chunk)]
    lengths = {int(v) for chunk in column.chunks for v in np.unique(np.asarray(chunk.value_lengths()))}
    if len(lengths) != 1:
        raise DataError(f"Column '{what}' mixes vectors of lengths {sorted(lengths)}; they must be equal.")
    return np.concatenate(parts).reshape(n, lengths.pop())


def matrix_to_list_array(matrix: Matrix) -> pa.Array:
    """A matrix [N, D] as an Arrow list array of float32, the inverse of `list_column_to_matrix`."""
    n, d = matrix.shape
    offsets = pa.array(np.arange(0, n * d + 1, d, dtype=np.int32) if d else np.zeros(n + 1, np.int32))
    values = pa.array(np.ascontiguousarray(matrix, np.float32).reshape(-1))
    return pa.ListArray.from_arrays(offsets, values)
