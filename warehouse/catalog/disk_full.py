"""A full disk: told in words, and given back what a write that failed had taken.

DuckDB leaves the Parquet file that it could not finish, so the disk stays full although nothing was committed. Only the
holder of the write lock writes, so what is newer than its attempt and in no catalogue is its own.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from warehouse.catalog.location import Location
from warehouse.errors import DiskFull
from warehouse.files.disk_space import FULL, room, temporary_fault

_SIGNS = (*map(os.strerror, FULL), "disk is full", "Could not write all bytes")
_SERVERS_SIGNS = ("ERROR:", "Failed to execute query")
"""What DuckDB says of a catalogue's server that has no room; of a file of its own it says what could not be written."""
_SQLITE_SIGNS = ("disk I/O error", "unable to open database file")
"""What SQLite says where it cannot make its files, for want of space or for another reason."""
_SQLITE_BYTES = 4 << 20
"""More than a commit to the catalogue writes; SQLite says of no room under a quota only that its files failed."""
_KNOWN = " UNION ALL ".join(
    f"SELECT path FROM __ducklake_metadata_lake.ducklake_{table}"
    for table in ("data_file", "delete_file", "files_scheduled_for_deletion")
)


def disk_full(text: str, location: Location) -> DiskFull | None:
    """The error to raise when an error of DuckDB's means that the disk is full; None when it means something else.

    Args:
        text: DuckDB's message.
        location: the warehouse whose disk is asked for its free space.
    """
    if told := temporary_fault(text):
        return told
    if not any(sign in text for sign in _SIGNS) and not (
        any(sign in text for sign in _SQLITE_SIGNS) and _no_room(location.folder)
    ):
        return None
    if location.dsn is not None and any(sign in text for sign in _SERVERS_SIGNS):
        return DiskFull(
            f"The disk of the catalogue's server ({location.words}) is full; nothing was written. Free space there "
            "and run again."
        )
    return DiskFull(
        f"The disk of {location.words} is full, or your quota on it ({room(location.folder)}); nothing was written. "
        "Free space and run again; reading needs 64 KiB too."
    )


@contextmanager
def no_leftovers(new_cursor: Callable[[], duckdb.DuckDBPyConnection], location: Location) -> Generator[None]:
    """Remove the unfinished files of a write that fails in this block for want of space; hold the write lock around it.

    What cannot be removed, since the catalogue cannot be asked either, is left to `maintain`.
    """
    since = time.time() - 1.0  # clocks of file systems are coarse; what is older and known stays anyway
    try:
        yield
    except DiskFull:
        if not location.on_s3:
            with contextlib.suppress(duckdb.Error, OSError), contextlib.closing(new_cursor()) as cursor:
                known = {Path(str(path)).name for (path,) in cursor.execute(_KNOWN).fetchall()}
                for path in Path(location.data_path).rglob("*.parquet"):
                    if path.name not in known and path.stat().st_mtime >= since:
                        path.unlink()
        raise


def _no_room(folder: Path) -> bool:
    """Whether what SQLite may need cannot be written; of a quota only writing tells."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_SQLITE_BYTES))
    except OSError as error:
        return error.errno in FULL
    return False
