"""How much a client asks of a server at a time: more while it answers, less while it refuses.

How many texts a server computes before its deadline nobody knows beforehand: it depends on the texts, on the machine
and on its other clients. So requests begin small, double until the first refusal, and are halved at each.
"""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

CONNECTIONS = 4
"""Requests at a time: enough that the server's queue never runs dry between two answers."""
FIRST_TEXTS = 8
STEADY = 4
"""Answers without a refusal between them after which a client that was refused before asks for a little more."""


class Portions:
    """Texts of a request and requests at a time. Safe to use from several threads.

    Args:
        most_texts: that a request may ever have.

    Attributes:
        texts: that the next request has at most.
        moved_at: when a request was last answered, or the next ones last became smaller; by `time.monotonic`.
    """

    def __init__(self, most_texts: int) -> None:
        self.texts, self.moved_at = min(FIRST_TEXTS, most_texts), time.monotonic()
        self._most_texts = most_texts
        self._connections, self._open = CONNECTIONS, 0
        self._answers, self._refused_once = 0, False
        self._changed = threading.Condition()

    @contextmanager
    def turn(self) -> Generator[None]:
        """Wait until one more request may be on its way, and have it so within the block."""
        with self._changed:
            self._changed.wait_for(lambda: self._open < self._connections)
            self._open += 1
        try:
            yield
        finally:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    def answered(self, texts: int) -> None:
        """A request of so many texts was answered."""
        with self._changed:
            self.moved_at = time.monotonic()
            self._answers += 1
            if not self._refused_once:
                self.texts = min(self._most_texts, max(self.texts, 2 * texts))
            elif self._answers % STEADY == 0:
                self.texts = min(self._most_texts, self.texts + max(1, self.texts // 8))
                self._connections = min(CONNECTIONS, self._connections + 1)
                self._changed.notify_all()

    def refused(self, texts: int) -> None:
        """A request of so many texts was too much for now."""
        with self._changed:
            self._refused_once, self._answers = True, 0
            smaller = max(1, texts // 2)
            if smaller < self.texts:
                self.texts, self.moved_at = smaller, time.monotonic()
            self._connections = max(1, self._connections // 2)
