"""The lock that lets one process at a time write a warehouse, and what happens when its owner dies.

Both kinds belong to something that ends with the process, so no owner can leave a lock behind and none has to be judged
dead by a timeout: the file lock belongs to an open file, which the kernel closes; the PostgreSQL lock belongs to a
session, which the server ends when its connection breaks. Who holds it is written beside it only for the message.
"""

import contextlib
import errno
import json
import os
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import duckdb
from filelock import FileLock, Timeout

from warehouse.errors import WarehouseBusy, WarehouseError, without_secrets
from warehouse.files.permissions import file_mode
from warehouse.session.extensions import open_duckdb
from warehouse.session.server_errors import close, folder_away, server_fault
from warehouse.session.server_health import watch
from warehouse.text import quote

TIMEOUT_S = 300.0
_WRITE, _SEND = 0x51F7_11E0, 0x51F7_11E1  # one warehouse per PostgreSQL database, so one number each is enough


Sure = Callable[[], None]
"""Asks whether a lock is still held; raises `CatalogAway` where it was lost."""


class WriteLock(Protocol):
    """Held around every write; entering waits at most `TIMEOUT_S`."""

    def held(self) -> contextlib.AbstractContextManager[Sure]:
        """Hold it for a block; what it gives is to be called right before a commit.

        Raises:
            WarehouseBusy: another process held it for too long.
            WarehouseError: it is in a folder that may not be written to.
            CatalogAway: the server that keeps it does not answer.
            FolderAway: the folder that it is in is not there any more.
        """
        ...


class FolderLock:
    """A lock on `write.lock` in the warehouse's folder. The folder must not be on a file system without flock.

    Args:
        folder: folder of the warehouse; it exists.
        timeout_s: how long to wait.
    """

    def __init__(self, folder: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        self._mode = file_mode(folder)
        self._lock = FileLock(str(folder / "write.lock"), timeout=timeout_s, mode=self._mode)
        self._owner = folder / "write.owner"
        self._timeout_s = timeout_s

    @contextmanager
    def held(self) -> Generator[Sure]:
        """Hold the lock for a block; the kernel does not lose it."""
        if not self._owner.parent.is_dir():  # FileLock would make it, and SQLite an empty catalogue in it
            raise folder_away(self._owner.parent)
        try:
            with writable(self._owner.parent):
                self._lock.acquire()
        except Timeout as error:
            raise WarehouseBusy(
                f"{self._words()} has held the write lock of {self._owner.parent} for more than "
                f"{self._timeout_s:.0f} s. The lock frees itself when that process ends."
            ) from error
        try:
            facts = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat()}
            with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
                self._owner.unlink(missing_ok=True)  # in a folder from somebody else it may be a link to any file
                with os.fdopen(os.open(self._owner, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self._mode), "w") as note:
                    json.dump(facts, note)
            yield lambda: None
        finally:
            with contextlib.suppress(OSError):  # a disk that may not be written to any more; what ended the work counts
                self._owner.unlink(missing_ok=True)
            self._lock.release()

    def _words(self) -> str:
        try:
            facts = json.loads(self._owner.read_text(encoding="utf-8"))
            return f"Process {facts['pid']} on {facts['host']} (since {facts['since']})"
        except (OSError, ValueError, KeyError, TypeError):
            return "Another process"


@contextmanager
def writable(folder: Path) -> Generator[None]:
    """Around what writes to a folder of the warehouse.

    Raises:
        WarehouseError: this user may not.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise WarehouseError(
            f"{folder} cannot be written to by this user ({error.strerror}), so nothing can be stored there. Ask for "
            "the right to write, or copy the whole project to a folder of your own and work there."
        ) from error


class PostgresLock:
    """A transaction's advisory lock in the catalogue's database, so writers on many machines exclude each other.

    Args:
        dsn: connection string of the catalogue without a password.
        timeout_s: how long to wait.
        sending: around what sends tasks to people, instead of around a write.
    """

    def __init__(self, dsn: str, *, timeout_s: float = TIMEOUT_S, sending: bool = False) -> None:
        self._dsn = dsn
        self._timeout_s = timeout_s
        self._key, self._what = (_SEND, "send") if sending else (_WRITE, "write")

    @contextmanager
    def held(self) -> Generator[Sure]:
        """Hold the lock for a block, over a connection of its own."""
        watch(self._dsn)
        connection = open_duckdb(("postgres_scanner",))
        try:
            try:
                connection.execute(f"ATTACH {quote(self._dsn)} AS pg (TYPE postgres)")
                connection.execute("BEGIN TRANSACTION")
                # The session is idle while the commit works: a server's limit for such ones would end it, and the lock.
                limits = (
                    f"lock_timeout = '{int(self._timeout_s * 1000)}ms'",
                    "idle_in_transaction_session_timeout = 0",
                )
                for limit in limits:
                    connection.execute(f"CALL postgres_execute('pg', {quote(f'SET LOCAL {limit}')})")
                locking = f"SELECT pg_advisory_xact_lock({self._key})::text"
                connection.execute(f"SELECT * FROM postgres_query('pg', {quote(locking)})").fetchall()
            except duckdb.Error as error:
                if "lock timeout" in str(error):
                    raise WarehouseBusy(
                        f"Another process has held the {self._what} lock of the catalogue in {self._dsn} for more than "
                        f"{self._timeout_s:.0f} s. Who: SELECT * FROM pg_locks WHERE locktype = 'advisory'."
                    ) from error
                if fault := server_fault(str(error)):
                    raise fault from None
                raise WarehouseError(
                    f"The catalogue in postgres:{self._dsn} did not give the {self._what} lock: "
                    f"{without_secrets(str(error))}. Check that the server runs and that PGPASSWORD is set."
                ) from None

            def sure() -> None:
                try:
                    connection.execute("SELECT * FROM postgres_query('pg', 'SELECT 1')").fetchall()
                except duckdb.Error as error:
                    raise server_fault(str(error)) or error from None

            yield sure
        finally:
            close(connection)  # ends the session, and with it the lock
