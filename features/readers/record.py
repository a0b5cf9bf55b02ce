"""One record of a source: what counts as readable, and how an unreadable one is described.

`Record` is text that can be stored as an item, `Fault` is a row of the quarantine. Every reader turns what it finds
into one of the two and never raises for bad data.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from features.readers.source import SPLITS, SourceConfig

MAX_ID_BYTES = 1024
FLOAT_BITS = 53
"""Significant bits of Python's float."""

REASONS = {
    "invalid_utf8": "the bytes are not UTF-8",
    "not_utf8_file": "the file begins as UTF-16, UTF-32, a packed file or Parquet does",
    "nul_byte": "the record holds a NUL",
    "lone_surrogate": "the record holds half of a surrogate pair",
    "invalid_json": "the line is not JSON",
    "half_line": "the last line is not JSON and has no line end: it was probably cut off",
    "duplicate_key": "a JSON object holds one key twice",
    "not_finite": "a number is NaN or infinite",
    "too_deep": "the JSON is nested too deep",
    "not_an_object": "the JSON value is not an object",
    "record_too_long": "the record is longer than max_record_bytes",
    "bad_header": "the CSV header cannot be read",
    "invalid_csv": "the row breaks the rules of CSV",
    "unclosed_quote": "a quote that opens in this row does not close",
    "wrong_columns": "the row has more or fewer cells than the header",
    "missing_text": "the record has no text field",
    "null_text": "the text is null",
    "empty_text": "the text is empty or only white space",
    "text_not_string": "the text is not a string",
    "bad_id": "the id is not a short string or a whole number, or a float so large that it may stand for several",
    "bad_split": "the split is not train, valid or test",
    "empty_file": "the file holds no bytes",
    "truncated_gzip": "the gzip file ends too early",
    "damaged_gzip": "the gzip file is damaged",
    "gzip_bomb": "the gzip file unpacks to more than is allowed",
    "damaged_parquet": "the Parquet file cannot be read",
    "duplicate_id_conflict": "the id stands earlier in this read with another content",
    "other_split": "the record stands elsewhere in this read in another split",
}
"""Codes of `quarantine.reason` and what they mean."""


class Record(NamedTuple):
    """Text that can be stored. `position` counts from 1; `raw` is the record as it stood in the source.

    `has_split` is whether it has the field of the split; the split of one without is the source's default.
    """

    position: int
    text: str
    content_hash: str
    id: str | None
    split: str
    metadata: str
    raw: bytes
    has_split: bool


class Fault(NamedTuple):
    """What could not be read. `position` counts from 1, 0 is the file as a whole; `reason` is a key of `REASONS`."""

    position: int
    reason: str
    detail: str
    raw_hash: str
    raw_bytes: int


class BadRecord(Exception):
    """Raised and caught inside the readers: this one record goes to quarantine."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def fault(position: int, reason: str, detail: str, raw: bytes) -> Fault:
    """A `Fault` about bytes that are at hand."""
    assert reason in REASONS, reason
    return Fault(position, reason, detail, hashlib.sha256(raw).hexdigest(), len(raw))


def make_record(
    fields: Mapping[str, Any], source: SourceConfig, position: int, raw: bytes, *, id_bits: int = FLOAT_BITS
) -> Record:
    """Check the fields of one record and build it.

    Args:
        fields: values by column; a column that a JSON object does not have is absent.
        source: settings that say which column is what.
        position: row or line, counted from 1.
        raw: the record as it stood in the source.
        id_bits: significant bits of an id that is a float; larger whole numbers were rounded, maybe several to one.

    Raises:
        BadRecord: it cannot be stored.
    """
    text = fields.get(source.text)
    if not isinstance(text, str):
        raise _no_text(fields, source, text)
    content = _utf8(text, source.text)
    if len(content) > source.max_record_bytes:
        raise BadRecord(
            "record_too_long",
            f"the text has {len(content)} bytes, the limit max_record_bytes is {source.max_record_bytes}",
        )
    if not text or text.isspace():
        raise BadRecord("empty_text", f"{source.text!r} is empty or only white space")
    return Record(
        position,
        text,
        hashlib.sha256(content).hexdigest(),
        None if source.id is None else _id(fields.get(source.id), source.id, id_bits),
        source.default_split if source.split is None else _split(fields.get(source.split), source),
        "{}" if not source.metadata else _metadata(fields, source),
        raw,
        source.split in fields,
    )


def _no_text(fields: Mapping[str, Any], source: SourceConfig, text: Any) -> BadRecord:
    if source.text not in fields:
        found = ", ".join(repr(key)[:60] for key in list(fields)[:20])
        return BadRecord("missing_text", f"no field {source.text!r}; the record has: {found or 'none'}")
    if text is None:
        return BadRecord("null_text", f"{source.text!r} is null")
    kind = type(text).__name__
    if isinstance(text, Mapping):
        kind = f"an object of {', '.join(repr(key)[:60] for key in list(text)[:20]) or 'nothing'}"
    return BadRecord("text_not_string", f"{source.text!r} is {kind}, not a string")


def _utf8(text: str, column: str) -> bytes:
    if "\0" in text:
        raise BadRecord("nul_byte", f"{column!r} holds a NUL at character {text.index(chr(0))}")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRecord(
            "lone_surrogate", f"{column!r} holds half of a surrogate pair at character {error.start}"
        ) from error


def _id(value: Any, column: str, bits: int) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, float) and math.isfinite(value) and abs(value) >= 2**bits:
        raise BadRecord(
            "bad_id",
            f"{column!r} is the float {value!r}; from 2**{bits} on several whole numbers become one such float, so the "
            "id may be another's. Write ids as strings or whole numbers, also where some are missing",
        )
    if (isinstance(value, float) and value.is_integer()) or (isinstance(value, Decimal) and value == int(value)):
        value = int(value)  # pandas has floats where a whole number is missing, Snowflake and Oracle NUMBER(38, 0)
    if isinstance(value, bool) or not isinstance(value, str | int | UUID):
        raise BadRecord("bad_id", f"{column!r} is {type(value).__name__}; it must be a string or a whole number")
    text = str(value)
    size = len(_utf8(text, column))
    if size > MAX_ID_BYTES:
        raise BadRecord("bad_id", f"{column!r} has {size} bytes, the limit is {MAX_ID_BYTES}")
    return text


def _split(value: Any, source: SourceConfig) -> str:
    if value is None or value == "":
        return source.default_split
    if value not in SPLITS:
        raise BadRecord("bad_split", f"{source.split!r} is {str(value)[:40]!r}, allowed are {', '.join(SPLITS)}")
    return value


def _metadata(fields: Mapping[str, Any], source: SourceConfig) -> str:
    kept = {name: fields[name] for name in source.metadata if name in fields}
    text = json.dumps(_without_nan(kept), ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)
    _utf8(text, "metadata")
    return text


def _without_nan(value: Any) -> Any:
    """Columns of floats use NaN for a missing number, and JSON has no NaN; in JSON sources it was refused before."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return value
