"""Data files are on disk before the catalogue names them.

SQLite syncs the catalogue at every commit, but DuckDB leaves the Parquet files it wrote to the system's cache: after a
power failure the catalogue could name files that are empty. So whoever commits syncs them first (docs/decisions/0082).
"""

import os
from collections.abc import Iterable
from pathlib import Path

from warehouse.connection import Location
from warehouse.disk import disk_full
from warehouse.errors import WarehouseError
from warehouse.files import sync


def sync_new_files(location: Location, since: float, tables: Iterable[str] | None = None) -> None:
    """Sync the data files of a transaction that is about to commit; the caller holds the write lock.

    Args:
        location: the warehouse; files on S3 are the store's business.
        since: when the transaction began, in seconds of `time.time`.
        tables: those it wrote to; all when left out.

    Raises:
        DiskFull: the system finds now that there is no room.
        WarehouseError: a file cannot be synced, so the transaction must not commit.
    """
    schema = Path(location.data_path) / "main"
    if location.on_s3 or not schema.is_dir():
        return
    folders = [schema / table for table in tables] if tables is not None else list(schema.iterdir())
    begun = since - 1.0  # clocks of file systems are coarse
    try:
        new = [
            Path(entry.path)
            for folder in folders
            if folder.is_dir()
            for entry in os.scandir(folder)
            if entry.stat().st_mtime >= begun
        ]
        above = {schema, schema.parent} if new else set[Path]()
        for path in (*new, *sorted({path.parent for path in new} | above)):
            sync(path)
    except OSError as error:
        raise disk_full(str(error), location) or WarehouseError(
            f"The new data files of {location.words} cannot be brought to disk: {error}. Nothing was written."
        ) from error
