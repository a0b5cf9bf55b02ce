"""Every kind of malformed input by name: the bytes of a file, and the faults that reading it must leave."""

import gzip
import hashlib
import io
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

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
