"""Reading one snapshot: rows, Arrow tables and matrices, all from the same moment."""

import contextlib
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warehouse.errors import DataError

Matrix = npt.NDArray[np.float32]


class Reader:
    """A read transaction on the warehouse. Use it as a context manager; every read sees the same snapshot."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, *, at: int | None) -> None:
        self._connection = connection
        self.at = at
        self._connection.execute("BEGIN TRANSACTION")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the read transaction; the reader cannot be used afterwards."""
        with contextlib.suppress(duckdb.TransactionException):  # ended already by an error inside it
            self._connection.execute("ROLLBACK")
        self._connection.close()

    def arrow(self, sql: str, params: Sequence[Any] = ()) -> pa.Table:
        """Result of a query as an Arrow table."""
        return self._connection.execute(sql, list(params)).to_arrow_table()

    def batches(self, sql: str, params: Sequence[Any] = (), *, rows: int) -> Iterator[pa.Table]:
        """Result of a query in Arrow tables of at most about `rows` rows, so that it need not fit into memory.

        No other read may happen on this reader until the last table was taken.
        """
        stream = self._connection.execute(sql, list(params)).to_arrow_reader(rows)
        for batch in stream:
            yield pa.Table.from_batches([batch])

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Result of a query as a list of tuples."""
        return self._connection.execute(sql, list(params)).fetchall()

    def scalar(self, sql: str, params: Sequence[Any] = ()) -> Any:
        """First column of the first row, or None when there is no row."""
        row = self._connection.execute(sql, list(params)).fetchone()
        return row[0] if row else None

    def matrix(self, sql: str, params: Sequence[Any] = ()) -> tuple[list[str], Matrix]:
        """Ids and vectors of a query whose columns are (id, FLOAT[]).

        Returns:
            ids, and their vectors [N, D] float32. D is 0 when there is no row.

        Raises:
            DataError: the vectors differ in length.
        """
        table = self.arrow(sql, params)
        ids = table.column(0).to_pylist()
        return ids, list_column_to_matrix(table.column(1), what=table.column_names[1])


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
