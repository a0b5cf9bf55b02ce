"""The time that one run may wait for answers of a language model, counted once however many functions wait."""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

from weak_labels.functions.call import NotAVote


class RunClock:
    """Seconds in which at least one function waited for answers; safe to use from several threads."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s or float("inf")
        self._lock = threading.Lock()
        self._used_s = 0.0
        self._waiting = 0
        self._since = 0.0

    def restart(self) -> None:
        """Give the whole time again."""
        with self._lock:
            self._used_s, self._since = 0.0, time.monotonic()

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Count the time until the end of this block, once for all who wait beside each other."""
        with self._lock:
            if not self._waiting:
                self._since = time.monotonic()
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1
                if not self._waiting:
                    self._used_s += time.monotonic() - self._since

    def left_s(self) -> float:
        """What is left of the time; infinite without a limit.

        Raises:
            NotAVote: nothing is left.
        """
        with self._lock:
            left_s = self._limit_s - self._used_s - (time.monotonic() - self._since if self._waiting else 0.0)
        if left_s <= 0:
            raise NotAVote(
                "timeout",
                f"the time limit of {self._limit_s:g} s for the answers of one run is reached. The answers so far are "
                "kept, and the next run goes on from there; run_limit_s in [weak_labels.prompt] sets it",
            )
        return left_s
