"""The ingest stage: what is stored, what is a duplicate, what changes, and that a second run changes nothing."""

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import features.ingest.stage
from features.ingest.stage import IngestConfig, SourceChanged, ingest
from features.readers.record import Fault, Record
from features.readers.source import SourceConfig, SourceFile
from tests.features.ingesting import CLASSES, config, counts, items, write
from tests.lakes import copy_of
from warehouse import Lake, SettingsError


def test_every_column_of_an_item(lake: Lake, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"id": 7, "text": "Grüße ", "split": "test", "lang": "de", "n": {"b": 1, "a": 2}})
    ingest(lake, config(tmp_path, split="split", metadata=("n", "lang", "absent")))
    with lake.read() as reader:
        assert reader.rows("SELECT * EXCLUDE (run_id, committed_at) FROM items") == [
            (
                "7",
                "Grüße ",
                hashlib.sha256("Grüße ".encode()).hexdigest(),
                "text",
                "s",
                1,
                '{"lang":"de","n":{"a":2,"b":1}}',
                "test",
                None,  # it was never changed
            )
        ]
        assert reader.rows("SELECT class_id, name FROM classes ORDER BY class_id") == [(0, "spam"), (1, "ham")]


def test_all_tables_land_in_one_commit(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id":1,"text":"a"}\nbad\n')
    before = lake.snapshot()
    result = ingest(lake, config(tmp_path))
    assert lake.snapshot() == before + 1
    assert result.rows_written == {"classes": 2, "items": 1, "quarantine": 1}
    with lake.read() as reader:
        assert reader.rows("SELECT stage, tables FROM runs") == [("ingest", ["classes", "items", "quarantine"])]


@pytest.mark.parametrize("kind", ["file", "query"])
def test_a_second_run_commits_nothing(lake: Lake, tmp_path: Path, kind: str) -> None:
    write(tmp_path / "a.jsonl", {"id": 1, "text": "a"}, {"id": 2, "text": ""})
    chosen = config(tmp_path)
    if kind == "query":
        pq.write_table(pa.table({"id": [1, 2], "text": ["a", ""]}), tmp_path / "a.parquet")
        chosen = config(tmp_path, path=None, query="SELECT * FROM 'a.parquet'")
    first = ingest(lake, chosen)
    snapshot = lake.snapshot()
    second = ingest(lake, chosen)
    assert (first.committed, second.committed) == (True, False)
    assert second.token == first.token
    assert second.detail == first.detail == counts(2, 1, 1, 0)
    assert lake.snapshot() == snapshot


def test_a_file_that_is_only_touched_is_not_read_again(lake: Lake, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"id": 1, "text": "a"})
    ingest(lake, config(tmp_path))
    write(tmp_path / "a.jsonl", {"id": 1, "text": "a"})
    assert ingest(lake, config(tmp_path)).committed is False


def test_the_token_is_the_same_on_another_machine(tmp_path: Path) -> None:
    tokens: list[str] = []
    for machine in ("one", "two"):
        (tmp_path / machine).mkdir()
        write(tmp_path / machine / "a.jsonl", {"id": 1, "text": "a"})
        with copy_of(Lake, tmp_path / machine / "lake") as lake:
            tokens.append(ingest(lake, config(tmp_path / machine)).token)
    assert tokens[0] == tokens[1]


def test_equal_ids_in_one_read(lake: Lake, tmp_path: Path) -> None:
    write(
        tmp_path / "a.jsonl",
        {"id": 1, "text": "a"},
        {"id": "1", "text": "a"},
        {"id": 1, "text": "b"},
        {"id": 2, "text": "a"},
    )
    result = ingest(lake, config(tmp_path))
    assert result.detail == counts(4, 2, 1, 1)
    assert items(lake) == [("1", "a"), ("2", "a")]
    raw = b'{"id": 1, "text": "b"}'
    with lake.read() as reader:
        found = reader.rows("SELECT source, position, reason, raw_hash, raw_bytes FROM quarantine")
    assert found == [("s", 3, "duplicate_id_conflict", hashlib.sha256(raw).hexdigest(), len(raw))]


def test_equal_ids_of_two_sources_are_told_with_the_way_out(lake: Lake, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"id": 1, "text": "a"}, {"id": 1, "text": "other"})
    write(tmp_path / "b.jsonl", {"id": 1, "text": "b"}, {"id": 2, "text": "c"})
    first, second = SourceConfig(name="a", path="a.jsonl", id="id"), SourceConfig(name="b", path="b.jsonl", id="id")
    ingest(lake, IngestConfig(root=tmp_path, classes=CLASSES, sources=(first,)))
    ingest(lake, IngestConfig(root=tmp_path, classes=CLASSES, sources=(first, second)))
    with lake.read() as reader:
        [(alone,), (both,)] = reader.rows("SELECT detail FROM quarantine ORDER BY source")
    assert "prefix" not in alone
    [query] = re.findall(r'query = "(.*)" in place of its path', both)
    second = SourceConfig(name="b", query=query.replace("data/b.csv", "b.jsonl"), id="id")
    ingest(lake, IngestConfig(root=tmp_path, classes=CLASSES, sources=(first, second)))
    assert ("b-1", "b") in items(lake)


@pytest.mark.parametrize(
    ("after", "stored"),
    [
        ({"text": "changed", "split": "train", "m": 1}, True),
        ({"text": "a", "split": "test", "m": 1}, True),
        ({"text": "a", "split": "train", "m": 2}, True),
        ({"text": "a", "split": "train", "m": 1, "unused": 5}, False),
    ],
)
def test_a_later_change_of_a_record_updates_its_item(
    lake: Lake, tmp_path: Path, after: dict[str, Any], stored: bool
) -> None:
    write(tmp_path / "a.jsonl", {"id": 1, "text": "a", "split": "train", "m": 1}, {"id": 2, "text": "b"})
    chosen = config(tmp_path, split="split", metadata=("m",))
    ingest(lake, chosen)
    write(tmp_path / "a.jsonl", {"id": 0, "text": "new"}, {"id": 1, **after}, {"id": 2, "text": "b"})
    result = ingest(lake, chosen)
    assert result.detail == counts(3, 1 + stored, 0, 2 - stored)
    assert result.rows_written == {"items": 1 + stored}
    found = items(lake, "item_id, content, split, metadata")
    assert found[1] == ("1", after["text"], after["split"], json.dumps({"m": after["m"]}, separators=(",", ":")))


def test_a_file_that_is_changed_and_changed_back_is_read_again(lake: Lake, tmp_path: Path) -> None:
    for text in ("first", "second", "first"):
        write(tmp_path / "a.jsonl", {"id": 1, "text": text})
        assert ingest(lake, config(tmp_path)).committed is True
        assert items(lake) == [("1", text)]
    assert ingest(lake, config(tmp_path)).committed is False


def test_a_file_that_only_repeats_what_is_stored_is_read_once(lake: Lake, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"id": 1, "text": "a"})
    ingest(lake, config(tmp_path))
    write(tmp_path / "a.jsonl", {"id": 1, "text": "a"}, {"id": 1, "text": "a"})
    again = ingest(lake, config(tmp_path))
    assert again.detail == counts(2, 0, 0, 2)
    assert again.rows_written == {}
    assert ingest(lake, config(tmp_path)).committed is False


def test_quarantine_rows_are_written_once(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("bad\n")
    ingest(lake, config(tmp_path))
    (tmp_path / "a.jsonl").write_text("bad\nworse\n")
    result = ingest(lake, config(tmp_path))
    assert result.detail == counts(2, 0, 2, 0)
    assert result.rows_written == {"quarantine": 1}


def test_the_detail_of_a_fault_names_its_file(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id":1,"text":"a"}\n')
    (tmp_path / "b.jsonl").write_text("bad\n")
    ingest(lake, config(tmp_path, path="*.jsonl"))
    with lake.read() as reader:
        assert str(reader.scalar("SELECT detail FROM quarantine")).startswith("b.jsonl: not JSON")


def test_a_fault_that_several_files_have_at_one_place_names_them_all(lake: Lake, tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text("bad\n")
    for name in ("c.jsonl", "d.jsonl"):
        (tmp_path / name).write_text("")
    result = ingest(lake, config(tmp_path, path="*.jsonl"))
    assert (result.detail, result.rows_written["quarantine"]) == (counts(4, 0, 4, 0), 2)
    with lake.read() as reader:
        details = "SELECT split_part(detail, ':', 1) FROM quarantine ORDER BY position"
        assert reader.rows(details) == [("c.jsonl, d.jsonl",), ("a.jsonl, b.jsonl",)]
    (tmp_path / "e.jsonl").write_text("bad")  # the same bytes, and another reason
    assert ingest(lake, config(tmp_path, path="*.jsonl")).rows_written == {"quarantine": 1}
    with lake.read() as reader:
        assert reader.rows(details) == [("c.jsonl, d.jsonl",), ("a.jsonl, b.jsonl, e.jsonl",)]
    write(tmp_path / "f.jsonl", {"text": "fine"})
    assert ingest(lake, config(tmp_path, path="*.jsonl")).rows_written == {"items": 1}


def test_ids_that_are_whole_decimals_are_whole_numbers(lake: Lake, tmp_path: Path) -> None:
    ids = pa.array([Decimal(10**37 + 1), Decimal(2), None], pa.decimal128(38, 0))
    pq.write_table(pa.table({"id": ids, "text": ["a", "b", "c"]}), tmp_path / "a.parquet")
    assert ingest(lake, config(tmp_path, path="a.parquet")).detail == counts(3, 3, 0, 0)
    assert set(items(lake, "item_id")) > {(str(10**37 + 1),), ("2",)}
    halves = pa.array([Decimal("1.5")], pa.decimal128(9, 2))
    pq.write_table(pa.table({"id": halves, "text": ["d"]}), tmp_path / "a.parquet")
    assert ingest(lake, config(tmp_path, path="a.parquet")).detail == counts(1, 0, 1, 0, missing=3)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (pa.array([0, 3 * 10**17], pa.timestamp("us")), "11476-08-15 05:20:00.000000"),
        (pa.array([0, 9_000_000], pa.date32()), "26611-03-02"),
        (pa.array([0, 2**62], pa.duration("s")), str(2**62)),
        (pa.array([{"x": 0}, {"x": 9_000_000}], pa.struct([("x", pa.date32())])), {"x": "26611-03-02"}),
        (pa.array([[0], [0, 9_000_000]], pa.list_(pa.date32())), ["1970-01-01", "26611-03-02"]),
    ],
    ids=["timestamp", "date", "duration", "struct", "list"],
)
def test_a_time_that_python_cannot_hold_is_kept_as_text(
    lake: Lake, tmp_path: Path, values: pa.Array, told: object
) -> None:
    pq.write_table(pa.table({"id": ["1", "2"], "text": ["a", "b"], "when": values}), tmp_path / "a.parquet")
    assert ingest(lake, config(tmp_path, path="a.parquet", metadata=("when",))).detail == counts(2, 2, 0, 0)
    with lake.read() as reader:
        found = reader.scalar("SELECT metadata FROM items WHERE item_id = '2'")
    assert json.loads(str(found)) == {"when": told}


def test_several_sources_share_the_ids(lake: Lake, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"id": 1, "text": "a"})
    (tmp_path / "b.csv").write_text("id,text\n1,a\n1,b\n2,c\n")
    sources = (
        SourceConfig(name="json", path="a.jsonl", id="id"),
        SourceConfig(name="csv", path="b.csv", id="id", default_split="valid"),
    )
    result = ingest(lake, IngestConfig(root=tmp_path, classes=CLASSES, sources=sources))
    assert result.detail == counts(4, 2, 2, 0)
    assert items(lake, "item_id, source, position, split") == [("1", "json", 1, "train"), ("2", "csv", 4, "valid")]


def test_more_rows_than_are_held_in_memory_at_once(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("features.ingest.items.FLUSH_ROWS", 10)
    monkeypatch.setattr("features.ingest.items.FLUSH_BYTES", 100)
    write(tmp_path / "a.jsonl", *({"id": f"{i:03}", "text": f"text {i}" * (1 + i % 20)} for i in range(300)))
    ingest(lake, config(tmp_path))
    assert items(lake) == [(f"{i:03}", f"text {i}" * (1 + i % 20)) for i in range(300)]


def test_whole_numbers_that_became_floats_are_ids(lake: Lake, tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b"], "id": [1.0, None]})
    pq.write_table(table, tmp_path / "a.parquet")
    ingest(lake, config(tmp_path, path="a.parquet"))
    assert items(lake, "item_id, content")[0] == ("1", "a")


def test_metadata_of_every_parquet_type_becomes_json(lake: Lake, tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": ["a"],
            "when": pa.array([0], pa.timestamp("us", "UTC")),
            "nan": [float("nan")],
            "list": [[1, None]],
            "struct": [{"x": b"raw"}],
            "name": ["Zoë"],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    ingest(lake, config(tmp_path, path="a.parquet", id=None, metadata=("when", "nan", "list", "struct", "name")))
    kept = json.loads(items(lake, "metadata")[0][0])
    assert kept["when"].startswith("1970-01-01 00:00:00")
    assert (kept["nan"], kept["list"], kept["name"]) == (None, [1, None], "Zoë")


@pytest.mark.parametrize(
    ("classes", "allowed"),
    [
        (("spam", "ham", "new"), True),
        (("ham", "spam"), False),
        (("spam",), False),
        (("spam", "eggs"), False),
        (("new", "spam", "ham"), False),
    ],
)
def test_classes_can_only_be_added_at_the_end(
    lake: Lake, tmp_path: Path, classes: tuple[str, ...], allowed: bool
) -> None:
    write(tmp_path / "a.jsonl", {"id": 1, "text": "a"})
    first = config(tmp_path)
    ingest(lake, first)
    changed = IngestConfig(root=tmp_path, classes=classes, sources=first.sources)
    if allowed:
        assert ingest(lake, changed).rows_written == {"classes": 1}
    else:
        with pytest.raises(SettingsError, match=r"Class \d is .* added at the end"):
            ingest(lake, changed)


@pytest.mark.parametrize("classes", [(), ("a", "a"), ("a", ""), ("a", "  ")])
def test_class_names_are_distinct_and_not_empty(tmp_path: Path, classes: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError, match="distinct names"):
        IngestConfig(root=tmp_path, classes=classes, sources=(SourceConfig(name="s", path="a.csv"),))


def test_source_names_are_distinct(tmp_path: Path) -> None:
    same = SourceConfig(name="s", path="a.csv")
    with pytest.raises(SettingsError, match="repeated: \\['s'\\]"):
        IngestConfig(root=tmp_path, classes=CLASSES, sources=(same, same))


def test_a_file_written_to_while_it_is_read_stores_nothing(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.jsonl", {"id": 1, "text": "a"})
    real = features.ingest.stage.read_source

    def read_and_append(*arguments: Any) -> Iterator[tuple[str, Record | Fault]]:
        yield from real(*arguments)
        with open(tmp_path / "a.jsonl", "a") as stream:
            stream.write('{"id":2,"text":"late"}\n')

    monkeypatch.setattr(features.ingest.stage, "read_source", read_and_append)
    with pytest.raises(SourceChanged, match=r"a\.jsonl changed while it was read"):
        ingest(lake, config(tmp_path))
    assert items(lake) == []


@pytest.mark.parametrize("moment", ["before its hash", "before its state", "at its end"])
def test_a_file_that_goes_away_around_its_reading_stores_nothing(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    write(tmp_path / "a.jsonl", {"id": 1, "text": "a"})
    step = {"before its hash": "state", "before its state": "find_files", "at its end": "read_text_file"}[moment]
    owner = SourceFile if step == "state" else features.ingest.stage
    real = getattr(owner, step)

    def and_remove(*arguments: Any) -> Any:
        found = real(*arguments)
        if step == "read_text_file":
            found = list(found)
        (tmp_path / "a.jsonl").unlink()
        return found

    monkeypatch.setattr(owner, step, and_remove)
    with pytest.raises(SourceChanged, match=r"a\.jsonl went away.*Run again"):
        ingest(lake, config(tmp_path))
    assert items(lake) == []


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "parquet"])
def test_a_file_that_goes_away_while_another_is_read_stores_nothing(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr("features.ingest.stage.PROGRESS_RECORDS", 1)
    for name in "ab":
        path = tmp_path / f"{name}.{suffix}"
        if suffix == "parquet":
            pq.write_table(pa.table({"id": [name], "text": [name]}), path)
        else:
            line = json.dumps({"id": name, "text": name}).encode() + b"\n"
            path.write_bytes(gzip.compress(line) if suffix.endswith("gz") else line)
    gone = tmp_path / f"b.{suffix}"
    with pytest.raises(SourceChanged, match=r"b\..* went away.*Run again"):
        ingest(lake, config(tmp_path, path=f"*.{suffix}"), lambda *_: gone.unlink(missing_ok=True))
    assert items(lake) == []


def test_a_query_that_gives_other_rows_each_time_is_refused(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(SourceChanged, match="ORDER BY"):
        ingest(lake, config(tmp_path, path=None, id=None, query="SELECT random()::VARCHAR AS text"))
    assert items(lake) == []


def test_progress_ends_at_the_total(lake: Lake, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", *({"id": i, "text": f"text {i}"} for i in range(5000)))
    calls: list[tuple[int, int]] = []
    ingest(lake, config(tmp_path), lambda done, total: calls.append((done, total)))
    size = (tmp_path / "a.jsonl").stat().st_size
    assert calls == sorted(calls)
    assert len(calls) >= 3
    assert calls[-1] == (size, size)


def test_progress_moves_within_a_parquet_file(lake: Lake, tmp_path: Path) -> None:
    n = 5000
    pq.write_table(
        pa.table({"id": [str(i) for i in range(n)], "text": [f"text {i}" for i in range(n)]}), tmp_path / "a.parquet"
    )
    calls: list[int] = []
    ingest(lake, config(tmp_path, path="a.parquet"), lambda done, _: calls.append(done))
    size = (tmp_path / "a.parquet").stat().st_size
    assert calls[-1] == size
    assert 0 < calls[0] < size / 2 < calls[1] < size


@pytest.mark.parametrize(
    ("kind", "bits"), [(pa.float64(), 53), (pa.float32(), 24), (pa.float16(), 11)], ids=["double", "float", "half"]
)
def test_a_float_that_may_be_another_whole_number_is_no_id(
    lake: Lake, tmp_path: Path, kind: pa.DataType, bits: int
) -> None:
    ids = [2**bits - 1, 2**bits, 2**bits + 1, -(2**bits), None]
    floats = pa.array([None if i is None else float(i) for i in ids], pa.float64()).cast(kind, safe=False)
    for column in (floats, floats.dictionary_encode()) if kind != pa.float16() else (floats,):
        pq.write_table(pa.table({"id": column, "text": ["a", "b", "c", "d", "e"]}), tmp_path / "a.parquet")
        ingest(lake, config(tmp_path, path="a.parquet"))
        assert {i for i, _ in items(lake)} == {str(2**bits - 1), hashlib.sha256(b"e").hexdigest()}
    with lake.read() as reader:
        found = reader.rows("SELECT DISTINCT position, reason, detail LIKE ? FROM quarantine", [f"%2**{bits} on%"])
    assert sorted(found) == [(2, "bad_id", True), (3, "bad_id", True), (4, "bad_id", True)]


def test_large_ids_of_json_and_queries_are_rounded_to_no_other(lake: Lake, tmp_path: Path) -> None:
    lines = [b'{"id":9007199254740993,"text":"a"}', b'{"id":9007199254740993.0,"text":"b"}', b'{"id":1e3,"text":"c"}']
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    assert ingest(lake, config(tmp_path)).detail == counts(3, 2, 1, 0)
    query = "SELECT * FROM (VALUES (16777217::FLOAT, 'd'), (9::FLOAT, 'e')) t(id, text)"
    assert ingest(lake, config(tmp_path, path=None, query=query)).detail == counts(2, 1, 1, 0, missing=2)
    assert items(lake) == [("1000", "c"), ("9", "e"), ("9007199254740993", "a")]


def test_what_was_stored_under_a_rounded_id_stays_when_its_source_is_read_anew(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.jsonl", {"id": 2.0**53, "text": "a"}, {"id": 1, "text": "b"})
    with monkeypatch.context() as before:
        before.setattr("features.ingest.stage.VERSION", 1)
        before.setattr("features.readers.record._id", lambda value, *_: str(int(value)))
        assert ingest(lake, config(tmp_path)).detail == counts(2, 2, 0, 0)
    stored = items(lake)
    assert ingest(lake, config(tmp_path)).detail == counts(2, 0, 1, 1, missing=1)
    assert items(lake) == stored


def test_fields_that_no_record_has_are_told(lake: Lake, tmp_path: Path) -> None:
    """A name that was mistyped took the metadata, or the split, of all records away without a word."""
    write(tmp_path / "a.jsonl", {"id": 1, "text": "a", "channel": "web"}, {"id": 2, "text": "b", "who": None})
    told = ingest(lake, config(tmp_path, metadata=("chanel", "who", "channel"))).detail["advice"]
    assert told == "No record of source 's' has 'chanel'. Look at its names in siftline.toml."
    assert "advice" not in ingest(lake, config(tmp_path, metadata=("who", "channel"))).detail
    told = ingest(lake, config(tmp_path, split="who", metadata=("channel",))).detail
    assert "advice" not in told, "it is there, and holds nothing"
    told = ingest(lake, config(tmp_path, split="splitt")).detail["advice"]
    assert told == "No record of source 's' has 'splitt'. Look at its names in siftline.toml."
    (tmp_path / "a.jsonl").write_text("no json\n", "utf-8")
    assert "advice" not in ingest(lake, config(tmp_path, metadata=("chanel",))).detail, "there is nothing to judge by"
