"""Where the DuckDB extensions come from: wheels installed beside duckdb, so nothing is downloaded at run time.

DuckDB checks the signature of an extension, 36 MB each, at every load into every instance. That is most of what opening
a warehouse costs, so a file is checked once and then known by what the file system says of it.
"""

import contextlib
import importlib
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import duckdb

from warehouse.errors import SettingsError, WarehouseError
from warehouse.files.atomic_file import replaced_file
from warehouse.session.duckdb import open_in_utc
from warehouse.text import quote

PACKAGES = {
    "ducklake": "duckdb_extension_ducklake",
    "sqlite_scanner": "duckdb_extension_sqlite_scanner",
    "postgres_scanner": "duckdb_extension_postgres_scanner",
    "httpfs": "duckdb_extension_httpfs",
}

LOCAL = ("ducklake", "sqlite_scanner")
"""What a warehouse with a SQLite catalogue and its data in a folder needs."""
CONNECT_TIMEOUT_S = 30
"""So long PostgreSQL's client waits for a server that takes a connection and says nothing; by itself, for ever."""


def extension_path(name: str) -> Path:
    """File of an extension that fits the installed duckdb.

    Args:
        name: extension name, a key of `PACKAGES`.

    Raises:
        WarehouseError: the wheel is missing or was built for another duckdb.
    """
    package = PACKAGES[name]
    distribution = package.replace("_", "-")
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise WarehouseError(
            f"The DuckDB extension '{name}' is not installed. Install it: pip install "
            f"'{distribution}=={duckdb.__version__}'"
        ) from error
    root = Path(str(module.__file__)).parent / "extensions"
    path = root / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
    if not path.is_file():
        found = sorted(p.name for p in root.glob("v*"))
        raise WarehouseError(
            f"The installed '{distribution}' holds {', '.join(found) or 'nothing'}, but duckdb is "
            f"v{duckdb.__version__}. Install matching versions: pip install "
            f"'duckdb=={duckdb.__version__}' '{distribution}=={duckdb.__version__}'"
        )
    return path


def load_extensions(connection: duckdb.DuckDBPyConnection, names: Sequence[str] = LOCAL) -> None:
    """Load extensions into a connection, from disk only; left out, those of a warehouse in a local folder."""
    for name in names:
        connection.execute(f"LOAD {quote(extension_path(name))}")


def open_duckdb(names: Sequence[str] = LOCAL, *, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """A new DuckDB in UTC with the warehouse's extensions, which fetches no others and loads no unsigned ones.

    The first load of a file by this user is checked by DuckDB; later ones of the very same file are not, and then the
    right to load unsigned files is taken away again before the connection is handed out.

    Args:
        names: extensions, keys of `PACKAGES`; left out, those of a warehouse in a local folder.
        threads: how many to begin with; `RESET threads` gives the rest. Left out, one per core.

    Raises:
        WarehouseError: an extension is missing or was built for another duckdb.
    """
    if "postgres_scanner" in names:
        os.environ.setdefault("PGCONNECT_TIMEOUT", str(CONNECT_TIMEOUT_S))
    files = frozenset(_identity(extension_path(name)) for name in names)
    if not files <= _CHECKED:
        _CHECKED.update(files & _recorded())
    checked = files <= _CHECKED
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "allow_unsigned_extensions": "true" if checked else "false",
    }
    if threads is not None:
        config["threads"] = threads
    connection = open_in_utc(config)
    load_extensions(connection, names)
    connection.execute("SET allow_unsigned_extensions = false")  # it cannot be set to true again
    if not checked:
        _CHECKED.update(files)
        _record(files)
    return connection


_Identity = tuple[str, int, int, int, int]

_CHECKED: set[_Identity] = set()
"""Extension files whose signature DuckDB has checked, as far as this process knows."""


def record_path() -> Path:
    """The file in which this user's processes note which extension files were checked."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "siftline" / "duckdb-extensions.json"


def _identity(path: Path) -> _Identity:
    """What tells this file from any that took its place; the time of change cannot be set by whoever replaces it."""
    found = path.stat()
    return str(path), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _recorded() -> set[_Identity]:
    """Files that an earlier process of this user saw checked; none where somebody else could have written the note."""
    try:
        path = record_path()
        for place, kind in ((path.parent, stat.S_ISDIR), (path, stat.S_ISREG)):
            found = place.lstat()
            if found.st_uid != os.getuid() or found.st_mode & 0o022 or not kind(found.st_mode):
                return set()
        lines = json.loads(path.read_text("utf-8"))
        return {(str(name), int(a), int(b), int(c), int(d)) for name, a, b, c, d in lines}
    except (OSError, ValueError, TypeError, RuntimeError):  # no home, or no note of ours: then DuckDB checks
        return set()


def _record(files: frozenset[_Identity]) -> None:
    """Note checked files beside those that are still what they were; no home, or one of others, is no error."""
    with contextlib.suppress(OSError, SettingsError, RuntimeError):
        path = record_path()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept = {known for known in _recorded() if _unchanged(known)} | files
        with replaced_file(path, durable=False) as temporary:
            temporary.write_text(json.dumps(sorted(kept)), "utf-8")


def _unchanged(known: _Identity) -> bool:
    try:
        return _identity(Path(known[0])) == known
    except OSError:
        return False
