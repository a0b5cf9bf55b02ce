"""Whether the machine's clock was set back while a process runs, told by a clock that nobody sets.

Prefect's server looks at its schedules again at a time on the clock, and puts no run on its list while enough of later
times are there. So once a clock that was a day or a year ahead is put right, nothing comes due for a day or a year.
"""

import time

SET_BACK_S = 60.0
"""A clock that went back by less costs no more than this."""


def ahead_s() -> float:
    """How far the clock is ahead of one that nobody sets and that stands while the machine sleeps."""
    return time.time() - time.monotonic()


class Clock:
    """The machine's clock, as it goes from now on."""

    def __init__(self) -> None:
        self._most_s = ahead_s()

    def was_set_back(self) -> bool:
        """Whether it was set back by a minute or more since it was looked at first, or since this said so."""
        now_s = ahead_s()
        back = now_s <= self._most_s - SET_BACK_S
        self._most_s = now_s if back else max(now_s, self._most_s)
        return back
