"""Where the DuckDB extensions come from: wheels installed beside duckdb, so nothing is downloaded at run time."""

import importlib
from collections.abc import Sequence
from pathlib import Path

import duckdb

from warehouse.errors import WarehouseError

PACKAGES = {
    "ducklake": "duckdb_extension_ducklake",
    "sqlite_scanner": "duckdb_extension_sqlite_scanner",
    "postgres_scanner": "duckdb_extension_postgres_scanner",
    "httpfs": "duckdb_extension_httpfs",
}

LOCAL = ("ducklake", "sqlite_scanner")
"""What a warehouse with a SQLite catalogue and its data in a folder needs."""


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
        path = str(extension_path(name)).replace("'", "''")
        connection.execute(f"LOAD '{path}'")


def open_duckdb(names: Sequence[str] = LOCAL) -> duckdb.DuckDBPyConnection:
    """A new DuckDB with the warehouse's extensions, which fetches no others and loads no unsigned ones.

    DuckDB checks the signature of a file of 36 MB for 0.2 to 0.4 s at each load. The first load of a file in a process
    is checked so; later ones of the very same file are not, and then the right to load unsigned files is taken away
    again before the connection is handed out (docs/decisions/0033).

    Raises:
        WarehouseError: an extension is missing or was built for another duckdb.
    """
    files = frozenset(_identity(extension_path(name)) for name in names)
    checked = files <= _CHECKED
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_unsigned_extensions": "true" if checked else "false",
        }
    )
    load_extensions(connection, names)
    connection.execute("SET allow_unsigned_extensions = false")  # it cannot be set to true again
    _CHECKED.update(files)
    return connection


_CHECKED: set[tuple[str, int, int, int]] = set()
"""Extension files whose signature DuckDB has checked in this process."""


def _identity(path: Path) -> tuple[str, int, int, int]:
    found = path.stat()
    return str(path), found.st_ino, found.st_size, found.st_mtime_ns
