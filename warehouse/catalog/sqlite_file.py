"""The file of a SQLite catalogue: whether it is whole, asked before DuckLake reads it, and its free pages given back.

DuckDB believes what the file says, and a damaged page ended its process. SQLite's quick
check finds such pages for 2.5 ms per MB, so opening asks for it up to a size; `siftline verify` asks for the thorough
one, whatever the size. It is the SQLite inside DuckDB's extension that is asked: two SQLites in one process would drop
each other's locks on the file. The extension cannot vacuum, so a process of its own does.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import duckdb

from warehouse.errors import WarehouseBusy
from warehouse.text import quote

CHECKED_BYTES = 8 * 2**20
"""Opening checks catalogues up to this size, for at most 20 ms."""

_DAMAGE = ("malformed", "not a database")


def catalog_faults(
    connection: duckdb.DuckDBPyConnection, file: Path, check: Literal["quick_check", "integrity_check"]
) -> list[str]:
    """What SQLite finds wrong with a catalogue, some lines; empty when it is whole or cannot be asked.

    Args:
        connection: has the extension `sqlite_scanner`.
        file: the catalogue.
        check: SQLite's word for how thoroughly.
    """
    try:
        connection.execute(f"ATTACH {quote(file)} AS asked (TYPE sqlite, READ_ONLY, BUSY_TIMEOUT 10000)")
        rows = connection.execute(f"SELECT * FROM sqlite_query('asked', 'PRAGMA {check}(5)')").fetchall()
    except duckdb.Error as error:
        text = str(error)
        return [text.splitlines()[0]] if any(sign in text for sign in _DAMAGE) else []
    finally:
        connection.execute("DETACH DATABASE IF EXISTS asked")
    return [line for (text,) in rows if text != "ok" for line in str(text).splitlines() if not line.startswith("***")]


def catalog_locked(text: str, file: Path) -> WarehouseBusy | None:
    """The error to raise when an error of DuckDB's means that another program keeps a catalogue; else None.

    None of ours does: readers wait for nobody, and writers for each other at a lock of their own.

    Args:
        text: DuckDB's message.
        file: the catalogue.
    """
    if "database is locked" not in text:
        return None
    return WarehouseBusy(
        f"Another program keeps the catalogue {file} locked, such as an SQLite client in which a transaction is open. "
        f"That is no sign of damage: close it, or wait, and try again. `fuser {file}` tells who has it open."
    )


_VACUUM = """
import sqlite3, sys
catalog = sqlite3.connect(sys.argv[1], uri=True, timeout=1.0, isolation_level=None)
try:
    for step in ("PRAGMA wal_checkpoint(TRUNCATE)", "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
        busy = catalog.execute(step).fetchone()
        if busy and busy[0]:
            sys.exit("database is locked")
except sqlite3.OperationalError as error:
    sys.exit(str(error))
"""


def vacuum_fault(file: Path) -> str:
    """Give a catalogue's free pages back to the disk; the caller holds the write lock.

    Returns:
        What was in the way, in SQLite's words; "database is locked" while a reader has the file. Empty when it is done.
    """
    environment = {**os.environ, "SQLITE_TMPDIR": str(file.parent)}  # the copy it makes lies on the warehouse's disk
    command = [sys.executable, "-I", "-c", _VACUUM, f"{file.as_uri()}?mode=rw"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    return "" if ended.returncode == 0 else ended.stderr.strip() or f"its process ended with {ended.returncode}"
