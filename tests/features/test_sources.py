"""Settings of a source, the files it finds, and what a query may touch."""

import bz2
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.ingest.stage import read_source
from features.readers.parquet import read_query
from features.readers.record import Fault, Record
from features.readers.source import SourceConfig, find_files
from warehouse import DataError, SettingsError


def texts(root: Path, **settings: Any) -> list[str]:
    source = SourceConfig(name="s", **settings)
    files = () if source.query else tuple(find_files(source, root))
    entries = [entry for _, entry in read_source(source, files, root, lambda _: None)]
    assert all(isinstance(e, Record) for e in entries), entries
    return [e.text for e in entries if isinstance(e, Record)]


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"path": "a.csv", "query": "select 1"}, "exactly one"),
        ({}, "exactly one"),
        ({"path": "a.csv", "format": "xml"}, "'xml'"),
        ({"path": "a.csv", "default_split": "dev"}, "'dev'"),
        ({"path": "a.csv", "text": ""}, "text is empty"),
        ({"path": "a.csv", "max_record_bytes": 0}, "max_record_bytes is 0"),
        ({"path": "a.csv", "max_total_bytes": -1}, "max_total_bytes is -1"),
    ],
)
def test_wrong_settings_are_refused_when_built(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        SourceConfig(name="s", **settings)


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(SettingsError, match="empty name"):
        SourceConfig(name=" ", path="a.csv")


def test_a_missing_file_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"a\.csv does not exist.*`path` in siftline\.toml"):
        texts(tmp_path, path="a.csv")


def test_a_glob_without_match_names_the_pattern(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no file matches 'data/\*\.csv'"):
        texts(tmp_path, path="data/*.csv")


def test_a_folder_or_pipe_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    os.mkfifo(tmp_path / "b.csv")
    for name in ("a.csv", "b.csv"):
        with pytest.raises(SettingsError, match="not a regular file"):
            texts(tmp_path, path=name)


def test_an_unknown_ending_needs_a_format(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text('{"text":"x"}\n')
    with pytest.raises(SettingsError, match=r"a\.log cannot be told.*\.parquet"):
        texts(tmp_path, path="a.log")
    assert texts(tmp_path, path="a.log", format="jsonl") == ["x"]


@pytest.mark.parametrize(("kind", "pack"), [("bz2", bz2.compress), ("xz", lzma.compress), ("zst", zstd)])
def test_what_is_packed_another_way_is_told_with_the_way_out(
    tmp_path: Path, kind: str, pack: Callable[[bytes], bytes]
) -> None:
    (tmp_path / f"a.jsonl.{kind}").write_bytes(pack(b'{"text":"x"}\n'))
    with pytest.raises(SettingsError, match=rf"a\.jsonl\.{kind} cannot be told.*Unpack it, or pack it with gzip"):
        texts(tmp_path, path=f"a.jsonl.{kind}")
    config = SourceConfig(name="s", path=f"a.jsonl.{kind}", format="jsonl")
    files = tuple(find_files(config, tmp_path))
    (found,) = [entry for _, entry in read_source(config, files, tmp_path, lambda _: None)]
    assert isinstance(found, Fault)
    assert found.reason == "not_utf8_file"
    assert "unpack it, or pack it with gzip" in found.detail


def test_parquet_in_gzip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet.gz").write_bytes(b"")
    with pytest.raises(SettingsError, match="gunzip"):
        texts(tmp_path, path="a.parquet.gz")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_column_that_is_not_there_is_named_beside_those_that_are(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "a.csv").write_text("id,body\n1,x\n")
    pq.write_table(pa.table({"id": [1], "body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(SettingsError, match=rf"a\.{suffix} has no column 'text', 'lang'. It has: id, body"):
        texts(tmp_path, path=f"a.{suffix}", metadata=("lang",))


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,text\nx,y\n")
    pq.write_table(pa.Table.from_arrays([pa.array(["x"])] * 2, names=["text", "text"]), tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        with pytest.raises(SettingsError, match="'text' 2 times"):
            texts(tmp_path, path=name)


def test_a_column_of_numbers_cannot_be_the_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(SettingsError, match="int64, not text"):
        texts(tmp_path, path="a.parquet")


def test_a_glob_reads_its_files_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    for name in ("d/b.jsonl", "d/a.jsonl", "d/e/c.jsonl"):
        (tmp_path / name).write_text(json.dumps({"text": name}))
    assert texts(tmp_path, path="d/**/*.jsonl") == ["d/a.jsonl", "d/b.jsonl", "d/e/c.jsonl"]


def test_a_name_that_looks_like_a_glob_is_a_name_when_it_exists(tmp_path: Path) -> None:
    (tmp_path / "a[1].jsonl").write_text('{"text":"x"}')
    assert texts(tmp_path, path="a[1].jsonl") == ["x"]


def test_progress_reaches_the_size_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text":"x"}\n' * 9)
    (tmp_path / "b.csv").write_text("text\nx\n")
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "c.parquet")
    source = SourceConfig(name="s", path="[abc].*")
    seen: list[int] = []
    list(read_source(source, tuple(find_files(source, tmp_path)), tmp_path, seen.append))
    assert seen == sorted(seen)
    assert seen[-1] == sum((tmp_path / n).stat().st_size for n in ("a.jsonl", "b.csv", "c.parquet"))


# --- queries -------------------------------------------------------------------------------------------------------


def test_a_query_reads_files_relative_to_the_project(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("n,body\n2,b\n1,a\n")
    query = "SELECT body AS text, n AS id, n * 2 AS twice FROM 'a.csv' ORDER BY n"
    source = SourceConfig(name="s", query=query, id="id", metadata=("twice",))
    found = [(e.position, e.text, e.id, e.metadata) for e in read_query(source, tmp_path) if isinstance(e, Record)]
    assert found == [(1, "a", "1", '{"twice":2}'), (2, "b", "2", '{"twice":4}')]


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata"])
def test_times_of_a_query_are_read_alike_on_machines_of_all_time_zones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    query = "SELECT 'a' AS text, '2026-03-01 23:30'::TIMESTAMPTZ AS t, t::VARCHAR AS words"
    source = SourceConfig(name="s", query=query, metadata=("t", "words"))
    (found,) = read_query(source, tmp_path)
    assert isinstance(found, Record)
    assert json.loads(found.metadata) == {"t": "2026-03-01 23:30:00+00:00", "words": "2026-03-01 23:30:00+00"}


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM '{outside}'",
        "SELECT content AS text FROM read_text('{outside}')",
        "SELECT content AS text FROM read_text('../outside/secret.csv')",
        "SELECT content AS text FROM read_text('link.csv')",
        "SELECT file AS text FROM glob('/etc/*')",
        "SELECT content AS text FROM read_text('/proc/self/environ')",
    ],
)
def test_a_query_reads_nothing_outside_the_project(tmp_path: Path, query: str) -> None:
    outside = tmp_path / "outside" / "secret.csv"
    outside.parent.mkdir()
    outside.write_text("text\nsecret\n")
    root = tmp_path / "project"
    root.mkdir()
    (root / "link.csv").symlink_to(outside)
    with pytest.raises((SettingsError, DataError)) as caught:
        texts(root, query=query.format(outside=outside))
    assert "file system operations are disabled" in str(caught.value)


@pytest.mark.parametrize(
    "query",
    [
        "COPY (SELECT 1) TO 'written.csv'",
        "SELECT 'a' AS text; COPY (SELECT 1) TO 'written.csv'",
        "CREATE TABLE t AS SELECT 1",
        "ATTACH 'written.db'",
        "INSTALL httpfs",
        "SET threads = 8",
        "",
        "-- nothing",
    ],
)
def test_only_one_select_is_run(tmp_path: Path, query: str) -> None:
    with pytest.raises(SettingsError):
        texts(tmp_path, query=query)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT nope FROM (SELECT 1 AS a)", "nope"),
        ("SELECT 'x' AS body", "the query has no column 'text'. It has: body"),
        ("SELECT 1 AS text", "INTEGER|int32"),
        ("SELECT 'x' AS text FROM 'https://example.invalid/a.csv'", "httpfs"),
    ],
)
def test_a_wrong_query_says_what_is_wrong(tmp_path: Path, query: str, message: str) -> None:
    with pytest.raises((SettingsError, DataError), match=message):
        texts(tmp_path, query=query)


def test_a_query_that_fails_while_running_is_no_half_result(tmp_path: Path) -> None:
    query = "SELECT CASE WHEN i < 3000 THEN 'x' ELSE error('boom at 3000') END AS text FROM range(5000) t(i)"
    with pytest.raises(DataError, match="boom at 3000"):
        texts(tmp_path, query=query)


def test_the_reader_of_queries_imports_nothing_from_the_project(tmp_path: Path) -> None:
    for name in ("duckdb.py", "json.py", "pyarrow.py"):
        (tmp_path / name).write_text("raise SystemExit('imported from the project')")
    assert texts(tmp_path, query="SELECT 'a' AS text") == ["a"]
