"""Connections for SQL that a person types: they reach the warehouse and nothing else on this machine or its network.

DuckDB's own switch (`enable_external_access`) holds for files, but not for the functions of the catalogue's
extensions: `postgres_query` runs any query on the catalogue's server, `sqlite_scan` opens any SQLite file, and
DuckLake's clean-up removes files although the warehouse is attached read-only. `refuse_reaching_out` is the door for
those. Nor does it keep `COPY` and DuckDB's log from writing into the folders that may be read, the warehouse's own, so
`read.reading_statements` lets only statements pass that read.
"""

import os
import re
import resource
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from warehouse.catalog.location import Location, locate
from warehouse.catalog.snapshots import At
from warehouse.errors import SettingsError
from warehouse.schema.migrations import connect_checked
from warehouse.text import quote

MEMORY_FRAC = 0.5  # of the machine; a question must leave room for the run beside it
BESIDE_BYTES = 2**30  # Python, Arrow and what DuckDB does not count
TEMP_SIZE = "8GB"

_REACHES_OUT = re.compile(
    r"""(postgres|sqlite|mysql)_\w+ | ducklake_(cleanup|delete|expire|merge|rewrite|flush|set|add|commit)\w*
    | \b(cleanup_old_files|delete_orphaned_files|expire_snapshots|merge_adjacent_files|rewrite_data_files
        |flush_inlined_data|set_option|set_commit_message|add_data_files|force_checkpoint)\b
    | json_execute_serialized_sql | \b(enable|disable)_(logging|profil\w*) | \b(write_log|truncate_duckdb_logs)\b
    | __ducklake_metadata\w* | \b(duckdb_secrets|which_secret)\b
    | \b(query|query_table|checkpoint)"?[^\x21-\x7e\w]*(\(|/\*|--)""",
    re.IGNORECASE | re.VERBOSE,
)
# The last line: words that texts have too, so only as a call, with whatever DuckDB takes for a space (zero-width ones
# too) or a comment in between.


def connect_locked_down(place: Path | Location, *, at: At = None) -> duckdb.DuckDBPyConnection:
    """A read-only connection for SQL that a person types; pass each statement through `refuse_reaching_out` first.

    Args:
        place: the warehouse, or its folder.
        at: number or time of the snapshot to read; the newest when left out.

    Raises:
        WarehouseError, SettingsError: as `connect_checked`.
    """
    location = locate(place)
    connection = connect_checked(location, at=at)
    reachable = [location.data_path] if location.dsn is not None else [f"{location.folder}/", location.data_path]
    connection.execute(f"SET allowed_directories = [{', '.join(quote(place) for place in dict.fromkeys(reachable))}]")
    connection.execute(f"SET memory_limit = '{_memory_bytes() // 2**20}MiB'")
    connection.execute(f"SET max_temp_directory_size = '{TEMP_SIZE}'")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


@contextmanager
def limited_process_memory() -> Generator[None]:
    """Hold this process to DuckDB's memory limit and a little more while a person's SQL runs in it.

    DuckDB's limit does not count every list: `len(range(50000000))` took 946 MB under a limit of 300 MiB. Under the
    system's limit such a query ends in DuckDB's out-of-memory error, and the next one runs.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _memory_bytes() + BESIDE_BYTES
    known = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([wanted, *known]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _memory_bytes() -> int:
    return int(MEMORY_FRAC * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def refuse_reaching_out(sql: str) -> None:
    """Refuse SQL that names a function which leaves the warehouse or changes it.

    The name is looked for in the whole text, so a comment or a literal that holds one is refused too; and `query(...)`,
    which runs a text made at run time, is refused altogether, as is `json_execute_serialized_sql`.

    Raises:
        SettingsError: it names one; the message says which.
    """
    found = _REACHES_OUT.search(sql)
    if found:
        raise SettingsError(
            f"{found.group(0).strip()!r} is not for SQL that is typed here: it leaves the warehouse or changes it. "
            "Read tables and views; to clean up, run `siftline maintain`."
        )
