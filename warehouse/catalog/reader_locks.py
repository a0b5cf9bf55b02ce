"""Whether a reader of a SQLite catalogue still holds the locks by which upkeep leaves its snapshot alone.

The system drops all locks that a process has on a file when the process closes that file anywhere, and a second copy of
SQLite in it (Python's own, or DuckDB's extension from another file) does so after each query. One that stays open drops
the lock of the snapshot alone, as its own. SQLite does not notice. So the system is asked, where it tells.
"""

import os
import re
from pathlib import Path

from warehouse.catalog.location import Location
from warehouse.errors import WarehouseError

LOCKS = Path("/proc/locks")

_shown: set[Path] = set()
"""Catalogues on which this process has seen locks of its own there; some file systems show others than `stat`."""
_LOOKS = 5
"""The system gives the file in parts, and a lock that goes meanwhile, of any process, hides one of the next part. One
look of 500 missed a lock beside a process that took and left 150 of them all the time."""
_HELD = rb"^\d+: POSIX +\S+ +READ +%d \w+:\w+:(\d+) (\d+) (\d+)$"
_OF_SNAPSHOTS = range(123, 128)
"""Bytes of the index that SQLite locks for the places in the log up to which its readers read. One that is open and
reads nothing holds the byte behind them."""


class Hold:
    """The locks of a reader, whose transaction goes on, on a SQLite catalogue and on the index of its log."""

    @classmethod
    def on(cls, location: Location) -> "Hold | None":
        """That of a reader of a warehouse; None where a server has the catalogue."""
        return cls(location.catalog_file) if location.dsn is None else None

    def __init__(self, catalog: Path) -> None:
        self._catalog = catalog
        self.renew()

    def is_lost(self) -> bool:
        """Whether they are gone; False where the system does not tell."""
        places: set[int] = set()
        for _ in range(_LOOKS):
            try:
                places |= self._places_held()
            except OSError:
                return False
            if self._places and self._places <= places:
                return False
        if places := places & (self._places or places):
            self._places = places
            _shown.add(self._catalog)
        return not places and self._catalog in _shown

    def _places_held(self) -> set[int]:
        """Places in the log that this process holds by one look; none where it holds nothing on the catalogue."""
        held = re.findall(_HELD % os.getpid(), LOCKS.read_bytes(), re.MULTILINE)
        try:
            file, index = self._inodes or tuple(os.stat(f"{self._catalog}{end}").st_ino for end in ("", "-shm"))
        except OSError:  # a second SQLite removes the index as it closes
            return set()
        locks = [(int(inode), range(int(first), int(last) + 1)) for inode, first, last in held]
        places = {place for inode, lock in locks if inode == index for place in _OF_SNAPSHOTS if place in lock}
        if not places or all(inode != file for inode, _ in locks):
            return set()
        self._inodes = (file, index)
        return places

    def renew(self) -> None:
        """The reader has another transaction now."""
        self._inodes: tuple[int, ...] = ()  # of where they were seen, as the folder may be moved
        self._places: set[int] = set()  # its own is one of those that this process has held at every look

    def error(self) -> WarehouseError:
        """What to say of an answer that was read without them."""
        return WarehouseError(
            f"Something else in this process opened {self._catalog}, such as Python's sqlite3 or a DuckDB connection "
            "that has the lines of `siftline sql --attach`, and this reader's locks went with it: what it read may be "
            "wrong, and is thrown away. Close the readers of this process and open them again. In place of that "
            "connection take warehouse.attached(...), or ask in a process of its own."
        )
