"""The child process that opens Parquet files and runs queries, with a memory limit and no way outside the project.

It reads one request from its standard input and writes an Arrow stream to its standard output. Run by `columnar.py`.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.session.duckdb import open_in_utc
from warehouse.text import quote

BATCH_ROWS = 512
"""Rows per batch; with the longest allowed record of 1 MiB, a batch stays under 512 MiB."""
ROWS = b"rows"
"""Key in the metadata of a Parquet file's stream: how many rows the file says it has."""
MEMORY_BYTES = 4 << 30
QUERY_MEMORY = "2GB"
EXIT_DATA = 3
EXIT_SETTINGS = 4


def main(request: dict[str, Any]) -> int:
    """Write the rows that a request names as an Arrow stream.

    Args:
        request: {"parquet": file, "columns": names} or {"query": sql, "root": folder, "plan_only": flag}, and
            {"spill": folder} for what a query cannot keep in memory.

    Returns:
        Exit code: 0, `EXIT_SETTINGS` for what the caller must change, `EXIT_DATA` for data that cannot be read.
    """
    _limit_memory()
    try:
        if "query" in request:
            schema, batches = _query(
                request["query"], request["root"], request["spill"], plan_only=request["plan_only"]
            )
        else:
            schema, batches = _parquet(request["parquet"], request["columns"])
        with pa.ipc.new_stream(sys.stdout.buffer, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        sys.stdout.buffer.flush()
    except _Refused as error:
        print(error, file=sys.stderr)
        return EXIT_SETTINGS
    except (pa.ArrowException, duckdb.Error, OSError, MemoryError) as error:
        print(f"{type(error).__name__}: {error}".replace("\n", " "), file=sys.stderr)
        return EXIT_DATA
    return 0


class _Refused(Exception):
    """The request itself is wrong."""


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _parquet(path: str, columns: list[str]) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    file = pq.ParquetFile(path, pre_buffer=False)
    schema = file.schema_arrow
    if not set(columns) <= set(schema.names):  # the parent names what is there
        return schema, iter(())
    rows = {ROWS: str(file.metadata.num_rows)}
    wanted = pa.schema([schema.field(name) for name in columns if schema.names.count(name) == 1], rows)
    if len(wanted) != len(columns):
        return schema, iter(())
    return wanted, _row_groups(file, columns, wanted)


def _row_groups(file: pq.ParquetFile, columns: list[str], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    # One row group at a time: a damaged one must not take rows of the whole one before it along.
    for group in range(file.num_row_groups):
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False):
            yield batch.select(columns).cast(schema)


def _query(sql: str, root: str, spill: str, *, plan_only: bool) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    connection = open_in_utc(
        {
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
            "threads": "1",  # one thread keeps the order of rows the same in every run
            "memory_limit": QUERY_MEMORY,
            "temp_directory": spill,
        }
    )
    connection.execute(f"SET allowed_directories = [{quote(root.rstrip('/') + '/')}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    try:
        statements = connection.extract_statements(sql)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            kinds = ", ".join(s.type.name for s in statements) or "nothing"
            raise _Refused(f"it must be one SELECT, it is: {kinds}.")
        if plan_only:
            reader = connection.sql(statements[0]).limit(0).to_arrow_reader(BATCH_ROWS)
        else:
            reader = connection.execute(statements[0]).to_arrow_reader(BATCH_ROWS)
    except (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException) as error:
        raise _Refused(f"{error}") from error
    except duckdb.PermissionException as error:
        raise _Refused(f"{error} A query reads files below the project folder {root} only.") from error
    return reader.schema, iter(reader)


if __name__ == "__main__":
    sys.exit(main(json.load(sys.stdin)))
