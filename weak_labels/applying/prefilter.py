"""One pass over a text for many patterns: most texts match none of ten functions, and then none has to be called.

RE2 finds whether any of several patterns matches in about the time of one, so the functions of a group are called
only on the texts that match at least one of them. Votes are the same; on 20 functions it takes a quarter of the time.
"""

from collections.abc import Mapping, Sequence

import duckdb
import numpy as np
import pyarrow as pa

from warehouse.numeric import pc
from warehouse.session.duckdb import open_in_utc
from weak_labels.applying.progress import Flags, Rows
from weak_labels.functions.types import ItemBatch, LabelingFunction

GROUP = 10
"""Functions in a group: more hit too many texts, fewer need too many passes (measured: 5, 10 and 20)."""
LONGEST = 4000
"""Characters of a group's pattern; RE2 gives up its fast automaton when that outgrows its memory."""
FEWEST = 3
"""Below so many functions to call, a pass of its own for the group saves nothing."""


class Screens:
    """Groups of the functions of a run.

    Args:
        functions: all functions; those without a `screen` belong to no group.
    """

    def __init__(self, functions: Sequence[LabelingFunction]) -> None:
        self._patterns = [function.screen for function in functions]
        self._groups: list[tuple[list[int], str]] = []
        places: list[int] = []
        patterns: list[str] = []
        for place, function in enumerate(functions):
            pattern = f"(?:{function.screen})"
            if not function.screen or len(pattern) > LONGEST // FEWEST:
                continue
            if len(places) == GROUP or sum(map(len, patterns)) + len(pattern) > LONGEST:
                self._close(places, patterns)
                places, patterns = [], []
            places.append(place)
            patterns.append(pattern)
        self._close(places, patterns)

    def rows(self, batch: ItemBatch, calls: Flags) -> Mapping[int, Rows]:
        """The rows of a batch on which each function has to be called; on the others it abstains.

        Args:
            batch: N items.
            calls: whether a function is to be applied to an item [N, L].
        """
        found: dict[int, Rows] = {}
        for places, pattern in self._groups:
            active = [place for place in places if calls[:, place].any()]
            if len(active) >= FEWEST:
                hit = np.flatnonzero(np.asarray(pc.match_substring_regex(batch.text_array, pattern)))
                for place in active:
                    called = calls[hit, place]
                    found[place] = hit if called.all() else hit[called]
        return {
            place: found[place] if place in found else np.flatnonzero(calls[:, place])
            for place in range(calls.shape[1])
        }

    def in_sql(self, places: Sequence[int]) -> str:
        """A pattern for DuckDB without a match of which all functions at `places` abstain; empty where there is none.

        DuckDB has an RE2 of its own, which may be older: patterns that rest on tables of Unicode, or that it does not
        know, are left to pyarrow.
        """
        patterns = [self._patterns[place] for place in places]
        whole = "|".join(f"(?:{pattern})" for pattern in patterns)
        if not patterns or not all(patterns) or len(patterns) > GROUP or len(whole) > LONGEST:
            return ""
        if not whole.isascii() or r"\p" in whole.lower():
            return ""
        try:
            with open_in_utc() as connection:
                connection.execute("SELECT regexp_matches('', ?)", [whole])
        except duckdb.Error:
            return ""
        return whole

    def _close(self, places: list[int], patterns: list[str]) -> None:
        pattern = "|".join(patterns)
        if len(places) < FEWEST:
            return
        try:
            pc.match_substring_regex(pa.array([""]), pattern)
        except pa.ArrowInvalid:
            return  # together they are too large for RE2; each alone is not
        self._groups.append((places, pattern))
