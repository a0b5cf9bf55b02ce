"""Rows of CSV and TSV files, blank ones left out, where a stray quote must not swallow the rows after it.

A row whose quote does not close gives up only the line on which it begins; the next line begins a row again. What is
known of the lines after it is kept, so that no line is looked at again for each of the rows that were given up.
"""

import csv
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from features.readers.record import BadRecord, Fault, Record, fault, make_record
from features.readers.source import SourceConfig, SourceFile, check_columns
from features.readers.text_stream import CR_HINT, Line, Lines, StreamBroken, decode

DELIMITERS = {"csv": ",;\t", "tsv": "\t"}
"""What may stand between the cells of a format; Excel writes a .csv with ; where the comma is the decimal point."""

_MOST_CHARACTERS = 2**31 - 1
"""What the csv module takes as the longest field on every platform."""

_STILL_OPEN = "unexpected end of data"
"""What the csv module says, when it is strict, of a quote that is open at the end."""


def read_csv(lines: Lines, source: SourceConfig, file: SourceFile) -> Iterator[Record | Fault]:
    """Records and faults in order; the position is the line on which a row begins.

    Args:
        lines: of the file.
        source: says which column is what.
        file: its format and its name in messages.

    Raises:
        SettingsError: the file has no column of this name, or has it twice.
        StreamBroken: the file cannot be read further.
    """
    # The limit is one for the whole process, so it is only ever raised; line lengths are guarded in `Lines`.
    csv.field_size_limit(max(csv.field_size_limit(), min(source.max_record_bytes + 1, _MOST_CHARACTERS)))
    header: list[str] | None = None
    for row in _rows(_Ahead(lines, source.max_record_bytes), source, DELIMITERS[file.format]):
        if header is None:
            if row.wrong is not None:
                detail = f"the header cannot be read: {row.wrong.detail}"
                wrong = row.wrong if isinstance(row.wrong, Fault) else fault(row.number, "bad_header", detail, row.raw)
                yield wrong._replace(reason="bad_header", detail=detail)
                return
            header = row.cells
            check_columns(source, file.name, header)
            continue
        if isinstance(row.wrong, Fault):
            yield row.wrong
            continue
        try:
            if row.wrong is not None:
                raise row.wrong
            yield make_record(_fields(row, header), source, row.number, row.raw)
        except BadRecord as bad:
            yield fault(row.number, bad.reason, bad.detail, row.raw)


class _Row(NamedTuple):
    """One row: the line on which it begins, its raw bytes, its cells, and what is wrong with it."""

    number: int
    raw: bytes
    ended: bool
    cells: list[str]
    wrong: BadRecord | Fault | None


def _fields(row: _Row, header: list[str]) -> dict[str, str]:
    if len(row.cells) != len(header):
        detail = f"the row has {len(row.cells)} cells, the header has {len(header)}"
        if not row.ended and len(row.cells) < len(header):
            raise BadRecord("half_line", f"the last row has no line end: {detail}")
        raise BadRecord("wrong_columns", detail)
    return dict(zip(header, row.cells, strict=True))


def _rows(ahead: "_Ahead", source: SourceConfig, delimiters: str) -> Iterator[_Row]:
    delimiter = ""
    while (line := ahead.next()) is not None:
        if line.fault is None and not line.raw.strip(b"\r"):
            continue
        delimiter = delimiter or _delimiter(line, source, delimiters)
        yield _row(line, ahead, delimiter)
    if ahead.broken is not None:  # rows that are whole come first, then the fault of the stream
        raise ahead.broken


def _delimiter(header: Line, source: SourceConfig, delimiters: str) -> str:
    """The first with which the header has all columns that are wanted, else the one that makes the most of it."""

    def judged(delimiter: str) -> tuple[bool, int]:
        try:
            cells = _cells([header], delimiter)
        except csv.Error:
            return False, 0
        fits = set(source.columns) <= set(cells)
        return fits, 0 if fits else len(cells)

    return max(delimiters, key=judged)


def _row(first: Line, ahead: "_Ahead", delimiter: str) -> _Row:
    if first.fault is not None:
        return _Row(first.number, first.raw, first.ended, [], first.fault)
    taken = [first]
    try:
        try:
            cells = _cells(taken, delimiter)
        except csv.Error as error:
            if str(error) != _STILL_OPEN:
                raise BadRecord("invalid_csv", _not_csv(error)) from error
            taken += ahead.to_closing_quote(first, delimiter)
            cells = _cells(taken, delimiter)
    except BadRecord as bad:
        return _Row(first.number, first.raw, first.ended, [], _not_text(first.raw) or bad)
    raw = b"\n".join(line.raw for line in taken)
    return _Row(first.number, raw, taken[-1].ended, cells, _not_text(raw))


def _cells(lines: Iterable[Line], delimiter: str, begin: str = "") -> list[str]:
    texts = (begin + line.raw.decode("utf-8", "surrogateescape") + ("\n" if line.ended else "") for line in lines)
    return next(csv.reader(texts, delimiter=delimiter, strict=True))


def _not_text(raw: bytes) -> BadRecord | None:
    try:
        decode(raw)
    except BadRecord as bad:
        return bad
    return None


def _not_csv(error: csv.Error) -> str:
    if "new-line character" in str(error):
        return f"not CSV: {CR_HINT}"
    return f"not CSV: {error}"


class _Ahead:
    """Lines, and those among them that were read ahead to find where a quote closes.

    Whether a line leaves a quote open that was open before it depends on nothing else, so it is asked once.

    Attributes:
        broken: why the stream ended early.
    """

    def __init__(self, lines: Lines, limit: int) -> None:
        self.broken: StreamBroken | None = None
        self._lines = lines
        self._limit = limit
        self._open: deque[Line] = deque()  # an open quote stays open in them
        self._open_bytes = 0
        self._last: Line | None = None  # the line behind those
        self._fault = ""  # why an open quote does not close in it; empty where that is not known

    def next(self) -> Line | None:
        """The next line; None at the end."""
        if self._open:
            line = self._open.popleft()
            self._open_bytes -= _size(line)
            return line
        line, self._last, self._fault = self._last, None, ""
        return line or self._read()

    def to_closing_quote(self, first: Line, delimiter: str) -> list[Line]:
        """Take the lines after the first, which leaves a quote open, to the one in which it closes.

        Raises:
            BadRecord: it does not close; then no line is taken.
        """
        while True:
            self._last = self._last or self._read()
            if self._last is None:
                raise _unclosed(_STILL_OPEN)
            if self._last.fault or _size(first) + self._open_bytes + _size(self._last) > self._limit + 1:
                detail = f"a quote opens here and is still open after max_record_bytes ({self._limit} bytes)"
                raise BadRecord("unclosed_quote", detail)
            try:
                if not self._fault:
                    _cells([self._last], delimiter, begin='"')
            except csv.Error as error:
                self._fault = str(error)
            if not self._fault:
                taken = [*self._open, self._last]
                self._open.clear()
                self._open_bytes, self._last = 0, None
                return taken
            if self._fault != _STILL_OPEN:
                raise _unclosed(self._fault)
            self._open.append(self._last)
            self._open_bytes += _size(self._last)
            self._last, self._fault = None, ""

    def _read(self) -> Line | None:
        try:
            return next(self._lines, None)
        except StreamBroken as broken:
            self.broken = broken
            return None


def _size(line: Line) -> int:
    return len(line.raw) + 1


def _unclosed(error: str) -> BadRecord:
    return BadRecord("unclosed_quote", f"a quote opens here and does not close ({error})")
