"""Answers that were paid for and what all requests cost, in a SQLite file that several processes may use at once.

The dearest possible cost of a request is in the file before it is made, so the limits hold for all who use the file
together, and after a kill.
"""

import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from warehouse import SettingsError
from warehouse.files.permissions import private_files
from weak_labels.functions.call import NotAVote

_TABLES = ("answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL, cost REAL NOT NULL)", "requests (cost REAL NOT NULL)")


class PaidAnswers:
    """The file of answers and costs. Safe to use from several threads.

    Args:
        path: the file; made where there is none.
        limit: highest total of costs over the life of the file.
        max_requests: highest number of requests over the life of the file.

    Raises:
        SettingsError: the file cannot be opened.
    """

    def __init__(self, path: Path, limit: float, max_requests: int) -> None:
        self._path = path
        self._limit = limit
        self._max_requests = max_requests
        self._lock = threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with private_files():  # an answer may repeat the text that it is about
                self._file = sqlite3.connect(path, check_same_thread=False, timeout=30)
                # A part that a power cut lost is found where it is read: after its answer was paid, or what was spent.
                for (said,) in self._file.execute("PRAGMA quick_check(1)"):
                    if said != "ok":
                        raise sqlite3.DatabaseError(" ".join(said.split()))
                for table in _TABLES:
                    self._file.execute(f"CREATE TABLE IF NOT EXISTS {table}")
                self._file.commit()
        except sqlite3.OperationalError as error:  # the file is well, and what was paid for is in it
            raise SettingsError(
                f"The cache of answers {path} cannot be opened: {error}. Look whether another program holds it, and "
                "whether its folder can be written to and has room."
            ) from error
        except sqlite3.DatabaseError as error:
            raise SettingsError(
                f"The cache of answers {path} cannot be opened: {error}. Move it away; answers are then paid again."
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def answer(self, key: str) -> str | None:
        """The answer that is kept under a key."""
        with self._in_turn():
            found = self._file.execute("SELECT answer FROM answers WHERE key = ?", [key]).fetchone()
        return str(found[0]) if found else None

    def keep(self, key: str, answer: str, cost: float) -> None:
        """Keep an answer, on the disk when this returns."""
        with self._change():
            self._file.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", [key, answer, cost])

    def spent(self) -> tuple[int, float]:
        """Requests and their cost, over the life of the file; those under way count with the dearest."""
        with self._in_turn():
            count, cost = self._file.execute("SELECT count(*), coalesce(sum(cost), 0) FROM requests").fetchone()
        return int(count), float(cost)

    def reserve(self, most: float) -> int:
        """Set the dearest possible cost of a request aside before it is made.

        Returns:
            The request's number, for `settle`. Where that is never called, as after a kill, `most` stays spent.

        Raises:
            NotAVote: a limit is reached.
        """
        with self._change():
            count, cost = self.spent()
            if cost + most > self._limit:
                raise NotAVote(
                    "raised",
                    f"the spending limit of {self._limit:g} is reached: {cost:.4f} spent or set aside. The answers are "
                    "kept; raise limit in [weak_labels.prompt] and run again",
                )
            if count >= self._max_requests:
                raise NotAVote(
                    "raised",
                    f"the limit of {self._max_requests} requests is reached. The answers are kept; raise "
                    "max_requests in [weak_labels.prompt] and run again",
                )
            request = self._file.execute("INSERT INTO requests VALUES (?)", [most]).lastrowid
        assert request is not None
        return request

    def settle(self, request: int, cost: float | None) -> None:
        """Put the real cost of a request in the place of the dearest; None where it was not made."""
        with self._change():
            if cost is None:
                self._file.execute("DELETE FROM requests WHERE rowid = ?", [request])
            else:
                self._file.execute("UPDATE requests SET cost = ? WHERE rowid = ?", [cost, request])

    @contextmanager
    def _change(self) -> Generator[None]:
        """All of the block or nothing, beside other threads and processes."""
        with self._in_turn():
            self._file.execute("BEGIN IMMEDIATE")
            with self._file:
                yield

    @contextmanager
    def _in_turn(self) -> Generator[None]:
        """One thread at a time. What is wrong with the file is no fault of an item, which would not be asked again."""
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            raise NotAVote(
                "raised",
                f"the cache of answers {self._path} cannot be used: {error}. Look whether another program holds it and "
                "whether its disk has room, and run again",
            ) from error
