"""Warehouses that many tests begin with: each is made once a process, and then copied in a tenth of the time."""

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from warehouse import Lake


def copy_of(make: Callable[[Path], Lake], path: Path) -> Lake:
    """What `make(path)` gives, but for its times: those of when it was made for the first.

    Args:
        make: makes a warehouse in a folder and returns it open; a function of a module, because it is the key.
        path: folder of the copy, which does not exist.
    """
    return copied(_made(make), path)


def copied(closed: Path, path: Path) -> Lake:
    """A copy of a closed warehouse, open, and as one that was made in this folder.

    It computes in one thread: over the few rows of a test a second one doubles what DuckDB takes of the cores, which
    all workers share. What opens a warehouse otherwise has a thread for each core, such as journeys and all processes.
    """
    shutil.copytree(closed, path)
    with contextlib.closing(sqlite3.connect(path / "catalog.sqlite", isolation_level=None)) as catalog:
        moved = catalog.execute(
            "UPDATE ducklake_metadata SET value = ? WHERE key = 'data_path' AND value = ?",
            (f"{path.absolute()}/data/", f"{closed.absolute()}/data/"),
        )
        assert moved.rowcount == 1
    lake = Lake(path)
    with contextlib.closing(lake.new_cursor()) as cursor:
        cursor.execute("SET threads = 1")
    return lake


@cache
def own_folder(_of: object) -> Path:
    """A folder for what is made once a process; it goes with the process."""
    folder = tempfile.TemporaryDirectory(prefix="tests-made-once-")
    _folders.append(folder)
    return Path(folder.name)


_folders: "list[tempfile.TemporaryDirectory[str]]" = []


@cache
def _made(make: Callable[[Path], Lake]) -> Path:
    path = own_folder(make) / "lake"
    make(path).close()
    return path
