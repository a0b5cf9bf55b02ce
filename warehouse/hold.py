"""Whether a reader of a SQLite catalogue still holds the locks by which upkeep leaves its snapshot alone.

The system drops all locks that a process has on a file when the process closes that file anywhere, and a second copy of
SQLite in it (Python's own, or DuckDB's extension from another file) does so after each query. SQLite does not notice.
So the system is asked, where it tells (docs/decisions/0217).
"""

import os
from contextlib import suppress
from pathlib import Path

from warehouse.errors import WarehouseError
from warehouse.location import Location

LOCKS = Path("/proc/locks")

_shown: set[Path] = set()
"""Catalogues on which this process has seen locks of its own there; some file systems show others than `stat`."""
_LOOKS = 5
"""The system gives the file in parts, and a lock that goes meanwhile, of any process, hides one of the next part. One
look of 500 missed a lock beside a process that took and left 150 of them all the time."""


class Hold:
    """The locks of a reader, whose transaction goes on, on a SQLite catalogue and on the index of its log."""

    @classmethod
    def on(cls, location: Location) -> "Hold | None":
        """That of a reader of a warehouse; None where a server has the catalogue."""
        return cls(location.catalog_file) if location.dsn is None else None

    def __init__(self, catalog: Path) -> None:
        self._catalog = catalog
        self._inodes: tuple[int, ...] = ()  # of where they were seen, as the folder may be moved

    def is_lost(self) -> bool:
        """Whether they are gone; False where the system does not tell."""
        return all(self._looks_lost() for _ in range(_LOOKS))

    def _looks_lost(self) -> bool:
        try:
            mine = b" %d " % os.getpid()
            lines = [line for line in LOCKS.read_bytes().splitlines() if mine in line and b"POSIX" in line]
        except OSError:
            return False
        with suppress(OSError):  # a second SQLite removes the index as it closes
            inodes = self._inodes or tuple(os.stat(f"{self._catalog}{end}").st_ino for end in ("", "-shm"))
            if all(any(b":%d " % inode in line for line in lines) for inode in inodes):
                self._inodes = inodes
                _shown.add(self._catalog)
                return False
        return self._catalog in _shown

    def renew(self) -> None:
        """The reader has another transaction now."""
        self._inodes = ()

    def error(self) -> WarehouseError:
        """What to say of an answer that was read without them."""
        return WarehouseError(
            f"Something else in this process opened {self._catalog}, such as Python's sqlite3 or a DuckDB connection "
            "that has the lines of `siftline sql --attach`, and this reader's locks went with it: what it read may be "
            "wrong, and is thrown away. Close the readers of this process and open them again. In place of that "
            "connection take warehouse.attached(...), or ask in a process of its own."
        )
