"""Malformed input of every kind ends in quarantine with position and reason, or is a no-op, and nothing raises."""

import csv
import gzip
import hashlib
import io
import json
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.ingest import IngestConfig, ingest, read_source
from features.records import REASONS, Fault, Record
from features.sources import SourceConfig, find_files
from warehouse import Lake

LIMIT = 2000
"""max_record_bytes in these tests."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


def damaged_in_the_middle() -> bytes:
    """Two row groups; the pages of the second are overwritten, the footer is whole."""
    data = bytearray(
        parquet(
            {"text": [f"row {i} {sha256(bytes([i % 250]))}" for i in range(2000)]},
            row_group_size=1000,
            compression="zstd",
        )
    )
    second = pq.ParquetFile(io.BytesIO(bytes(data))).metadata.row_group(1).column(0)
    begin = second.dictionary_page_offset or second.data_page_offset
    data[begin : begin + second.total_compressed_size] = b"\xff" * second.total_compressed_size
    return bytes(data)


def binary_text(*cells: bytes) -> bytes:
    """A Parquet file whose text column claims to be UTF-8 and is not."""
    array = pa.array(cells, pa.binary())
    text = pa.Array.from_buffers(pa.string(), len(array), array.buffers())
    return parquet({"text": text})


GOOD = b'{"text":"good"}\n'
DEEP = b'{"text":"x","meta":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
GZIP_CUT = gzip.compress(b"".join(b'{"text":"row %d %s"}\n' % (i, sha256(b"%d" % i).encode()) for i in range(100)))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A file, the faults it must give as (position, reason, raw bytes or None), and the texts that are stored."""

    file: str
    data: bytes
    faults: tuple[tuple[int, str, bytes | None], ...] = ()
    texts: tuple[str, ...] | None = None
    source: tuple[tuple[str, Any], ...] = ()


def json_case(line: bytes, reason: str, **more: Any) -> Case:
    """A bad line between two good ones."""
    data = GOOD + line + b'\n{"text":"after"}\n'
    return Case(file="a.jsonl", data=data, faults=((2, reason, line),), texts=("good", "after"), **more)


def csv_case(row: bytes, reason: str, *, raw: bytes | None = None, **more: Any) -> Case:
    data = b"id,text\n1,good\n" + row + b"\n3,after\n"
    faults = ((3, reason, row if raw is None else raw),)
    return Case(file="a.csv", data=data, faults=faults, texts=("good", "after"), **more)


CASES: dict[str, Case] = {
    # JSONL
    "half line at the end": Case(
        file="a.jsonl", data=GOOD + b'{"text":"ha', faults=((2, "half_line", b'{"text":"ha'),), texts=("good",)
    ),
    "half line in the middle": json_case(b'{"text":"ha', "invalid_json"),
    "last line without line end": Case(file="a.jsonl", data=GOOD + b'{"text":"x"}', texts=("good", "x")),
    "BOM": Case(file="a.jsonl", data=b"\xef\xbb\xbf" + GOOD, texts=("good",)),
    "BOM in the middle": json_case(b'\xef\xbb\xbf{"text":"x"}', "invalid_json"),
    "UTF-16": Case(file="a.jsonl", data='{"text":"x"}\n'.encode("utf-16"), faults=((0, "not_utf8_file", None),)),
    "CRLF": Case(file="a.jsonl", data=b'{"text":"a"}\r\n\r\n{"text":"b\\r\\n"}\r\n', texts=("a", "b\r\n")),
    "blank lines": Case(file="a.jsonl", data=b"\n \n" + GOOD + b"\t\n", texts=("good",)),
    "NUL byte": json_case(b'{"text":"a\0b"}', "nul_byte"),
    "NUL escape": json_case(rb'{"text":"a\u0000b"}', "nul_byte"),
    "NUL only": json_case(b"\0" * 50, "nul_byte"),
    "invalid UTF-8": json_case(b'{"text":"\xff\xfe"}', "invalid_utf8"),
    "cut UTF-8": json_case(b'{"text":"\xe2\x82"}', "invalid_utf8"),
    "surrogate as UTF-8 bytes": json_case(b'{"text":"\xed\xa0\x80"}', "invalid_utf8"),
    "lone surrogate escape": json_case(rb'{"text":"\ud800"}', "lone_surrogate"),
    "surrogate pair escape": Case(file="a.jsonl", data=rb'{"text":"\ud83d\ude00"}', texts=("\U0001f600",)),
    "lone surrogate in the id": json_case(rb'{"text":"x","id":"\udfff"}', "lone_surrogate", source=(("id", "id"),)),
    "lone surrogate in the metadata": json_case(
        rb'{"text":"x","m":["\udfff"]}', "lone_surrogate", source=(("metadata", ("m",)),)
    ),
    "duplicate keys": json_case(b'{"text":"a","text":"b"}', "duplicate_key"),
    "duplicate keys inside": json_case(b'{"text":"a","m":{"k":1,"k":1}}', "duplicate_key"),
    "NaN": json_case(b'{"text":"a","n":NaN}', "not_finite"),
    "-Infinity": json_case(b'{"text":"a","n":-Infinity}', "not_finite"),
    "1e999": json_case(b'{"text":"a","n":1e999}', "not_finite"),
    "number of 5,000 digits": json_case(b'{"text":"a","n":' + b"9" * 1900 + b"}", "bad_id", source=(("id", "n"),)),
    "depth 100,000": json_case(DEEP, "too_deep", source=(("max_record_bytes", 300_000),)),
    "depth 100,000, never closed": json_case(b"[" * 100_000, "too_deep", source=(("max_record_bytes", 300_000),)),
    "many brackets in the text": Case(
        file="a.jsonl", data=b'{"text":"%s\\""}' % (b"[{" * 500), texts=("[{" * 500 + '"',)
    ),
    "a string that never closes": json_case(b'{"text":"' + b'\\"[' * 300, "invalid_json"),
    "an array": json_case(b'["text"]', "not_an_object"),
    "a number": json_case(b"17", "not_an_object"),
    "null": json_case(b"null", "not_an_object"),
    "two objects in a line": json_case(b'{"text":"a"}{"text":"b"}', "invalid_json"),
    "a raw control character": json_case(b'{"text":"\x1b[31m"}', "invalid_json"),
    "a line of exactly the limit": Case(
        file="a.jsonl", data=b'{"text":"%s"}\n' % (b"x" * (LIMIT - 11)), texts=("x" * (LIMIT - 11),)
    ),
    "a line over the limit": json_case(b'{"text":"%s"}' % (b"x" * (LIMIT - 10)), "record_too_long"),
    "a line of three blocks": json_case(b"x" * 800_000, "record_too_long"),
    "a long line at the end": Case(
        file="a.jsonl", data=GOOD + b"y" * 700_000, faults=((2, "record_too_long", b"y" * 700_000),), texts=("good",)
    ),
    "no text field": json_case(b'{"txt":"a"}', "missing_text"),
    "null text": json_case(b'{"text":null}', "null_text"),
    "empty text": json_case(b'{"text":""}', "empty_text"),
    "white space text": json_case(b'{"text":" \\n\\t "}', "empty_text"),
    "text is a number": json_case(b'{"text":5}', "text_not_string"),
    "text is a list": json_case(b'{"text":["a"]}', "text_not_string"),
    "id is a list": json_case(b'{"text":"a","id":[1]}', "bad_id", source=(("id", "id"),)),
    "id is true": json_case(b'{"text":"a","id":true}', "bad_id", source=(("id", "id"),)),
    "id is 1.5": json_case(b'{"text":"a","id":1.5}', "bad_id", source=(("id", "id"),)),
    "id is very long": json_case(b'{"text":"a","id":"%s"}' % (b"i" * 1025), "bad_id", source=(("id", "id"),)),
    "unknown split": json_case(b'{"text":"a","s":"dev"}', "bad_split", source=(("split", "s"),)),
    "split is a list": json_case(b'{"text":"a","s":["test"]}', "bad_split", source=(("split", "s"),)),
    "empty file": Case(file="a.jsonl", data=b"", faults=((0, "empty_file", b""),)),
    # gzip
    "gzip": Case(file="a.jsonl.gz", data=gzip.compress(GOOD), texts=("good",)),
    "two gzip members": Case(
        file="a.jsonl.gz", data=gzip.compress(GOOD) + gzip.compress(b'{"text":"b"}'), texts=("good", "b")
    ),
    "truncated gzip": Case(file="a.jsonl.gz", data=GZIP_CUT[: len(GZIP_CUT) // 2]),  # its own test below
    "gzip with a wrong checksum": Case(
        file="a.jsonl.gz",
        data=gzip.compress(GOOD)[:-8] + b"\0" * 8,
        faults=((2, "damaged_gzip", b""),),
        texts=("good",),
    ),
    "not gzip at all": Case(file="a.jsonl.gz", data=GOOD, faults=((0, "damaged_gzip", None),)),
    "garbage after the gzip header": Case(
        file="a.csv.gz", data=gzip.compress(b"text\nx\n")[:10] + b"\xff" * 40, faults=((0, "damaged_gzip", None),)
    ),
    "empty gzip": Case(file="a.jsonl.gz", data=gzip.compress(b""), faults=((0, "empty_file", None),)),
    "gzip bomb by size": Case(
        file="a.jsonl.gz",
        data=gzip.compress(GOOD + b"x" * 1_000_000),
        faults=((2, "gzip_bomb", None),),
        texts=("good",),
        source=(("max_total_bytes", 500_000),),
    ),
    # CSV
    "csv": Case(file="a.csv", data=b"id,text\n1,a\n2,b\n", texts=("a", "b")),
    "csv with BOM and CRLF": Case(file="a.csv", data=b"\xef\xbb\xbftext\r\na\r\n\r\nb\r\n", texts=("a", "b")),
    "csv line ends in quotes": Case(file="a.csv", data=b'text\n"a\r\nb\nc"\n', texts=("a\r\nb\nc",)),
    "csv header only": Case(file="a.csv", data=b"id,text\n"),
    "csv empty": Case(file="a.csv", data=b"", faults=((0, "empty_file", b""),)),
    "csv too many cells": csv_case(b"2,b,c", "wrong_columns"),
    "csv too few cells": csv_case(b"2", "wrong_columns"),
    "csv half line": Case(
        file="a.csv", data=b"id,text\n1,good\n2", faults=((3, "half_line", b"2"),), texts=("good",)
    ),
    "csv invalid UTF-8": csv_case(b"2,\xff", "invalid_utf8"),
    "csv NUL": csv_case(b"2,a\0b", "nul_byte"),
    "csv empty cell": csv_case(b"2,", "empty_text"),
    "csv text after a quote": csv_case(b'2,"a"b', "invalid_csv"),
    "csv lone CR": csv_case(b"2,a\rb", "invalid_csv"),
    "csv quote never closed": csv_case(b'2,"b', "unclosed_quote"),
    "csv quote closed by the quote of a later row": Case(
        file="a.csv",
        data=b'id,text\n1,"a\n2,b\n3,"c"\n4,d\n',
        faults=((2, "unclosed_quote", b'1,"a'),),
        texts=("b", "c", "d"),
    ),
    "csv quote open beyond the limit": Case(
        file="a.csv",
        data=b'id,text\n1,"a\n' + b"2,b\n" * 600,
        faults=((2, "unclosed_quote", b'1,"a'),),
        texts=("b",) * 600,
    ),
    "csv quote open before a line that is too long": Case(
        file="a.csv",
        data=b'id,text\n1,"a\n' + b"x" * 5000 + b"\n2,b\n",
        faults=((2, "unclosed_quote", b'1,"a'), (3, "record_too_long", b"x" * 5000)),
        texts=("b",),
    ),
    "csv line too long": csv_case(b"2," + b"x" * LIMIT, "record_too_long"),
    "csv field over the csv module's own limit": Case(
        file="a.csv", data=b"text\n" + b"x" * 200_000, texts=("x" * 200_000,), source=(("max_record_bytes", 300_000),)
    ),
    "csv header with invalid UTF-8": Case(
        file="a.csv", data=b"te\xffxt\na\n", faults=((1, "bad_header", b"te\xffxt"),)
    ),
    "csv header with an open quote": Case(file="a.csv", data=b'"text\na\n', faults=((1, "bad_header", b'"text'),)),
    "csv header too long": Case(
        file="a.csv", data=b"t" * 5000 + b"\na\n", faults=((1, "bad_header", b"t" * 5000),)
    ),
    "csv in a cut gzip inside a quote": Case(
        file="a.csv.gz",
        data=gzip.compress(b'text\na\n"b\nc\n')[:-8],
        faults=((3, "unclosed_quote", b'"b'), (5, "truncated_gzip", b"")),
        texts=("a", "c"),
    ),
    "tsv": Case(file="a.tsv", data=b"id\ttext\n1\ta,b\n", texts=("a,b",)),
    "tsv with another number of cells": Case(
        file="a.tsv", data=b"id\ttext\n1\ta\tb\n", faults=((2, "wrong_columns", b"1\ta\tb"),)
    ),
    # Parquet
    "parquet": Case(file="a.parquet", data=parquet({"text": ["a", "b"]}), texts=("a", "b")),
    "parquet of no rows": Case(file="a.parquet", data=parquet({"text": pa.array([], pa.string())})),
    "parquet dictionary text": Case(
        file="a.parquet", data=parquet({"text": pa.array(["a", "b"]).dictionary_encode()}), texts=("a", "b")
    ),
    "parquet null and empty text": Case(
        file="a.parquet",
        data=parquet({"text": ["a", None, "", "b"]}),
        faults=((2, "null_text", b'{"text": null}'), (3, "empty_text", b'{"text": ""}')),
        texts=("a", "b"),
    ),
    "parquet all null": Case(
        file="a.parquet", data=parquet({"text": pa.nulls(2)}), faults=((1, "null_text", None), (2, "null_text", None))
    ),
    "parquet text that is not UTF-8": Case(
        file="a.parquet", data=binary_text(b"a", b"\xff", b"b"), faults=((2, "invalid_utf8", None),), texts=("a", "b")
    ),
    "parquet bytes": Case(
        file="a.parquet",
        data=parquet({"text": pa.array([b"a", b"\xff"], pa.binary())}),
        faults=((2, "invalid_utf8", None),),
        texts=("a",),
    ),
    "parquet text too long": Case(
        file="a.parquet",
        data=parquet({"text": ["a", "x" * (LIMIT + 1)]}),
        faults=((2, "record_too_long", None),),
        texts=("a",),
    ),
    "parquet NUL": Case(
        file="a.parquet", data=parquet({"text": ["a", "b\0"]}), faults=((2, "nul_byte", None),), texts=("a",)
    ),
    "parquet id with a fraction": Case(
        file="a.parquet",
        data=parquet({"text": ["a", "b"], "id": [1.0, 2.5]}),
        faults=((2, "bad_id", None),),
        texts=("a",),
        source=(("id", "id"),),
    ),
    "parquet empty file": Case(file="a.parquet", data=b"", faults=((0, "empty_file", b""),)),
    "parquet that is not Parquet": Case(file="a.parquet", data=GOOD * 9, faults=((0, "damaged_parquet", None),)),
    "parquet without its end": Case(
        file="a.parquet", data=parquet({"text": ["a"] * 99})[:-20], faults=((0, "damaged_parquet", None),)
    ),
    "parquet with a damaged row group": Case(
        file="a.parquet", data=damaged_in_the_middle(), faults=((1001, "damaged_parquet", None),)
    ),
}  # fmt: skip


def source_of(case: Case, *, name: str = "s", folder: str = "") -> SourceConfig:
    options: dict[str, Any] = {"max_record_bytes": LIMIT, **dict(case.source)}
    return SourceConfig(name=name, path=folder + case.file, **options)


def read(root: Path, source: SourceConfig) -> tuple[list[str], list[Fault]]:
    files = tuple(find_files(source, root))
    entries = [entry for _, entry in read_source(source, files, root, lambda _: None)]
    return [e.text for e in entries if isinstance(e, Record)], [e for e in entries if isinstance(e, Fault)]


@pytest.mark.parametrize("name", CASES)
def test_each_case_has_its_position_and_reason(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    (tmp_path / case.file).write_bytes(case.data)
    texts, faults = read(tmp_path, source_of(case))
    if name == "truncated gzip":
        whole = gzip.decompress(GZIP_CUT).splitlines()
        part = zlib.decompressobj(wbits=31).decompress(case.data)
        assert 0 < len(texts) < 100
        assert texts == [json.loads(line)["text"] for line in whole[: len(texts)]]
        rest = part.split(b"\n")[-1]
        assert [(f.position, f.reason) for f in faults] == [(len(texts) + 1, "truncated_gzip")]
        assert (faults[0].raw_bytes, faults[0].raw_hash) == (len(rest), sha256(rest))
        return
    assert [(f.position, f.reason) for f in faults] == [(p, r) for p, r, _ in case.faults]
    for found, (_, _, raw) in zip(faults, case.faults, strict=True):
        assert found.detail
        if raw is not None:
            assert (found.raw_bytes, found.raw_hash) == (len(raw), sha256(raw))
    if name == "parquet with a damaged row group":
        assert len(texts) == 1000
    else:
        assert tuple(texts) == (case.texts or ())


def test_all_cases_in_one_read_are_quarantined_and_counts_add_up(lake: Lake, tmp_path: Path) -> None:
    sources: list[SourceConfig] = []
    expected: list[tuple[str, int, str]] = []
    for number, (name, case) in enumerate(CASES.items()):
        folder = tmp_path / "data" / str(number)
        folder.mkdir(parents=True)
        (folder / case.file).write_bytes(case.data)
        sources.append(source_of(case, name=name, folder=f"data/{number}/"))
        expected += [(name, position, reason) for position, reason, _ in case.faults]
    result = ingest(lake, IngestConfig(root=tmp_path, classes=("a",), sources=tuple(sources)))
    detail = result.detail
    assert detail["read"] == detail["stored"] + detail["quarantined"] + detail["duplicate"]
    with lake.read() as reader:
        rows = reader.rows("SELECT source, position, reason FROM quarantine WHERE reason <> 'truncated_gzip'")
        wanted = [row for row in expected if row[2] != "truncated_gzip"]
        # Ids and contents repeat between the sources, so conflicts come on top of what each file alone would give.
        assert sorted(r for r in rows if r[2] != "duplicate_id_conflict") == sorted(wanted)
        assert reader.scalar("SELECT count(*) FROM items") == detail["stored"]
        files = reader.rows("SELECT raw_hash, raw_bytes FROM quarantine WHERE source = 'not gzip at all'")
        assert files == [(sha256(GOOD), len(GOOD))]  # of the file as a whole


def test_every_reason_has_a_case() -> None:
    covered = {reason for case in CASES.values() for _, reason, _ in case.faults}
    elsewhere = {"truncated_gzip", "duplicate_id_conflict"}
    assert covered | elsewhere == set(REASONS)


@pytest.mark.parametrize(
    "text",
    [
        "\x1b[31mred\x1b[0m",
        "a\u202egnp.exe\u2066",
        "<img src=x onerror=alert(1)>",
        "{{7*7}}",
        "=1+1",
        "  kept \n",
        "e\u0301",
    ],
)
def test_hostile_text_is_stored_byte_for_byte(lake: Lake, tmp_path: Path, text: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}) + "\n", "utf-8")
    pq.write_table(pa.table({"text": [text]}), tmp_path / "b.parquet")
    quoted = '"' + text.replace('"', '""') + '"'
    (tmp_path / "c.csv").write_bytes(f"text\n{quoted}\n".encode())
    sources = tuple(SourceConfig(name=n, path=n, id=None) for n in ("a.jsonl", "b.parquet", "c.csv"))
    result = ingest(lake, IngestConfig(root=tmp_path, classes=("a",), sources=sources))
    assert result.detail == {"read": 3, "stored": 1, "quarantined": 0, "duplicate": 2}
    with lake.read() as reader:
        hashed = sha256(text.encode())
        assert reader.rows("SELECT content, content_hash, item_id FROM items") == [(text, hashed, hashed)]


def traced_peak(work: Callable[[], None]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_line_of_one_gigabyte_is_not_loaded(tmp_path: Path, suffix: str) -> None:
    size = 1 << 30
    begin, end = (b"text\nfirst\n", b"\nlast\n") if suffix == "csv" else (b'{"text":"first"}\n', b'\n{"text":"last"}\n')
    with open(tmp_path / f"a.{suffix}", "wb") as stream:  # sparse: takes no room on the disk
        stream.write(begin)
        stream.truncate(len(begin) + size)
        stream.seek(0, 2)
        stream.write(end)
    source = SourceConfig(name="s", path=f"a.{suffix}")
    found: list[Any] = []
    peak = traced_peak(lambda: found.extend(read(tmp_path, source)))
    texts, faults = found
    assert texts == ["first", "last"]
    line = 3 if suffix == "csv" else 2
    assert [(f.position, f.reason, f.raw_bytes) for f in faults] == [(line, "record_too_long", size)]
    assert peak < 32 << 20


def test_an_open_quote_is_not_followed_to_the_end_of_the_file(tmp_path: Path) -> None:
    row = b"2," + b"x" * 100_000 + b"\n"
    with open(tmp_path / "a.csv", "wb") as stream:
        stream.write(b'id,text\n1,"open\n')
        for _ in range(400):
            stream.write(row)
    source = SourceConfig(name="s", path="a.csv")
    files = tuple(find_files(source, tmp_path))
    found: Counter[str] = Counter()

    def count() -> None:
        for _, entry in read_source(source, files, tmp_path, lambda _: None):
            found["record" if isinstance(entry, Record) else entry.reason] += 1

    before = csv.field_size_limit(1 << 30)  # one limit for the process: others may have raised it
    try:
        peak = traced_peak(count)
    finally:
        csv.field_size_limit(before)
    assert found == {"record": 400, "unclosed_quote": 1}
    assert peak < 16 << 20


def test_a_gzip_bomb_is_left_early(tmp_path: Path) -> None:
    packed = gzip.compress(b"x" * (1 << 20), compresslevel=9)
    with open(tmp_path / "a.jsonl.gz", "wb") as stream:
        stream.write(gzip.compress(GOOD))
        for _ in range(2000):  # 2 GB unpacked, 2 MB packed
            stream.write(packed)
    source = SourceConfig(name="s", path="a.jsonl.gz", max_total_bytes=100 << 20)
    found: list[Any] = []
    peak = traced_peak(lambda: found.extend(read(tmp_path, source)))
    texts, faults = found
    assert texts == ["good"]
    assert [(f.position, f.reason) for f in faults] == [(2, "gzip_bomb")]
    assert faults[0].raw_bytes <= 100 << 20
    assert peak < 32 << 20


def test_a_gzip_bomb_below_the_size_limit_is_found_by_its_ratio(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"x" * (80 << 20), compresslevel=1))
    _, faults = read(tmp_path, SourceConfig(name="s", path="a.jsonl.gz"))
    assert [(f.position, f.reason) for f in faults] == [(1, "gzip_bomb")]


def test_a_parquet_file_that_needs_too_much_memory_ends_only_its_reader(tmp_path: Path) -> None:
    # 512 rows of 16 MiB of one letter: 8 GiB in one batch, from a file of about a megabyte.
    row = pa.array(["x" * (16 << 20)])
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 512, pa.int32()), row)
    pq.write_table(pa.table({"text": repeated}), tmp_path / "a.parquet", compression="zstd", store_schema=False)
    assert (tmp_path / "a.parquet").stat().st_size < 4 << 20
    texts, faults = read(tmp_path, SourceConfig(name="s", path="a.parquet"))
    assert texts == []
    assert [(f.position, f.reason) for f in faults] == [(0, "damaged_parquet")]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "id", "m"]), inner),
    max_leaves=6,
)
TYPICAL = [b'{"text":"a"}', b'{"text":"b","id":1}', b'"', b'1,"a', b"1,a", b'""",', b"{", b'{"text":"\\ud800"}']
ANY_LINES = st.lists(
    st.binary(max_size=40) | st.sampled_from(TYPICAL) | JSON_VALUES.map(lambda value: json.dumps(value).encode()),
    max_size=12,
)
LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\r"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=ANY_LINES, end=LINE_ENDS, limit=st.integers(1, 60))
def test_any_bytes_as_jsonl_give_one_entry_per_line(tmp_path: Path, lines: list[bytes], end: bytes, limit: int) -> None:
    data = b" " + end.join(lines)  # a first byte that is no mark of another encoding
    (tmp_path / "a.jsonl").write_bytes(data)
    texts, faults = read(
        tmp_path, SourceConfig(name="s", path="a.jsonl", id="id", metadata=("m",), max_record_bytes=limit)
    )
    expected = [line for line in data.split(b"\n") if len(line) > limit or (line and not line.isspace())]
    assert len(texts) + len(faults) == len(expected)
    assert all(f.reason in REASONS for f in faults)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=ANY_LINES, end=LINE_ENDS, limit=st.integers(8, 60))
def test_any_bytes_as_csv_never_raise(tmp_path: Path, lines: list[bytes], end: bytes, limit: int) -> None:
    data = b"id,text\n" + end.join(lines)
    (tmp_path / "a.csv").write_bytes(data)
    source = SourceConfig(name="s", path="a.csv", id="id", max_record_bytes=limit)
    files = tuple(find_files(source, tmp_path))
    entries = [entry for _, entry in read_source(source, files, tmp_path, lambda _: None)]
    positions = [entry.position for entry in entries]
    assert positions == sorted(set(positions))
    # No line is lost: every line begins an entry or belongs to the raw bytes of the entry before it.
    physical = data.split(b"\n")
    raw_hashes = {e.position: e.raw_hash if isinstance(e, Fault) else sha256(e.raw) for e in entries}
    number = 2
    while number <= len(physical):
        if number in raw_hashes:
            spans = range(number, len(physical) + 1)
            last = next(n for n in spans if sha256(b"\n".join(physical[number - 1 : n])) == raw_hashes[number])
            number = last + 1
        else:
            assert not physical[number - 1].strip(b"\r")
            number += 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(jsonl=st.binary(max_size=300), rows=ANY_LINES, packed=st.binary(max_size=100))
def test_any_bytes_through_the_stage_keep_the_counts(
    lake: Lake, tmp_path: Path, jsonl: bytes, rows: list[bytes], packed: bytes
) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl)
    (tmp_path / "a.csv").write_bytes(b"id,text\n" + b"\n".join(rows))
    (tmp_path / "b.jsonl.gz").write_bytes(packed)
    sources = tuple(SourceConfig(name=name, path=name, id="id") for name in ("a.jsonl", "a.csv", "b.jsonl.gz"))
    config = IngestConfig(root=tmp_path, classes=("a",), sources=sources)
    detail = ingest(lake, config).detail
    assert detail["read"] == detail["stored"] + detail["quarantined"] + detail["duplicate"]
    assert ingest(lake, config).committed is False
    with lake.read() as reader:
        for content, content_hash in reader.rows("SELECT content, content_hash FROM items"):
            assert sha256(content.encode()) == content_hash
