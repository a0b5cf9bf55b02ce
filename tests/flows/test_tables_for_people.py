"""How a cell of a table reads in the terminal."""

from datetime import UTC, datetime

import pytest

from flows.cli.console import print_table


def test_times_are_told_to_the_second(capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2026, 3, 1, 12, 5, 9, 123456, tzinfo=UTC)
    print_table(["at", "plain"], [[at, at.replace(tzinfo=None)]])
    assert capsys.readouterr().out == "at\tplain\n2026-03-01 12:05:09+00:00\t2026-03-01 12:05:09\n"
