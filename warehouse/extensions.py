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


def load_extensions(
    connection: duckdb.DuckDBPyConnection, names: Sequence[str] = ("ducklake", "sqlite_scanner")
) -> None:
    """Load extensions into a connection, from disk only; left out, those of a warehouse in a local folder.

    Raises:
        WarehouseError: a wheel is missing or was built for another duckdb.
    """
    for name in names:
        path = str(extension_path(name)).replace("'", "''")
        connection.execute(f"LOAD '{path}'")
