"""A process that was forked from one with an open warehouse: told so, where it would read wrong rows or hang.

SQLite takes the locks of the process that it was forked from for its own, which they are not, also where the fork opens
the catalogue itself: then upkeep elsewhere changes the file under its transaction. And two processes that ask a
PostgreSQL server over one connection wait for ever for each other's answers. What is sent to
another process in an argument is refused too.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

from warehouse.errors import WarehouseError

_came_along: set[tuple[int, int]] = set()
"""Device and inode of the files that were open when this process, or one before it, was forked."""


def _note_open_files() -> None:
    with suppress(OSError):  # no /proc
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):  # the folder's own, closed by now
                found = os.fstat(int(name))
                if stat.S_ISREG(found.st_mode):
                    _came_along.add((found.st_dev, found.st_ino))


os.register_at_fork(after_in_child=_note_open_files)


def refuse_open_before_fork(catalog: Path) -> None:
    """Refuse a SQLite catalogue that was open when this process was forked.

    Raises:
        WarehouseError: it was.
    """
    if not _came_along:
        return
    with suppress(OSError):  # not there: others say so
        found = catalog.stat()
        if (found.st_dev, found.st_ino) in _came_along:
            raise _forked(f"The warehouse at {catalog.parent} was open", "open it")


def refuse_of_another_process(pid: int, what: str) -> None:
    """Refuse to go on with what another process opened.

    Args:
        pid: the process that opened it.
        what: its name for people.

    Raises:
        WarehouseError: this is another process.
    """
    if pid != os.getpid():
        raise _forked(f"This {what} was opened in process {pid}, and was open", "open one")


def refuse_copy(what: str, again: str) -> WarehouseError:
    """The error for an open one that is to be copied, or sent to another process, as joblib and Dask send arguments.

    Args:
        what: its name for people.
        again: what opens one.
    """
    return WarehouseError(
        f"An open {what} cannot be copied or sent to another process. Send its folder and the snapshot's number, and "
        f"open one there: {again}."
    )


def _forked(what: str, again: str) -> WarehouseError:
    return WarehouseError(
        f"{what} when this process was forked. Close it before you start processes and {again} in each of them, or "
        "start them by 'spawn' (multiprocessing.get_context)."
    )
