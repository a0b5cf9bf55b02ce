"""Errors that a person or a retry policy reads.

Two families decide what happens next: `Terminal` needs a person, `Transient` may pass when tried again. Every message
names the thing, the values that clash and the way out.
"""

import os
import re

SECRET_VARIABLES = ("PGPASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


class SiftlineError(Exception):
    """Base of every error that Siftline raises on purpose."""


class Terminal(SiftlineError):
    """Trying again cannot help: a person must change an input, a setting or the machine."""


class Transient(SiftlineError):
    """The same call may succeed later: a service is away, a lock is held, space ran out."""


class SettingsError(Terminal):
    """A setting or an argument is wrong."""


class DataError(Terminal):
    """Input data cannot be used as it is."""


class WarehouseError(Terminal):
    """The warehouse cannot be opened or is damaged."""


class WarehouseNotFound(WarehouseError):
    """There is no warehouse at this place yet; `siftline run` creates it."""


class SchemaTooNew(WarehouseError):
    """The warehouse was written by a newer Siftline; upgrade Siftline to open it."""


class SnapshotNotFound(WarehouseError):
    """No snapshot with this number or of this time is kept; `siftline snapshots` lists those that are."""


class SchemaTooOld(WarehouseError):
    """The warehouse was written by an older Siftline and is open for reading only; opening it to write migrates it."""


class StoreRefused(WarehouseError):
    """The S3 store of the data files refuses the keys, the bucket or the region; nothing is damaged."""


class WarehouseBusy(Transient):
    """Another process kept the warehouse's write lock for too long."""


class ServerAway(Transient):
    """A server that keeps a part of the warehouse does not answer."""


class CatalogAway(ServerAway):
    """The PostgreSQL server of the catalogue does not answer, or went away with what it had not committed."""


class StoreAway(ServerAway):
    """The S3 store of the data files does not answer, or asks to be called later."""


class CommitFailed(Transient):
    """A commit did not land after all retries; nothing of it was written."""


class Overtaken(CommitFailed):
    """Another run of the same stage committed since this one began; nothing was written."""


class DiskFull(CommitFailed):
    """The disk of the warehouse, or of the temporary folder, is full; nothing was written, what was there stays."""


class FolderAway(ServerAway):
    """The warehouse's folder is not where it was opened: it was moved or removed, or its disk is not there."""


class ServiceError(Transient):
    """An annotation or engine service did not answer as it should."""


class ServiceRefused(Terminal):
    """A service refused the request for a reason that a retry does not change."""


def without_secrets(text: str) -> str:
    """A message of DuckDB's without the values of the variables that hold secrets.

    And without the SQL that it sent to PostgreSQL: that holds the rows of a commit, and goes on for pages.
    """
    text = re.sub(r'(query|COPY) ".*": ', r"\1: ", text, flags=re.DOTALL)
    for name in SECRET_VARIABLES:
        value = os.environ.get(name, "")
        if len(value) >= 4:
            text = text.replace(value, f"<{name}>")
    return text
