"""Tables, commits and snapshots over DuckLake: what every other package stores and reads."""

from warehouse.commit import siftline_version
from warehouse.connection import Location, attach_statement
from warehouse.errors import (
    CommitFailed,
    DataError,
    SchemaTooNew,
    SchemaTooOld,
    ServiceError,
    ServiceRefused,
    SettingsError,
    SiftlineError,
    SnapshotNotFound,
    Terminal,
    Transient,
    WarehouseBusy,
    WarehouseError,
    WarehouseNotFound,
)
from warehouse.lake import Lake
from warehouse.read import connect
from warehouse.reader import Reader, matrix_to_list_array
from warehouse.stage import Append, Delete, Progress, Stage, StageResult, Upsert, Write, hash_token, silent

__all__ = [
    "Append",
    "CommitFailed",
    "DataError",
    "Delete",
    "Lake",
    "Location",
    "Progress",
    "Reader",
    "SchemaTooNew",
    "SchemaTooOld",
    "ServiceError",
    "ServiceRefused",
    "SettingsError",
    "SiftlineError",
    "SnapshotNotFound",
    "Stage",
    "StageResult",
    "Terminal",
    "Transient",
    "Upsert",
    "WarehouseBusy",
    "WarehouseError",
    "WarehouseNotFound",
    "Write",
    "attach_statement",
    "connect",
    "hash_token",
    "matrix_to_list_array",
    "siftline_version",
    "silent",
]
