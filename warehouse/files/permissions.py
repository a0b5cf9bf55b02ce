"""Who may read and write what is made in a folder: its owner, and the folder's group where that is open to it.

Nobody else ever may. The folder's own mode decides, as that of a PostgreSQL data directory does, so that who opens it
to a group once has opened all that is written later. A folder that is open to everybody was made
without a thought of groups, as `mkdir` does, and opens nothing.
"""

import functools
import operator
import os
import stat
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_OWNER_ONLY = stat.S_IRWXG | stat.S_IRWXO

_lock = threading.Lock()
_masks: list[int] = []
_outside = 0o022


@contextmanager
def private_files(folder: Path | None = None) -> Generator[None]:
    """Files and folders made in this block are their owner's only (0600 and 0700), or a group's too.

    DuckDB has no setting for it. The mask is the whole process's, so files that other threads make in the meantime are
    private too; of two blocks at a time the stricter one counts.

    Args:
        folder: whose group has the rights to them that it has to the folder; None for no group.
    """
    global _outside
    mask = _OWNER_ONLY & ~_of_group(folder) if folder is not None else _OWNER_ONLY
    with _lock:
        _masks.append(mask)
        before = os.umask(_strictest())
        if len(_masks) == 1:
            _outside = before
    try:
        yield
    finally:
        with _lock:
            _masks.remove(mask)
            os.umask(_strictest() if _masks else _outside)


def _strictest() -> int:
    return functools.reduce(operator.or_, _masks)


def file_mode(folder: Path) -> int:
    """Mode of a new file in a folder: 0600, and what the folder allows its group."""
    return stat.S_IRUSR | stat.S_IWUSR | _of_group(folder) & (stat.S_IRGRP | stat.S_IWGRP)


def _of_group(folder: Path) -> int:
    try:
        mode = folder.stat().st_mode
    except OSError:  # it is only made now, or all is on servers
        return 0
    return 0 if mode & stat.S_IRWXO else mode & stat.S_IRWXG
