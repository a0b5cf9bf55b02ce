"""Rows on their way to a commit that need no memory: an Arrow file without a name, so a killed process leaves none."""

import mmap
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Self

import pyarrow as pa

from warehouse.files.disk_space import FULL, temporary_full
from warehouse.files.scratch import roomy_folder


class Spool:
    """Rows of one schema; use it as a context manager.

    Args:
        schema: their columns.

    Raises:
        DiskFull: raised by each method where the disk of temporary files has no room.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._file = tempfile.TemporaryFile(dir=roomy_folder())  # noqa: SIM115 - closed by __exit__
        with _told_when_full():
            self._writer = pa.ipc.new_file(self._file, schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what a full disk did not take is not wanted any more
            self._file.close()

    def write(self, rows: pa.Table) -> None:
        """Add rows."""
        with _told_when_full():
            self._writer.write_table(rows)

    def table(self) -> pa.Table:
        """All rows; the table reads from the file, which must stay open. No row can be added afterwards."""
        with _told_when_full():
            self._writer.close()
            self._file.flush()
        mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return pa.ipc.open_file(pa.py_buffer(mapped)).read_all()


@contextmanager
def _told_when_full() -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise temporary_full() from error
