"""Files made to be read again and again: what is done for them, counted, grows with their size and not faster."""

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from features.ingest.stage import read_source
from features.readers.jsonl import object_of
from features.readers.record import BadRecord, Fault, Record
from features.readers.source import SourceConfig, SourceFile, find_files
from tests.faults.malformed_cases import sha256

LINES = 500
OPEN = b'a","b\n'
"""A row of it opens a quote, and leaves open one that was open before."""


def read(root: Path, name: str, **settings: Any) -> list[Record | Fault]:
    source = SourceConfig(name="s", path=name, **settings)
    return [entry for _, entry in read_source(source, tuple(find_files(source, root)), root, lambda _: None)]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of all lines that were given to the csv module."""
    sizes: list[int] = []
    real = csv.reader

    def counting(lines: Iterable[str], **options: Any) -> Any:
        def counted() -> Iterator[str]:
            for line in lines:
                sizes.append(len(line))
                yield line

        return real(counted(), **options)

    monkeypatch.setattr(csv, "reader", counting)
    return sizes


@pytest.mark.parametrize(
    ("tail", "detail"),
    [
        (b"", "unexpected end of data"),
        (b'x"y' + b"z" * 4000 + b"\n", "expected after"),
        (OPEN * 2 * LINES, "still open after max_record_bytes"),
        (b"\xff" * 20_000 + b"\n", "still open after max_record_bytes"),
    ],
    ids=["to the end", "to a line that is no CSV", "beyond the limit", "to a line that is too long"],
)
def test_quotes_that_stay_open(tmp_path: Path, parsed: list[int], tail: bytes, detail: str) -> None:
    data = b"text,n\n" + OPEN * LINES + tail
    (tmp_path / "a.csv").write_bytes(data)
    found = read(tmp_path, "a.csv", max_record_bytes=8000)
    assert {(e.reason, e.raw_hash) for e in found[:LINES] if isinstance(e, Fault)} == {
        ("unclosed_quote", sha256(OPEN[:-1]))
    }
    assert isinstance(found[0], Fault)
    assert detail in found[0].detail
    assert [e.position for e in found] == list(range(2, 2 + len(found)))
    assert sum(parsed) < 4 * len(data)


def test_a_quote_that_closes_after_many_lines_closes_the_first_row(tmp_path: Path, parsed: list[int]) -> None:
    (tmp_path / "a.csv").write_bytes(b"n,text\n" + OPEN * LINES + b'end"\nlast,one\n')
    first, last = read(tmp_path, "a.csv", metadata=("n",))
    assert isinstance(first, Fault)
    assert (first.position, first.reason) == (2, "wrong_columns")
    assert isinstance(last, Record)
    assert (last.position, last.text) == (3 + LINES, "one")
    assert len(parsed) < 4 * LINES


def test_a_key_that_comes_twice_at_the_end_of_many() -> None:
    compared = 0

    class Key(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    keys = [Key(number) for number in range(1000)] + [Key("x"), Key("x")]
    with pytest.raises(BadRecord, match="'x' stands 2 times"):
        object_of([(key, 0) for key in keys])
    assert compared < 5 * len(keys)


@pytest.mark.parametrize(("size", "limit"), [(3000, 1 << 20), (3000, 100)], ids=["kept", "too long to keep"])
def test_a_line_that_comes_byte_by_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, limit: int) -> None:
    copied = 0

    class Block(bytes):
        def __radd__(self, before: bytes) -> bytes:
            nonlocal copied
            copied += len(before) + len(self)
            return before + bytes(self)

    class ByBytes(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return Block(super().read(1))

    monkeypatch.setattr(SourceFile, "open", lambda self: ByBytes(self.path))
    line = b'{"text":"' + b"x" * size + b'"}'
    (tmp_path / "a.jsonl").write_bytes(line + b"\n" + b'{"text":"next"}')
    first, second = read(tmp_path, "a.jsonl", max_record_bytes=limit)
    if isinstance(first, Fault):
        assert (first.reason, first.raw_bytes, first.raw_hash) == ("record_too_long", len(line), sha256(line))
    else:
        assert first.text == "x" * size
    assert isinstance(second, Record)
    assert copied < 4 * len(line)
