"""Records of JSON Lines: one object a line."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from features.readers.record import BadRecord, Fault, Record, fault, make_record
from features.readers.source import ARRAY_HINT, SourceConfig
from features.readers.text_stream import CR_HINT, Line, Lines, decode

MAX_JSON_DEPTH = 100


def read_json_lines(lines: Lines, source: SourceConfig) -> Iterator[Record | Fault]:
    """Records and faults in order.

    Args:
        lines: of the file.
        source: says which field is what.

    Raises:
        StreamBroken: the file cannot be read further.
    """
    for line in lines:
        if line.fault is not None:
            yield line.fault
        elif line.raw and not line.raw.isspace():
            try:
                yield make_record(_parsed(line), source, line.number, line.raw)
            except BadRecord as bad:
                yield fault(line.number, bad.reason, bad.detail, line.raw)


def _parsed(line: Line) -> dict[str, Any]:
    text = decode(line.raw)
    if line.raw.count(b"[") + line.raw.count(b"{") > MAX_JSON_DEPTH:
        depth = _depth(line.raw)
        if depth > MAX_JSON_DEPTH:
            raise BadRecord("too_deep", f"the JSON is nested {depth} deep, the limit is {MAX_JSON_DEPTH}")
    try:
        value = _JSON.decode(text)
    except ValueError as error:  # JSONDecodeError, and numbers of more digits than Python converts
        if not line.ended and b"\r" not in line.raw.strip():
            raise BadRecord("half_line", f"the last line has no line end and is not JSON: {_words(error)}") from error
        hint = f"; {CR_HINT}" if b"\r" in line.raw.strip() else ""
        raise BadRecord("invalid_json", f"not JSON: {_words(error)}{hint}") from error
    if not isinstance(value, dict):
        raise BadRecord(
            "not_an_object",
            f"the JSON value is {type(value).__name__}; one object a line is read (of an array: {ARRAY_HINT})",
        )
    return value


def _words(error: ValueError) -> str:
    """Where it is in the line; json numbers the lines of what it was given, which is one line."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    return f"{error.msg.removesuffix(' at')} at character {error.pos + 1}"


# A string that never closes is matched to its end, so the pattern never starts again inside it and stays linear.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+\\?(?:"|\Z)', re.DOTALL)


def _depth(raw: bytes) -> int:
    depth = deepest = 0
    for mark in _STRING.sub(b"", raw):
        if mark in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in b"]}":
            depth -= 1
    return deepest


def object_of(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The object of the pairs that stand in it.

    Raises:
        BadRecord: one key stands twice.
    """
    fields = dict(pairs)
    if len(fields) != len(pairs):
        key, times = Counter(key for key, _ in pairs).most_common(1)[0]
        raise BadRecord("duplicate_key", f"the key {key[:60]!r} stands {times} times")
    return fields


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise BadRecord("not_finite", f"the number {text[:40]} is too large")
    return value


def _constant(text: str) -> float:
    raise BadRecord("not_finite", f"{text} is not a JSON number")


_JSON = json.JSONDecoder(object_pairs_hook=object_of, parse_float=_float, parse_constant=_constant)
