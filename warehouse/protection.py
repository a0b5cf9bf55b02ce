"""Connections for SQL that a person types: they reach the warehouse and nothing else on this machine or its network.

DuckDB's own switch (`enable_external_access`) holds for files, but not for the functions of the catalogue's
extensions: `postgres_query` runs any query on the catalogue's server, `sqlite_scan` opens any SQLite file, and
DuckLake's clean-up removes files although the warehouse is attached read-only. `refuse_reaching_out` is the door for
those.
"""

import os
import re
from pathlib import Path

import duckdb

from warehouse.connection import Location, connect, locate, quote
from warehouse.errors import SettingsError
from warehouse.lake import Lake

MEMORY_FRAC = 0.5  # of the machine; a question must leave room for the run beside it
TEMP_SIZE = "8GB"

_REACHES_OUT = re.compile(
    r"""(postgres|sqlite|mysql)_\w+ | ducklake_(cleanup|delete|expire|merge|rewrite|flush|set|add|commit)\w*
    | \b(cleanup_old_files|delete_orphaned_files|expire_snapshots|merge_adjacent_files|rewrite_data_files
        |flush_inlined_data|set_option|set_commit_message|add_data_files)\b
    | \bquery(_table)?"?\s*\( | __ducklake_metadata\w* | \b(duckdb_secrets|which_secret)\b""",
    re.IGNORECASE | re.VERBOSE,
)


def connect_locked_down(place: Path | Location, *, at: int | None = None) -> duckdb.DuckDBPyConnection:
    """A read-only connection for SQL that a person types; pass each statement through `refuse_reaching_out` first.

    Args:
        place: the warehouse, or its folder.
        at: number of a kept snapshot to read; the newest when left out.

    Raises:
        WarehouseNotFound: there is no warehouse.
        WarehouseError: the catalogue cannot be opened.
    """
    location = locate(place)
    Lake(location, read_only=True).close()  # the checks and messages of opening
    connection = connect(location, read_only=True, at=at)
    reachable = [location.data_path] if location.dsn is not None else [f"{location.folder}/", location.data_path]
    connection.execute(f"SET allowed_directories = [{', '.join(quote(place) for place in dict.fromkeys(reachable))}]")
    memory_bytes = int(MEMORY_FRAC * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    connection.execute(f"SET memory_limit = '{memory_bytes // 2**20}MiB'")
    connection.execute(f"SET max_temp_directory_size = '{TEMP_SIZE}'")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def refuse_reaching_out(sql: str) -> None:
    """Refuse SQL that names a function which leaves the warehouse or changes it.

    The name is looked for in the whole text, so a comment or a literal that holds one is refused too; and `query(...)`,
    which runs a text made at run time, is refused altogether.

    Raises:
        SettingsError: it names one; the message says which.
    """
    found = _REACHES_OUT.search(sql)
    if found:
        raise SettingsError(
            f"{found.group(0).strip()!r} is not for SQL that is typed here: it leaves the warehouse or changes it. "
            "Read tables and views; to clean up, run `siftline maintain`."
        )
