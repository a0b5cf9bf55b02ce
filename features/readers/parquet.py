"""Reading Parquet files and query results: rows come as Arrow batches from a child process with limits of its own.

A crafted or damaged file, or a query that wants too much, then ends the child and not the pipeline. The child's side
is `columnar_child.py`.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from features.readers.parquet_worker import EXIT_DATA, EXIT_SETTINGS, MEMORY_BYTES, ROWS
from features.readers.record import FLOAT_BITS, BadRecord, Fault, Record, fault, make_record
from features.readers.source import SourceConfig, SourceFile, check_columns
from warehouse import DataError, SettingsError
from warehouse.files.scratch import roomy_folder, scratch_folder

QUERY = "the query"
MESSAGE_BYTES = 4000


def read_parquet(
    file: SourceFile, source: SourceConfig, root: Path, consumed: Callable[[int], None] = lambda _: None
) -> Iterator[Record | Fault]:
    """Records and faults of a Parquet file in order.

    Args:
        file: the file.
        source: its settings and limits.
        root: project folder.
        consumed: told, as rows are read, the share of the file's bytes that they are.

    Raises:
        SettingsError: it has no column of this name, or the text column cannot hold text.
        SourceChanged: the file is gone.
    """
    size = file.state()[0]
    if size == 0:
        yield fault(0, "empty_file", "the file is empty", b"")
        return
    position = 0
    try:
        for batch in _batches({"parquet": str(file.path), "columns": source.columns}, source, file.name, root):
            yield from _records(batch, source, position)
            position += batch.num_rows
            consumed(size * position // max(position, int(batch.schema.metadata[ROWS]), 1))
    except ColumnarFault as broken:
        detail = f"{broken}; {position} rows before it were read"
        yield fault(position + 1 if position else 0, "damaged_parquet", detail, b"")


def check_query(source: SourceConfig, root: Path) -> None:
    """Refuse a query that cannot be planned, or whose result lacks a column, without running it.

    Args:
        source: a source whose `query` is set.
        root: as for `read_query`.

    Raises:
        SettingsError, DataError: see `read_query`.
    """
    for _ in read_query(source, root, plan_only=True):
        pass


def read_query(source: SourceConfig, root: Path, *, plan_only: bool = False) -> Iterator[Record | Fault]:
    """Records and faults of a query's result in order.

    Args:
        source: a source whose `query` is set.
        root: project folder; relative paths in the query start here, and nothing outside can be read.
        plan_only: nothing comes, as the query is not run.

    Raises:
        SettingsError: the query is refused, or lacks a column.
        DataError: it failed while running.
    """
    position = 0
    request = {"query": source.query, "root": str(root.absolute()), "plan_only": plan_only}
    try:
        for batch in _batches(request, source, QUERY, root):
            yield from _records(batch, source, position)
            position += batch.num_rows
    except ColumnarFault as broken:
        raise DataError(
            f"Source '{source.name}': the query failed after {position} rows: {broken}. Mend the query or the files "
            "it reads."
        ) from broken


class ColumnarFault(Exception):
    """The child could not read further; the message says why."""


def _batches(request: dict[str, Any], source: SourceConfig, where: str, root: Path) -> Iterator[pa.RecordBatch]:
    with _child(request, root) as (child, messages):
        assert child.stdout is not None
        try:
            with pa.ipc.open_stream(child.stdout) as reader:
                _check_schema(reader.schema, source, where)
                yield from reader
        except (pa.ArrowException, OSError) as error:
            # The stream ends in the middle when the child ends early: its exit code and message say why.
            child.stdout.close()
            if child.wait() == 0:
                raise ColumnarFault(str(error)) from error
        code = child.wait()
        messages.seek(0)
        message = messages.read(MESSAGE_BYTES).decode("utf-8", "replace").strip()
        if code == EXIT_SETTINGS:
            raise SettingsError(f"Source '{source.name}': {where} cannot be read: {message}")
        if code == EXIT_DATA:
            raise ColumnarFault(message)
        if code:
            last = message.splitlines()[-1] if message else "no message"
            raise ColumnarFault(f"its reader ended with code {code} (memory limit {MEMORY_BYTES} bytes): {last}")


@contextmanager
def _child(request: dict[str, Any], root: Path) -> Generator[tuple["subprocess.Popen[bytes]", IO[bytes]]]:
    with tempfile.TemporaryFile() as messages, scratch_folder(Path(roomy_folder()), "siftline-query-") as spill:
        # -P keeps the project folder, where the child works, from shadowing what it imports.
        command = [sys.executable, "-P", "-m", "features.readers.parquet_worker"]
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=messages, cwd=root.absolute()
        )
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            with child.stdin:
                child.stdin.write(json.dumps({**request, "spill": str(spill)}).encode("utf-8"))
            yield child, messages
        finally:
            child.kill()
            child.stdout.close()
            child.wait()


def _check_schema(schema: pa.Schema, source: SourceConfig, where: str) -> None:
    check_columns(source, where, schema.names)
    type = _plain(schema.field(source.text).type)
    if not (_is_text(type) or _is_bytes(type) or pa.types.is_null(type)):
        way = "cast it to VARCHAR"
        if pa.types.is_struct(type):
            inner = next((field.name for field in type if _is_text(_plain(field.type))), "NAME")
            way = f"take a text out of it, such as {_quoted(source.text)}.{_quoted(inner)}"
        raise SettingsError(
            f"Source '{source.name}': column {source.text!r} of {where} is {type}, not text. Set `text` to another "
            f"column, or {way}: in a project by a query, elsewhere in the file."
        )


def _records(batch: pa.RecordBatch, source: SourceConfig, before: int) -> Iterator[Record | Fault]:
    columns = {name: _values(batch.column(name)) for name in source.columns}
    names = list(columns)
    id_bits = FLOAT_BITS if source.id is None else _float_bits(batch.schema.field(source.id).type)
    for offset, values in enumerate(zip(*columns.values(), strict=True), start=1):
        fields = dict(zip(names, values, strict=True))
        try:
            for name, value in fields.items():
                if isinstance(value, _Undecodable):
                    raise BadRecord("invalid_utf8", f"{name!r}: {value.detail}")
            yield make_record(fields, source, before + offset, _raw(fields), id_bits=id_bits)
        except BadRecord as bad:
            yield fault(before + offset, bad.reason, bad.detail, _raw(fields))


class _Undecodable:
    """A value that is not UTF-8."""

    def __init__(self, detail: str, raw: bytes) -> None:
        self.detail = detail
        self.raw = raw


def _raw(fields: dict[str, Any]) -> bytes:
    """The bytes that stand for a row: the columns read, as JSON; a cell that is not UTF-8 as hexadecimal."""
    text = json.dumps(fields, ensure_ascii=True, sort_keys=True, default=_as_text)
    return text.encode("ascii")


def _as_text(value: object) -> str:
    return value.raw.hex() if isinstance(value, _Undecodable) else str(value)


def _quoted(name: str) -> str:
    """A name as DuckDB reads it."""
    return name if name.isidentifier() else '"' + name.replace('"', '""') + '"'


def _plain(type: pa.DataType) -> pa.DataType:
    return type.value_type if pa.types.is_dictionary(type) else type


def _float_bits(type: pa.DataType) -> int:
    return {pa.float16(): 11, pa.float32(): 24}.get(_plain(type), FLOAT_BITS)


def _is_text(type: pa.DataType) -> bool:
    return pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type)


def _is_bytes(type: pa.DataType) -> bool:
    return pa.types.is_binary(type) or pa.types.is_large_binary(type) or pa.types.is_binary_view(type)


def _values(column: pa.Array) -> list[Any]:
    """Python values; one cell that is not UTF-8, or a date that Python cannot hold, must not spoil its batch."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if _is_bytes(column.type):
        return [None if value is None else _decoded(value) for value in column.to_pylist()]
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):
        return [_nested(column, row) for row in range(len(column))]


def _decoded(value: bytes) -> str | _Undecodable:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        return _Undecodable(f"byte {error.start + 1} (0x{value[error.start]:02x}): {error.reason}", value)


def _nested(column: pa.Array, row: int) -> Any:
    try:
        return _python(column[row])
    except UnicodeDecodeError as error:
        return _Undecodable(str(error), bytes(error.object))


def _python(cell: pa.Scalar) -> Any:
    """The value of a cell; a date, time or duration that Python cannot hold (year 10000, infinity) as Arrow's text."""
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        raise
    except (ValueError, OverflowError):
        if isinstance(cell, pa.StructScalar):
            return {name: _python(value) for name, value in cell.items()}
        if pa.types.is_nested(cell.type):
            return [_python(value) for value in cell.values]
        return cell.cast(pa.string()).as_py()
