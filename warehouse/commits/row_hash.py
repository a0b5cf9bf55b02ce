"""What rows hash to: the same for the same rows in any order, in any batch, written by any version of DuckDB.

A run records the hash of the rows it wrote to each table, so that what stands in the warehouse can be checked against
what was written, years later. Rows are put into one order, brought to the column types of `schema.py`, and the bytes of
each column go through sha256; text of floats is never made, which would cost a hundred times more than the commit.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from warehouse.numeric import pc
from warehouse.schema.tables import TABLE_BY_NAME

_ARROW_TYPES = {
    "VARCHAR": pa.large_string(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "FLOAT": pa.float32(),
    "BOOLEAN": pa.bool_(),
    "TIMESTAMPTZ": pa.timestamp("us", "UTC"),
    "FLOAT[]": pa.large_list(pa.float32()),
    "INTEGER[]": pa.large_list(pa.int32()),
    "VARCHAR[]": pa.large_list(pa.large_string()),
}


def hash_rows(table: str, rows: pa.Table) -> str:
    """sha256 of rows of a table, hexadecimal; independent of their order.

    Args:
        table: name of the table, whose column types are used.
        rows: some or all of the table's columns. Bookkeeping columns take no part, nor optional ones that are empty.
    """
    columns = [
        c
        for c in TABLE_BY_NAME[table].columns
        if not c.bookkeeping
        and c.name in rows.column_names
        and not (c.optional and rows[c.name].null_count == rows.num_rows)
    ]
    fixed = pa.table({c.name: rows[c.name].cast(_ARROW_TYPES[c.type]) for c in columns})
    plain = [c.name for c in columns if not c.type.endswith("[]")]
    if not _rises(fixed[plain[0]]):
        fixed = fixed.sort_by([(name, "ascending") for name in plain])
    digest = hashlib.sha256(f"{table}:{fixed.num_rows}".encode())
    for column in columns:
        digest.update(f"\n{column.name}:".encode())
        for part in _parts(fixed[column.name]):
            digest.update(part)
    return digest.hexdigest()


def combine(parts: Sequence[tuple[str, str]]) -> str:
    """One hash of several (kind of write, hash of its rows), in the order they were written."""
    if len(parts) == 1 and parts[0][0] != "delete":
        return parts[0][1]
    return hashlib.sha256("\n".join(f"{kind} {digest}" for kind, digest in parts).encode()).hexdigest()


def _rises(column: pa.ChunkedArray) -> bool:
    """Whether each value is above the one before it, which takes a hundredth of the time of sorting."""
    return column.null_count == 0 and pc.all(pc.less(column[:-1], column[1:])).as_py() is not False


def _parts(column: pa.ChunkedArray) -> Iterable[bytes | memoryview]:
    """The column's nulls, lengths and values as bytes that do not depend on how Arrow holds them.

    Of numbers no copy of all is made, as vectors are most of what a warehouse holds.
    """
    yield from _validity(column)
    if pa.types.is_large_list(column.type):
        yield np.asarray(pc.fill_null(pc.list_value_length(column), 0), np.int64).tobytes()
        yield from _parts(pc.list_flatten(column))
    elif pa.types.is_large_string(column.type):
        filled = pc.fill_null(_one_array(column), "")
        _, starts, values = filled.buffers()
        if len(filled):
            offsets = np.frombuffer(starts, np.int64)[filled.offset : filled.offset + len(filled) + 1]
            yield np.diff(offsets).tobytes()
            yield memoryview(values)[int(offsets[0]) : int(offsets[-1])] if values is not None else b""
    elif pa.types.is_boolean(column.type):
        yield np.packbits(np.asarray(pc.fill_null(_one_array(column), False))).tobytes()
    else:
        for chunk in column.cast(pa.int64()).chunks if pa.types.is_timestamp(column.type) else column.chunks:
            yield np.ascontiguousarray(pc.fill_null(chunk, 0) if chunk.null_count else chunk).data


def _validity(column: pa.ChunkedArray) -> Iterable[bytes]:
    """A bit for each value."""
    if column.null_count:
        yield np.packbits(np.asarray(column.is_valid())).tobytes()
    else:
        yield b"\xff" * (len(column) // 8)
        yield np.packbits(np.ones(len(column) % 8, np.bool_)).tobytes()


def _one_array(column: pa.ChunkedArray) -> Any:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # no chunk at all, or more than one array can hold
        return pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    return array
