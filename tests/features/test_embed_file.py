"""`embed_file`: any file of texts to Parquet, whole or not at all, with errors that name the record."""

import csv
import gzip
import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import features.embedding.file
from engine.load import load_encoder
from engine.protocol import Encoder
from features.embedding.file import embed_file, read_through
from warehouse import DataError, SettingsError

RECORDS = [{"key": f"k{n}", "text": f'{n} shares,\nor "more" of café {n % 3}'} for n in range(10)]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("dense", max_tokens=16, threads=1)


def write(folder: Path, kind: str, records: list[dict[str, Any]] = RECORDS) -> Path:
    path = folder / f"in.{kind}"
    opened = gzip.open if kind.endswith(".gz") else open
    if kind.startswith("parquet"):
        pq.write_table(pa.Table.from_pylist(records), path)
    elif kind.startswith("jsonl"):
        with opened(path, "wt", encoding="utf-8") as stream:
            stream.writelines(json.dumps(record) + "\n" for record in records)
    else:
        with opened(path, "wt", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
    return path


def run(source: Path, encoder: Encoder, *, id_field: str | None = "key", text_field: str = "text") -> pa.Table:
    output = source.parent / "out.parquet"
    count = embed_file(read_through(source, text_field=text_field, id_field=id_field, output=output), encoder)
    table = pq.read_table(output)
    assert count == table.num_rows
    return table


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "csv", "csv.gz", "parquet"])
def test_every_format_gives_the_same_vectors(
    tmp_path: Path, encoder: Encoder, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features.embedding.file, "FILE_TEXTS", 4)
    table = run(write(tmp_path, kind), encoder)
    assert table.schema.names == ["id", "vector"]
    assert table.schema.field("vector").type.value_type == pa.float32()
    assert table.column("id").to_pylist() == [record["key"] for record in RECORDS]
    vectors = np.array(table.column("vector").to_pylist(), np.float32)
    assert np.array_equal(vectors, encoder.encode([record["text"] for record in RECORDS]))


def test_records_without_an_id_are_numbered(tmp_path: Path, encoder: Encoder) -> None:
    table = run(write(tmp_path, "jsonl"), encoder, id_field=None)
    assert table.column("id").to_pylist() == [str(n) for n in range(1, 11)]


def test_progress_reaches_the_end(tmp_path: Path, encoder: Encoder) -> None:
    seen: list[tuple[int, int]] = []
    source = read_through(write(tmp_path, "jsonl"), text_field="text", id_field=None, output=tmp_path / "out.parquet")
    embed_file(source, encoder, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, 10)
    assert seen[-1] == (10, 10)


def test_an_old_output_is_replaced_and_private(tmp_path: Path, encoder: Encoder) -> None:
    (tmp_path / "out.parquet").write_text("old")
    run(write(tmp_path, "jsonl"), encoder)
    assert stat.S_IMODE((tmp_path / "out.parquet").stat().st_mode) == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.parquet"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "half', "line 11: .*half_line"),
        (b"\xff\xfe\n", "line 11: .*invalid_utf8"),
        (b'{"text": 5, "key": "a"}\n', "line 11: .*text_not_string"),
        (b'{"key": "a"}\n', "line 11: no field 'text'"),
        (b'{"text": "\\ud83d", "key": "a"}\n', "line 11: .*lone_surrogate"),
        (b'{"text": "fine", "key": ""}\n', "line 11: the field 'key' is empty"),
    ],
)
def test_a_bad_record_is_named_and_the_old_output_stays(
    tmp_path: Path, encoder: Encoder, line: bytes, reason: str
) -> None:
    source = write(tmp_path, "jsonl")
    source.write_bytes(source.read_bytes() + line)
    (tmp_path / "out.parquet").write_text("old")
    with pytest.raises(DataError, match=reason):
        run(source, encoder)
    assert (tmp_path / "out.parquet").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.parquet"]


def test_an_empty_id_is_found_before_the_work_begins(tmp_path: Path) -> None:
    source = write(tmp_path, "csv")
    source.write_text(source.read_text("utf-8") + ",fine\n", "utf-8")
    with pytest.raises(DataError, match="line 22: the field 'key' is empty"):
        read_through(source, text_field="text", id_field="key", output=tmp_path / "out.parquet")


def test_a_bad_cell_is_named_by_its_line_and_a_bad_value_by_its_row(tmp_path: Path, encoder: Encoder) -> None:
    (tmp_path / "in.csv").write_text('key,text\na,"two\nlines"\n,fine\n', "utf-8")
    with pytest.raises(DataError, match=r"in\.csv line 4: the field 'key' is empty"):
        run(tmp_path / "in.csv", encoder)
    pq.write_table(pa.table({"key": ["a", ""], "text": ["two\nlines", "fine"]}), tmp_path / "in.parquet")
    with pytest.raises(DataError, match=r"in\.parquet row 2: the field 'key' is empty"):
        run(tmp_path / "in.parquet", encoder)


def test_records_without_a_text_are_left_out_and_counted(tmp_path: Path, encoder: Encoder) -> None:
    table = pa.table({"key": ["a", "b", "c", "d"], "text": ["fine", "", None, " also fine"]})
    pq.write_table(table, tmp_path / "in.parquet")
    output = tmp_path / "out.parquet"
    source = read_through(tmp_path / "in.parquet", text_field="text", id_field="key", output=output)
    assert embed_file(source, encoder) == source.count == source.without_text == 2
    assert pq.read_table(output).column("id").to_pylist() == ["a", "d"]
    pq.write_table(table.slice(1, 2), tmp_path / "none.parquet")
    with pytest.raises(SettingsError, match=r"no text in the field 'text', in none of 2 records.*--text-field"):
        read_through(tmp_path / "none.parquet", text_field="text", id_field="key", output=output)


def test_ten_bad_records_are_named_at_once(tmp_path: Path, encoder: Encoder) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "fine", "key": "a"}\n' + '{"body": "no text"}\n' * 12, "utf-8")
    with pytest.raises(DataError) as told:
        run(source, encoder)
    named = [number for number in range(1, 14) if f"line {number}:" in str(told.value)]
    assert named == list(range(2, 12))
    assert "; and 2 more. " in str(told.value)
    assert "'text' (--text-field)" in str(told.value)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_missing_column_is_named_with_the_option(tmp_path: Path, encoder: Encoder, kind: str) -> None:
    with pytest.raises(SettingsError, match=r"^Give --text-field .*no column 'body'. It has: key, text"):
        run(write(tmp_path, kind), encoder, text_field="body")


def test_paths_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path, "jsonl")

    def refused(source: Path, output: Path, match: str) -> None:
        with pytest.raises(SettingsError, match=match):
            read_through(source, text_field="text", id_field=None, output=output)

    refused(tmp_path / "none.jsonl", tmp_path / "out.parquet", "none.jsonl does not exist")
    refused(tmp_path, tmp_path / "out.parquet", "is not a file")
    refused(source, tmp_path / "no" / "out.parquet", "a folder that exists")
    refused(source, tmp_path, "a folder that exists")
    refused(source, source, "is the input itself")
    other = source.rename(tmp_path / "in.xyz")
    refused(other, tmp_path / "out.parquet", "format of .*in.xyz cannot be told")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights_is_named(tmp_path: Path, encoder: Encoder) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    source = read_through(write(tmp_path, "jsonl"), text_field="text", id_field=None, output=locked / "o.parquet")
    with pytest.raises(SettingsError, match="cannot be written"):
        embed_file(source, encoder)
