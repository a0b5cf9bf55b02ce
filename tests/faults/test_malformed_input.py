"""Malformed input of every kind ends in quarantine with position and reason, or is a no-op, and nothing raises."""

import csv
import gzip
import json
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.ingest.stage import IngestConfig, ingest, read_source
from features.readers.record import REASONS, Fault, Record
from features.readers.source import SourceConfig, find_files
from tests.faults.malformed_cases import CASES, GOOD, GZIP_CUT, LIMIT, Case, sha256
from warehouse import Lake


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
    elsewhere = {"truncated_gzip", "duplicate_id_conflict", "other_split"}
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


def test_what_stands_beside_stored_texts_is_not_loaded_to_tell_what_is_new(lake: Lake, tmp_path: Path) -> None:
    """The metadata of all items stood in memory, as Arrow and as Python hold it."""
    records = [json.dumps({"text": str(n), "more": str(n) + "x" * 2000}) + "\n" for n in range(16_000)]
    source = SourceConfig(name="s", path="*.jsonl", id=None, metadata=("more",))
    settings = IngestConfig(root=tmp_path, classes=("a",), sources=(source,))
    (tmp_path / "a.jsonl").write_text("".join(records))
    assert ingest(lake, settings).detail["stored"] == 16_000
    (tmp_path / "a.jsonl").write_text("".join(records[:50]))
    found: list[Any] = []
    peak = traced_peak(lambda: found.append(ingest(lake, settings).detail))
    assert (found[0]["duplicate"], found[0]["missing"]) == (50, 15_950)
    assert peak < 25e6  # all of it takes 32e6 and more


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
