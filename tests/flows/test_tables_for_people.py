"""How a table reads in the terminal."""

import re
from datetime import UTC, datetime

import pytest

from flows.cli.run import Announcer
from flows.cli.terminal import console
from flows.cli.terminal.console import Plain, print_table
from warehouse import StageResult


def test_times_are_told_to_the_second(capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2026, 3, 1, 12, 5, 9, 123456, tzinfo=UTC)
    print_table(["at", "plain"], [[at, at.replace(tzinfo=None)]])
    assert capsys.readouterr().out == "at\tplain\n2026-03-01 12:05:09+00:00\t2026-03-01 12:05:09\n"


@pytest.mark.parametrize("people", [False, True])
def test_texts_of_all_scripts_are_whole_and_marks_that_turn_the_line_are_told(
    people: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if people:
        in_terminal(80, monkeypatch)
    for text in ("می\u200cخواهم", "👩\u200d👧", "請求書\u3000未着", "12\u00a0%"):
        print_table(["text"], [[text]])
        assert text in capsys.readouterr().out
    print_table(["text"], [["a\u202eb\x1b[2J"]])
    assert "a\\x202eb\\x1b[2J" in capsys.readouterr().out


COLUMNS = "function|votes for|items|coverage|overlap|conflict|alone|gold|accuracy|95% interval|estimate|gain|faults"
FIGURES = (12345, 0.351, 0.123, 0.05, 0.2, 120, 0.93, "0.85-0.97", 0.951, 0.012, 0)


def terminal(width: int) -> Plain:
    return Plain(markup=False, emoji=False, highlight=False, soft_wrap=True, force_terminal=True, width=width)


def in_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "out", terminal(width))


@pytest.mark.parametrize("width", [60, 80, 100, 110, 120, 160])
def test_no_word_of_a_header_and_no_number_breaks(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_terminal(width, monkeypatch)
    columns = COLUMNS.split("|")
    print_table(columns, [("billing_words", "billing, praise", *FIGURES)], title="labeling functions")
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    words = text.split()
    for column in columns:
        assert all(word in words for word in column.split()), column
    assert "0.85-0.97" in text
    for value in ("12345", "0.351", "0.123", "0.050", "0.930", "0.951", "0.012", "billing_words"):
        assert value in words
    assert max(map(len, text.splitlines())) <= width
    assert words.count("function") == words.count("billing_words") == len(text.strip().split("\n\n"))
    assert (len(text.strip().split("\n\n")) == 1) == (width >= 120)


def test_a_long_text_gives_up_its_room_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_terminal(40, monkeypatch)
    print_table(["item", "share", "text", ""], [("i1", 0.5, "word " * 20, "")])
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert text.count("item") == 1
    assert " i1    0.500  word word word word" in text
    assert max(map(len, text.splitlines())) <= 40


def test_a_path_is_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    in_terminal(80, monkeypatch)
    path = "examples/reuters/.siftline/services/deployments.log"
    columns = ["service", "state", "where", "log"]
    print_table(columns, [("deployments", "runs", "http://127.0.0.1:4200", path), ("prefect", "ended", "", path)])
    text = capsys.readouterr().out
    assert text.count(path) == 2
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines())) <= 80


def test_texts_of_many_lines_have_half_the_room(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_terminal(80, monkeypatch)
    reason = "Speaks for 65 records nobody has labelled; no function votes on it; the model is unsure between the two."
    row = (1, 0.699, "waiting", "feature request", "Hello, please merge the accounts " * 2, f"{reason} {reason[:70]}")
    print_table(["rank", "value", "state", "suggested", "text", "reason"], [row] * 10)
    text = capsys.readouterr().out
    assert "nobody has labelled" in text
    assert len(text.splitlines()) < 60


def test_a_stage_has_its_counts_below_where_a_line_is_too_narrow(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"items": 7674, "encoded": 7595, "tokens": 812441, "truncated": 1203, "seconds each": 0.254125}
    rows = {"vectors": 7674}
    result = StageResult(stage="embed", token="", committed=True, rows_written=rows, detail=counts, seconds=9.9)
    for width, lines in ((80, 3), (200, 1)):
        monkeypatch.setattr(console, "err", terminal(width))
        Announcer()(result)
        first, *below = capsys.readouterr().out.splitlines()
        assert len(below) + 1 == lines
        assert max(map(len, [first, *below])) <= width
        assert first.split()[:3] == ["embed", "7,674", "vectors"]
        assert "seconds each 0.254" in [first, *below][-1]
        assert first.endswith("(9.9 s)")
        assert all(line.startswith(" " * 14) for line in below)
