"""How fast a queue is being emptied, so that nobody is let in who would wait past all patience."""

import math

MEMORY_S = 5.0
"""Work of longer ago counts little: a machine that others use changes its pace within seconds."""


class Pace:
    """Tokens a second, all workers together, by the clock on the wall, while there is work for all of them.

    Small batches say little about large ones, so only those of at least `least` tokens count.
    """

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0
        self._since: float | None = None

    def begin(self, now: float) -> None:
        """Work begins after a pause; the time before it counts for nothing."""
        self._since = now

    def done(self, tokens: int, now: float, *, least: int) -> None:
        """A batch is done."""
        if self._since is None:
            return
        seconds, self._since = now - self._since, now
        if tokens >= least:
            kept = math.exp(-seconds / MEMORY_S)
            self._tokens, self._seconds = kept * self._tokens + tokens, kept * self._seconds + seconds

    def seconds_for(self, tokens: int) -> float:
        """How long so many tokens take at this pace; 0 while nothing is known."""
        return tokens * self._seconds / self._tokens if self._tokens else 0.0
