"""A full disk: told in words, and given back what a write that failed had taken.

DuckDB leaves the Parquet file that it could not finish, so the disk stays full although nothing was committed. Only the
holder of the write lock writes, so what is newer than its attempt and in no catalogue is its own.
"""

import contextlib
import errno
import os
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from warehouse.errors import DiskFull
from warehouse.scratch import roomy_folder
from warehouse.spill import PREFIX

if TYPE_CHECKING:
    from warehouse.location import Location

FULL = (errno.ENOSPC, errno.EDQUOT)
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


def disk_full(text: str, location: "Location") -> DiskFull | None:
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


def temporary_fault(text: str) -> DiskFull | None:
    """The error to raise when an error of DuckDB's is one of its temporary folder; None when it means something else.

    Args:
        text: DuckDB's message.
    """
    if PREFIX in text and os.strerror(errno.ENOENT) in text:
        return DiskFull(
            f"The temporary folder of this process, {roomy_folder()}/{PREFIX}..., was removed while it worked; nothing "
            "was written to the warehouse. Run again, and let no clean-up remove such folders while they are in use."
        )
    return temporary_full() if PREFIX in text or "failed to offload data block" in text else None


def temporary_full() -> DiskFull:
    """The error to raise where the temporary folder has no room for rows on their way, or that memory does not hold."""
    folder = roomy_folder()
    return DiskFull(
        f"The disk of the temporary folder {folder} is full, or your quota on it ({room(Path(folder))}); nothing was "
        "written to the warehouse. Free space, or let the environment variable TMPDIR name a folder with more, and run "
        "again."
    )


def room(folder: Path) -> str:
    """What is left on the disk of a folder, for messages; a disk with much space can be full of small files."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return "how full cannot be told"
    words = f"{found.f_bavail * found.f_frsize // 1024} KiB free"
    few = found.f_files and found.f_favail < 100  # no number of files at all where the file system has no such limit
    return f"{words}, room for {found.f_favail} more files" if few else words


@contextmanager
def no_leftovers(new_cursor: Callable[[], duckdb.DuckDBPyConnection], location: "Location") -> Generator[None]:
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
