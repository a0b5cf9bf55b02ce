"""Data files are on disk before the catalogue names them.

SQLite syncs the catalogue at every commit, but DuckDB leaves the Parquet files it wrote to the system's cache: after a
power failure the catalogue could name files that are empty. So whoever commits syncs them first.
"""

import os
import shutil
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from warehouse.catalog.disk_full import disk_full
from warehouse.catalog.location import Location
from warehouse.errors import SettingsError, WarehouseError
from warehouse.files.atomic_file import replaced_file, sync


class NewFiles:
    """The data files that a transaction writes. Made before it writes; only the holder of the write lock writes.

    Args:
        location: the warehouse; files on S3 are the store's business, and none are new then.
        tables: those it will write to; all when left out.
    """

    def __init__(self, location: Location, tables: Iterable[str] | None = None) -> None:
        self._location = location
        self._tables = tables
        self._known = set(self._present())
        self._new: list[Path] = []

    def sync(self) -> list[Path]:
        """Bring them and their folders to disk, before the transaction commits; returns the files.

        Raises:
            DiskFull: the system finds now that there is no room.
            WarehouseError: a file cannot be synced, so the transaction must not commit.
        """
        new = [Path(name) for name in self._present() if name not in self._known]
        top = Path(self._location.data_path)
        folders = {folder for path in new for folder in path.parents if folder.is_relative_to(top)}
        try:
            for path in (*new, *sorted(folders)):
                sync(path)
        except OSError as error:
            raise disk_full(str(error), self._location) or WarehouseError(
                f"The new data files of {self._location.words} cannot be brought to disk: {error}. Nothing was written."
            ) from error
        self._new = new
        return new

    @contextmanager
    def kept(self) -> Generator[None]:
        """Around the COMMIT of files that were synced: what DuckDB removes when it fails is put back.

        It may have landed all the same: DuckLake does more after it has written the catalogue, and a server may end a
        session before it answers. A file that the catalogue does not name is removed by upkeep after its grace.
        """
        with ExitStack() as stack:
            files = [(path, stack.enter_context(path.open("rb"))) for path in self._new]
            try:
                yield
            except BaseException:
                for path, content in files:
                    if not path.exists():
                        with suppress(SettingsError, OSError):  # a full disk: what ended the commit is to be told
                            _put_back(path, content)
                raise

    def _present(self) -> list[str]:
        if self._location.on_s3:
            return []
        schema = Path(self._location.data_path) / "main"
        folders = [schema / table for table in self._tables] if self._tables is not None else [schema]
        return [os.path.join(folder, name) for top in folders for folder, _, names in os.walk(top) for name in names]


def _put_back(path: Path, content: BinaryIO) -> None:
    with replaced_file(path) as temporary, temporary.open("wb") as target:
        shutil.copyfileobj(content, target)
