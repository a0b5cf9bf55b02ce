"""Reading JSONL, CSV and TSV files, plain or gzip, as a stream: memory stays near the longest allowed record.

`Lines` cuts the stream into lines and is where sizes are guarded; the two readers above it turn lines into records.
"""

import csv
import gzip
import hashlib
import json
import math
import os
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from features.records import BadRecord, Fault, Record, fault, make_record
from features.sources import MissingColumns, SourceConfig, SourceFile, repeated_columns

BLOCK_BYTES = 1 << 18
MAX_JSON_DEPTH = 100
GZIP_RATIO = 200
GZIP_RATIO_FLOOR_BYTES = 64 << 20
"""A gzip file may unpack to this much whatever its ratio; beyond it, to 200 times its size. Text reaches 5 to 20."""

UTF8_BOM = b"\xef\xbb\xbf"
OTHER_BOMS = {b"\xff\xfe": "UTF-16 or UTF-32", b"\xfe\xff": "UTF-16", b"\x00\x00\xfe\xff": "UTF-32"}

Consumed = Callable[[int], None]
"""Called with the raw bytes of the file that have been read so far."""


class Line(NamedTuple):
    """One line without its line feed. `fault` is set, and `raw` empty, when it was too long to keep."""

    number: int
    raw: bytes
    ended: bool
    fault: Fault | None = None


class StreamBroken(Exception):
    """The stream cannot be read further; carries the fault that says where and why."""

    def __init__(self, found: Fault) -> None:
        super().__init__(found.detail)
        self.fault = found


class Lines:
    """Lines of a text file, counted from 1, with every size guarded.

    Args:
        file: the file to read.
        source: its limits.
        consumed: told how far the file has been read.

    Raises:
        SourceChanged: the file is gone.
        StreamBroken: while iterating, when gzip is damaged or unpacks to too much.
    """

    def __init__(self, file: SourceFile, source: SourceConfig, consumed: Consumed) -> None:
        self._source = source
        self._consumed = consumed
        self._file = file.open()
        # read1 hands out what gzip could unpack before it meets damage; read would lose it.
        self._unpacked = gzip.GzipFile(fileobj=self._file, mode="rb") if file.gzip else None
        self._more = self._unpacked.read1 if self._unpacked else self._file.read
        size = os.fstat(self._file.fileno()).st_size
        self._allowed = min(source.max_total_bytes, max(GZIP_RATIO_FLOOR_BYTES, GZIP_RATIO * size))
        self._total = 0
        self._number = 1
        self._returned: deque[Line] = deque()
        self._fresh = self._cut()

    def close(self) -> None:
        """Close the file."""
        if self._unpacked:
            self._unpacked.close()
        self._file.close()

    def give_back(self, lines: Sequence[Line]) -> None:
        """Put lines back so that they come again, in the same order."""
        self._returned.extendleft(reversed(lines))

    def __iter__(self) -> Iterator[Line]:
        return self

    def __next__(self) -> Line:
        return self._returned.popleft() if self._returned else next(self._fresh)

    def _cut(self) -> Iterator[Line]:
        limit = self._source.max_record_bytes
        rest = b""
        first = True
        while block := self._read(rest):
            if first:
                first = False
                for mark, encoding in OTHER_BOMS.items():
                    if block.startswith(mark):
                        detail = f"the file is {encoding}; convert it to UTF-8, for example with iconv"
                        raise StreamBroken(fault(0, "not_utf8_file", detail, block))
                block = block.removeprefix(UTF8_BOM)
            parts = (rest + block).split(b"\n")
            rest = parts.pop()
            for part in parts:
                yield self._line(part, ended=True)
            if len(rest) > limit:
                yield from self._skip(rest)
                rest = self._left
        if first:
            raise StreamBroken(fault(0, "empty_file", "the file is empty", b""))
        if rest:
            yield self._line(rest, ended=False)

    def _line(self, raw: bytes, *, ended: bool) -> Line:
        number, self._number = self._number, self._number + 1
        if len(raw) > self._source.max_record_bytes:
            return Line(number, b"", ended, self._too_long(number, hashlib.sha256(raw).hexdigest(), len(raw)))
        return Line(number, raw, ended)

    def _skip(self, begin: bytes) -> Iterator[Line]:
        """Read to the end of a line that is too long, keeping only its hash; what follows it lies in `_left`."""
        digest, size, ended = hashlib.sha256(begin), len(begin), False
        self._left = b""
        try:
            while not ended and (block := self._read(b"")):
                part, feed, after = block.partition(b"\n")
                digest.update(part)
                size += len(part)
                if feed:
                    ended, self._left = True, after
        except StreamBroken as broken:
            whole = broken.fault._replace(raw_hash=digest.hexdigest(), raw_bytes=size)
            raise StreamBroken(whole) from broken
        number, self._number = self._number, self._number + 1
        yield Line(number, b"", ended, self._too_long(number, digest.hexdigest(), size))
        # A line end inside the rest of the block was not cut yet; more than one may stand there.
        parts = self._left.split(b"\n")
        self._left = parts.pop()
        for part in parts:
            yield self._line(part, ended=True)

    def _too_long(self, number: int, raw_hash: str, size: int) -> Fault:
        detail = f"the line has {size} bytes, the limit max_record_bytes is {self._source.max_record_bytes}"
        return Fault(number, "record_too_long", detail, raw_hash, size)

    def _read(self, rest: bytes) -> bytes:
        """Next block; `rest` is the unfinished line before it, for the fault when there is no next block."""
        position = self._number if self._total else 0
        try:
            block = self._more(BLOCK_BYTES)
        except EOFError as error:
            detail = "the gzip file ends in the middle; records before this line were read"
            raise StreamBroken(fault(position, "truncated_gzip", detail, rest)) from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise StreamBroken(fault(position, "damaged_gzip", f"gzip: {error}", rest)) from error
        self._total += len(block)
        if self._unpacked and self._total > self._allowed:
            detail = (
                f"the file unpacks to more than {self._allowed} bytes (max_total_bytes is "
                f"{self._source.max_total_bytes}, beyond {GZIP_RATIO_FLOOR_BYTES} at most {GZIP_RATIO} times the "
                "size of the file); records before this line were read"
            )
            raise StreamBroken(fault(position, "gzip_bomb", detail, rest))
        self._consumed(self._file.tell())
        return block


def read_text_file(file: SourceFile, source: SourceConfig, consumed: Consumed) -> Iterator[Record | Fault]:
    """Records and faults of a JSONL, CSV or TSV file in order.

    Args:
        file: the file.
        source: its settings and limits.
        consumed: told how far the file has been read.

    Raises:
        SettingsError: a CSV or TSV file has no column of this name.
        SourceChanged: the file is gone.
    """
    with closing(Lines(file, source, consumed)) as lines:
        try:
            if file.format == "jsonl":
                yield from _read_jsonl(lines, source)
            else:
                yield from _read_csv(lines, source, file.name, "," if file.format == "csv" else "\t")
        except StreamBroken as broken:
            yield broken.fault


# --- JSONL -----------------------------------------------------------------------------------------------------------


def _read_jsonl(lines: Lines, source: SourceConfig) -> Iterator[Record | Fault]:
    for line in lines:
        if line.fault is not None:
            yield line.fault
        elif line.raw and not line.raw.isspace():
            try:
                yield make_record(_parse_json(line), source, line.number, line.raw)
            except BadRecord as bad:
                yield fault(line.number, bad.reason, bad.detail, line.raw)


def _parse_json(line: Line) -> dict[str, Any]:
    text = _decode(line.raw)
    if line.raw.count(b"[") + line.raw.count(b"{") > MAX_JSON_DEPTH:
        depth = _json_depth(line.raw)
        if depth > MAX_JSON_DEPTH:
            raise BadRecord("too_deep", f"the JSON is nested {depth} deep, the limit is {MAX_JSON_DEPTH}")
    try:
        value = _JSON.decode(text)
    except ValueError as error:  # JSONDecodeError, and numbers of more digits than Python converts
        if not line.ended:
            raise BadRecord("half_line", f"the last line has no line end and is not JSON: {error}") from error
        raise BadRecord("invalid_json", f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadRecord("not_an_object", f"the JSON value is {type(value).__name__}; one object per line is read")
    return value


def _decode(raw: bytes) -> str:
    if b"\0" in raw:
        raise BadRecord("nul_byte", f"NUL at byte {raw.index(0) + 1}")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        detail = f"byte {error.start + 1} (0x{raw[error.start]:02x}): {error.reason}"
        raise BadRecord("invalid_utf8", detail) from error


# A string that never closes is matched to its end, so the pattern never starts again inside it and stays linear.
_JSON_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+\\?(?:"|\Z)', re.DOTALL)


def _json_depth(raw: bytes) -> int:
    depth = deepest = 0
    for mark in _JSON_STRING.sub(b"", raw):
        if mark in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in b"]}":
            depth -= 1
    return deepest


def _json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise BadRecord("duplicate_key", f"the key {repeated[:60]!r} stands {keys.count(repeated)} times")
    return fields


def _json_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise BadRecord("not_finite", f"the number {text[:40]} is too large")
    return value


def _json_constant(text: str) -> float:
    raise BadRecord("not_finite", f"{text} is not a JSON number")


_JSON = json.JSONDecoder(object_pairs_hook=_json_object, parse_float=_json_float, parse_constant=_json_constant)


# --- CSV -------------------------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    """One row: the line on which it begins, its raw bytes, its cells, and what is wrong with it."""

    number: int
    raw: bytes
    ended: bool
    cells: list[str]
    wrong: BadRecord | Fault | None


class _Feed:
    """Feeds lines to a csv reader and remembers which of them make up the row it is reading."""

    def __init__(self, lines: Lines, limit: int) -> None:
        self._lines = lines
        self._limit = limit
        self._taken: list[Line] = []
        self._size = 0
        self.broken: StreamBroken | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            line = next(self._lines)
        except StreamBroken as broken:  # rows that are whole come first, then the fault of the stream
            self.broken = broken
            raise StopIteration from broken
        self._taken.append(line)
        self._size += len(line.raw) + 1
        if line.fault is not None or self._size > self._limit + 1:
            detail = f"a quote opens here and is still open after max_record_bytes ({self._limit} bytes)"
            raise BadRecord("unclosed_quote", detail)
        return line.raw.decode("utf-8", "surrogateescape") + ("\n" if line.ended else "")

    def take(self) -> list[Line]:
        """Lines since the last call."""
        taken, self._taken, self._size = self._taken, [], 0
        return taken


def _read_csv(lines: Lines, source: SourceConfig, name: str, delimiter: str) -> Iterator[Record | Fault]:
    # The limit is one for the whole process, so it is only ever raised; line lengths are guarded in `Lines`.
    csv.field_size_limit(max(csv.field_size_limit(), source.max_record_bytes + 1))
    header: list[str] | None = None
    for row in _csv_rows(lines, source.max_record_bytes, delimiter):
        if header is None:
            if row.wrong is not None:
                detail = f"the header cannot be read: {row.wrong.detail}"
                wrong = row.wrong if isinstance(row.wrong, Fault) else fault(row.number, "bad_header", detail, row.raw)
                yield wrong._replace(reason="bad_header", detail=detail)
                return
            header = _header(row, source, name)
            continue
        if isinstance(row.wrong, Fault):
            yield row.wrong
            continue
        try:
            if row.wrong is not None:
                raise row.wrong
            yield make_record(_cells(row, header), source, row.number, row.raw)
        except BadRecord as bad:
            yield fault(row.number, bad.reason, bad.detail, row.raw)


def _header(row: _Row, source: SourceConfig, name: str) -> list[str]:
    if not set(source.columns) <= set(row.cells):
        raise MissingColumns(source, name, row.cells)
    if (repeated := repeated_columns(source, name, row.cells)) is not None:
        raise repeated
    return row.cells


def _cells(row: _Row, header: list[str]) -> dict[str, str]:
    if len(row.cells) != len(header):
        detail = f"the row has {len(row.cells)} cells, the header has {len(header)}"
        if not row.ended and len(row.cells) < len(header):
            raise BadRecord("half_line", f"the last row has no line end: {detail}")
        raise BadRecord("wrong_columns", detail)
    return dict(zip(header, row.cells, strict=True))


def _csv_rows(lines: Lines, limit: int, delimiter: str) -> Iterator[_Row]:
    feed = _Feed(lines, limit)
    while True:
        try:
            for cells in csv.reader(feed, delimiter=delimiter, strict=True):
                taken = feed.take()
                if cells:
                    raw = b"\n".join(line.raw for line in taken)
                    yield _Row(taken[0].number, raw, taken[-1].ended, cells, _not_text(raw))
            break
        except (csv.Error, BadRecord) as error:
            # Only the line where the row begins is given up: a stray quote must not swallow the rows after it.
            taken = feed.take()
            lines.give_back(taken[1:])
            yield _Row(taken[0].number, taken[0].raw, taken[0].ended, [], taken[0].fault or _csv_fault(error, taken))
    if feed.broken is not None:
        raise feed.broken


def _not_text(raw: bytes) -> BadRecord | None:
    try:
        _decode(raw)
    except BadRecord as bad:
        return bad
    return None


def _csv_fault(error: csv.Error | BadRecord, taken: list[Line]) -> BadRecord:
    if isinstance(error, BadRecord):
        return error
    if (bad := _not_text(taken[0].raw)) is not None:
        return bad
    if len(taken) > 1 or "unexpected end of data" in str(error):
        return BadRecord("unclosed_quote", f"a quote opens here and does not close ({error})")
    return BadRecord("invalid_csv", f"not CSV: {error}")
