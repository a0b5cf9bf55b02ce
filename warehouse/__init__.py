"""Tables, commits and snapshots over DuckLake: what every other package stores and reads.

The errors are imported at once; what needs DuckDB and Arrow (half a second) only when asked for, so that a command that
opens no warehouse, such as the model server, starts without them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from warehouse.errors import (
    CatalogAway,
    CommitFailed,
    DataError,
    FolderAway,
    Overtaken,
    SchemaTooNew,
    SchemaTooOld,
    ServerAway,
    ServiceError,
    ServiceRefused,
    SettingsError,
    SiftlineError,
    SnapshotNotFound,
    StoreAway,
    StoreRefused,
    Terminal,
    Transient,
    WarehouseBusy,
    WarehouseError,
    WarehouseNotFound,
)

if TYPE_CHECKING:
    from warehouse.catalog.connection import attach_statement
    from warehouse.catalog.location import Location
    from warehouse.commits.lake import Lake
    from warehouse.commits.stage import Append, Delete, Progress, Stage, StageResult, Upsert, Write, hash_token, silent
    from warehouse.commits.transaction import siftline_version
    from warehouse.queries.open import attached, connect
    from warehouse.queries.reader import Reader, matrix_to_list_array

_MODULES = {
    "commits.transaction": ("siftline_version",),
    "catalog.connection": ("attach_statement",),
    "commits.lake": ("Lake",),
    "catalog.location": ("Location",),
    "queries.open": ("attached", "connect"),
    "queries.reader": ("Reader", "matrix_to_list_array"),
    "commits.stage": (
        "Append",
        "Delete",
        "Progress",
        "Stage",
        "StageResult",
        "Upsert",
        "Write",
        "hash_token",
        "silent",
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:  # so that a notebook completes names that nobody asked for yet
    return sorted({*globals(), *_HOME})


__all__ = [
    "Append",
    "CatalogAway",
    "CommitFailed",
    "DataError",
    "Delete",
    "FolderAway",
    "Lake",
    "Location",
    "Overtaken",
    "Progress",
    "Reader",
    "SchemaTooNew",
    "SchemaTooOld",
    "ServerAway",
    "ServiceError",
    "ServiceRefused",
    "SettingsError",
    "SiftlineError",
    "SnapshotNotFound",
    "Stage",
    "StageResult",
    "StoreAway",
    "StoreRefused",
    "Terminal",
    "Transient",
    "Upsert",
    "WarehouseBusy",
    "WarehouseError",
    "WarehouseNotFound",
    "Write",
    "attach_statement",
    "attached",
    "connect",
    "hash_token",
    "matrix_to_list_array",
    "siftline_version",
    "silent",
]
