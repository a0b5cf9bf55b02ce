"""The time that a stage still takes, as a run tells it while it works."""

import pytest

from flows.cli.terminal.console import time_left


@pytest.mark.parametrize(
    ("seconds", "done", "rest", "said"),
    [
        (60, 1000, 500, "about 30 s left"),
        (60, 1000, 5, "about 10 s left"),
        (600, 12_000, 88_000, "about 73 min left"),
        (600, 1000, 99_000, "about 16.5 h left"),
        (5, 1000, 500, ""),
        (60, 0, 500, ""),
        (60, 1500, 0, ""),
    ],
)
def test_it_is_told_at_the_pace_so_far_and_not_too_early(seconds: float, done: int, rest: int, said: str) -> None:
    assert time_left(seconds, done, rest) == said
