"""Where a warehouse is: its catalogue in SQLite or PostgreSQL, its data files in a folder or on S3.

A setting that holds a password or a key is refused.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from warehouse.catalog.write_lock import FolderLock, PostgresLock, WriteLock
from warehouse.errors import SettingsError


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """Where the catalogue and the data of one warehouse are.

    Args:
        folder: folder of the warehouse on this machine; holds what is not elsewhere.
        catalog: "sqlite" for `catalog.sqlite` in the folder, or "postgres:" and a libpq connection string, such as
            "postgres:dbname=siftline host=db". The database holds one warehouse.
        data: "data" for that folder below, or "s3://bucket/prefix".

    Raises:
        SettingsError: the folder is no path, the catalogue or the data has another form, a password or a hostaddr
            stands in it, or data would be in a folder with a backslash in its path.
    """

    folder: Path
    catalog: str = "sqlite"
    data: str = "data"

    _POSTGRES: ClassVar[str] = "postgres:"

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", folder_of(self.folder).absolute())
        # First what may hold a secret, which no message repeats.
        if "password" in self.catalog.lower() or "://" in self.catalog:
            raise SettingsError(
                "[warehouse] catalog must be of the form 'postgres:dbname=... host=...' without a password. Set the "
                "environment variable PGPASSWORD, or use libpq's ~/.pgpass."
            )
        if "hostaddr" in self.catalog.lower():  # a password in ~/.pgpass is found by host, and sent to hostaddr
            raise SettingsError(
                "[warehouse] catalog names a hostaddr, by which a password that belongs to host would go to another "
                "server. Leave it out, and name the server by host; an address of your own goes into the environment "
                "variable PGHOSTADDR."
            )
        if self.catalog != "sqlite" and not self.catalog.startswith(self._POSTGRES):
            raise SettingsError(
                f"[warehouse] catalog is {self.catalog!r}; it must be 'sqlite' or start with 'postgres:', such as "
                "'postgres:dbname=siftline host=db'."
            )
        # DuckDB takes keys behind a question mark too.
        if "@" in self.data.partition("://")[2].partition("/")[0] or "?" in self.data:
            raise SettingsError(
                "[warehouse] data must be of the form 's3://bucket/prefix' without keys. Set the environment variables "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )
        if self.data != "data" and not self.data.startswith("s3://"):
            raise SettingsError(f"[warehouse] data is {self.data!r}; it must be 'data' or start with 's3://'.")
        if self.on_s3 and (not self.data.removeprefix("s3://").strip("/") or any(sign in self.data for sign in "*[")):
            raise SettingsError(
                f"[warehouse] data is {self.data!r}; it must name a bucket, and better a prefix in it, such as "
                "'s3://bucket/prefix', without * and [."
            )
        if not self.on_s3 and "\\" in str(self.folder):
            raise SettingsError(
                f"The warehouse cannot be in {self.folder}: DuckLake takes the backslash in this path for a border "
                "between folders. Rename the folder, or set [warehouse] path to one whose whole path has no backslash."
            )

    @property
    def dsn(self) -> str | None:
        """libpq connection string of a PostgreSQL catalogue; None for SQLite."""
        return self.catalog.removeprefix(self._POSTGRES) if self.catalog.startswith(self._POSTGRES) else None

    @property
    def catalog_file(self) -> Path:
        """File of a SQLite catalogue."""
        return self.folder / "catalog.sqlite"

    @property
    def data_path(self) -> str:
        """Where the Parquet files are, with a closing slash."""
        return self.data.rstrip("/") + "/" if self.on_s3 else str(self.folder / "data") + os.sep

    @property
    def on_s3(self) -> bool:
        """The Parquet files are on S3 or a server that speaks its protocol."""
        return self.data.startswith("s3://")

    @property
    def words(self) -> str:
        """The warehouse as a person knows it, without secrets."""
        return str(self.folder) if self.dsn is None else self.catalog

    @property
    def extensions(self) -> tuple[str, ...]:
        """DuckDB extensions that it needs."""
        catalog = ("sqlite_scanner",) if self.dsn is None else ("postgres_scanner",)
        return ("ducklake", *catalog, *(("httpfs",) if self.on_s3 else ()))

    def write_lock(self) -> WriteLock:
        """The lock around every write."""
        return FolderLock(self.folder) if self.dsn is None else PostgresLock(self.dsn)

    def send_lock(self) -> AbstractContextManager[object]:
        """Held around what sends tasks to people: a run's own lock is of one machine, and several may share a catalogue
        in PostgreSQL.
        """
        return nullcontext() if self.dsn is None else PostgresLock(self.dsn, sending=True).held()


def locate(place: str | Path | Location) -> Location:
    """A location from what callers pass: a folder means SQLite and local data."""
    return place if isinstance(place, Location) else Location(folder=folder_of(place))


def folder_of(place: str | Path) -> Path:
    """The path of a warehouse's folder.

    Raises:
        SettingsError: it is no path.
    """
    try:
        return Path(place)
    except TypeError as error:
        raise SettingsError(f"The warehouse's folder is {place!r}; give its path, such as 'lake'.") from error
