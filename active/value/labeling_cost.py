"""How long people take over an answer, learned from the seconds they spent: what a label costs.

An answer is expected to take `pace * (overhead + characters)` seconds; the overhead is deciding and clicking, counted
in the characters that could be read meanwhile. Times of people are multiples of what is expected and sometimes much
more, when somebody left the desk. So the fit is the one with the least absolute deviation of logarithms: an answer that
took a lunch counts as one that was slow. Texts shorter or longer than all that were answered count as the shortest and
the longest of these, so nothing is expected that nobody has seen.

Shape letters: N texts, T timed answers, O overheads that are tried.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from active.pool.graph import Floats, Rows
from warehouse import Reader

FEWEST = 20
"""Timed answers from which a time is expected; with fewer it is unknown."""
LATEST = 1000
"""Answers that are looked at, the latest ones: people get faster."""
LEAST_S = 0.1
"""Nobody answers faster, whatever a client reports; a label that took no time would be worth infinitely much."""
OVERHEADS = np.geomspace(1.0, 10_000.0, 81)


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """What the answers so far say about the time of the next ones.

    Attributes:
        pace: seconds per character.
        overhead: characters that could be read while a person decides.
        shortest: characters of the shortest text that was answered.
        longest: of the longest.
    """

    pace: float
    overhead: float
    shortest: int
    longest: int

    @classmethod
    def learned(cls, characters: Rows, seconds: Floats) -> Self | None:
        """The fit to timed answers; None where there are fewer than `FEWEST`.

        Args:
            characters: [T] length of each text.
            seconds: [T] time spent on it, above 0.

        Source: Bloomfield, Steiger (1983), Least Absolute Deviations, chapter 2: for each overhead the best pace is the
        median of the ratios, and the overhead is found by trying 81 of them.
        """
        if len(seconds) < FEWEST:
            return None
        ratios_TO = np.log(seconds)[:, None] - np.log(OVERHEADS + characters[:, None])
        paces_O = np.median(ratios_TO, axis=0)
        best = int(np.abs(ratios_TO - paces_O).mean(axis=0).argmin())
        return cls(
            pace=float(np.exp(paces_O[best])),
            overhead=float(OVERHEADS[best]),
            shortest=int(characters.min()),
            longest=int(characters.max()),
        )

    def seconds(self, characters: Rows) -> Floats:
        """The time that an answer to each text is expected to take [N], `LEAST_S` or more: half of all take longer."""
        seen = np.clip(characters, self.shortest, self.longest).astype(np.float64)
        return np.maximum(self.pace * (self.overhead + seen), LEAST_S)


def expected_seconds(reader: Reader, item_ids: Sequence[str]) -> Floats | None:
    """Seconds that a label of each train item is expected to take [N]; None where too few answers say."""
    timed = reader.arrow(
        """
        SELECT length(i.content) AS characters, a.seconds
        FROM current_annotations a JOIN items i ON i.item_id = a.item_id
        WHERE a.action = 'labelled' AND a.seconds > 0 AND isfinite(a.seconds)
        ORDER BY a.updated_at DESC, a.annotation_id DESC LIMIT ?
        """,
        [LATEST],
    )
    effort = Effort.learned(timed.column("characters").to_numpy(), timed.column("seconds").to_numpy())
    if effort is None:
        return None
    lengths = dict(reader.rows("SELECT item_id, length(content) FROM items WHERE split = 'train'"))
    return effort.seconds(np.array([lengths[item_id] for item_id in item_ids], np.int64))
