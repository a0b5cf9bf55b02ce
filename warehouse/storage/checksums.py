"""Checksums of data files: noted when a file is written, compared when somebody asks whether all is well.

DuckDB checks no page of a Parquet file: two of three flipped bits gave wrong rows without an error
(docs/decisions/checksums-beside-the-data.md).
So the sha256 of every file is kept beside the warehouse in the form that `sha256sum -c` reads,
and `verify` compares all of them, their sizes with the catalogue, and the catalogue with itself. Of files on S3 it asks
whether they are there in their size; their content is left to the store's own checksums.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb

from warehouse.catalog.connection import check_present, connect
from warehouse.catalog.location import Location, locate
from warehouse.catalog.object_store import FILES, holds_data
from warehouse.catalog.sqlite_file import catalog_faults
from warehouse.errors import WarehouseError, without_secrets
from warehouse.files.atomic_file import replaced_file, sha256_of
from warehouse.files.permissions import file_mode, private_files
from warehouse.session.extensions import open_duckdb
from warehouse.session.server_errors import server_fault

_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """What a check of all files found.

    Attributes:
        files: data files that kept snapshots need.
        bytes: their size together.
        damaged: (file, what is wrong with it); empty when all is well.
        unnoted: files without a noted checksum, of which only presence and size were checked.
    """

    files: int
    bytes: int
    damaged: tuple[tuple[Path, str], ...]
    unnoted: int

    def raise_if_damaged(self) -> None:
        """Refuse to go on with damaged files.

        Raises:
            WarehouseError: it names each file, what is wrong and the way out.
        """
        if self.damaged:
            words = "; ".join(f"{path}: {what}" for path, what in self.damaged)
            raise WarehouseError(
                f"The warehouse is damaged: {words}. Bring these files back from a backup; the rows of others are not "
                "affected."
            )


def note(location: Location, files: Iterable[Path]) -> None:
    """Note the checksums of files that were just committed; the caller holds the write lock.

    A note that cannot be written, for example on a full disk, is made by the next `note_all`.
    """
    with contextlib.suppress(OSError):
        _append(location, [path.relative_to(location.data_path).as_posix() for path in files])


def note_all(cursor: duckdb.DuckDBPyConnection, location: Location) -> None:
    """Note the files that have no checksum yet and forget those that are gone; the caller holds the write lock."""
    if location.on_s3:
        return
    needed = {name for name, _ in _listed(cursor, FILES)}
    noted = _noted(location)
    if noted.keys() - needed:
        with replaced_file(_path(location)) as file:
            file.write_text("".join(_line(noted[name], name) for name in sorted(noted.keys() & needed)), "utf-8")
            file.chmod(file_mode(location.folder))
    _append(location, sorted(needed - noted.keys()))


def verify(place: Path | Location, *, at: int | None = None) -> Verified:
    """Compare every data file that a kept snapshot needs with its noted checksum, and the catalogue with itself.

    Reads all data once: about a second per GB. Safe beside readers and writers.

    Args:
        place: the warehouse, or its folder.
        at: number of a snapshot, to check only what it needs; all kept ones when left out.

    A damaged SQLite catalogue is all that is told of then, since it says which files there are.

    Raises:
        WarehouseNotFound: there is no warehouse.
        WarehouseError: the catalogue cannot be opened, or the store refuses to be asked.
        ServerAway: the catalogue's server or the store does not answer.
    """
    location = locate(place)
    check_present(location, create=False)
    # Before DuckDB opens it: reading a damaged catalogue can end its process.
    if location.dsn is None:
        with contextlib.closing(open_duckdb(location.extensions)) as asking:
            faults = catalog_faults(asking, location.catalog_file, "integrity_check")
        if faults:
            found = tuple((location.catalog_file, words) for words in faults)
            return Verified(files=0, bytes=0, damaged=found, unnoted=0)
    with contextlib.closing(connect(location, read_only=True)) as cursor:
        seen = f"WHERE f.begin_snapshot <= {at} AND coalesce(f.end_snapshot > {at}, true)" if at is not None else ""
        needed = _listed(cursor, f"{FILES} {seen}")
        stored = _in_store(cursor, location) if location.on_s3 else {}
    noted: dict[str, str] = {}
    if location.on_s3:
        looked = [(Path(name), _size_fault(stored.get(name), size)) for name, size in needed]
    else:
        noted, folder = _noted(location), Path(location.data_path)
        looked = [(folder / name, _fault(folder / name, size, noted.get(name))) for name, size in needed]
    return Verified(
        files=len(needed),
        bytes=sum(n for _, n in needed),
        damaged=tuple((path, what) for path, what in looked if what),
        unnoted=sum(name not in noted for name, _ in needed),
    )


def _in_store(cursor: duckdb.DuckDBPyConnection, location: Location) -> dict[str, int]:
    """Size of each Parquet file in an S3 store, by name; asks for each file."""
    try:
        if not holds_data(cursor, location):
            return {}
        pattern = location.data_path + "**/*.parquet"
        found = cursor.execute("SELECT filename, size FROM read_blob(?)", [pattern]).fetchall()
    except duckdb.Error as error:
        text = without_secrets(str(error))
        raise server_fault(text) or WarehouseError(f"The data files cannot be looked at: {text}.") from error
    return {str(name).removeprefix(location.data_path): int(size) for name, size in found}


def _size_fault(found: int | None, size_bytes: int) -> str:
    if found is None:
        return "it is gone"
    return "" if found == size_bytes else f"it has {found} bytes, and {size_bytes} were written"


def _fault(path: Path, size_bytes: int, noted: str | None) -> str:
    try:
        if what := _size_fault(path.stat().st_size, size_bytes):
            return what
        if noted is not None and sha256_of(path) != noted:
            return "its content is not what was written (sha256)"
    except FileNotFoundError:
        return "it is gone"
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    return ""


def _listed(cursor: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[str, int]]:
    return [(str(name), int(size)) for name, size in cursor.execute(sql).fetchall()]


def _path(location: Location) -> Path:
    return location.folder / "data.sha256"


def _line(digest: str, name: str) -> str:
    return f"{digest}  data/{name}\n"


def _noted(location: Location) -> dict[str, str]:
    """Noted checksums by file name; a line that a crash cut short, or that is no text any more, does not count."""
    try:
        lines: Iterable[str] = _path(location).read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return {}
    found = (line.partition("  data/") for line in lines)
    return {name: digest for digest, _, name in found if _DIGEST.fullmatch(digest) and name.endswith(".parquet")}


def _append(location: Location, names: Iterable[str]) -> None:
    lines = "".join(_hashed(location, names))
    if not lines:
        return
    with private_files(location.folder):
        handle = os.open(_path(location), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o660)
    with os.fdopen(handle, "r+b") as file:
        if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) and file.read(1) != b"\n":
            lines = "\n" + lines  # a crash cut the last line short
        file.write(lines.encode())


def _hashed(location: Location, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            yield _line(sha256_of(Path(location.data_path) / name), name)
