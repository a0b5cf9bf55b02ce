"""Opening a warehouse as it was: at a number, at a time, and never at a neighbour of what is gone."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

import warehouse
from features.readers.label_file import read_label_file
from tests.warehouse.test_commit_is_atomic import items
from tests.warehouse.test_reading import vectors, write
from warehouse import (
    Append,
    DataError,
    Lake,
    Location,
    SettingsError,
    SnapshotNotFound,
    Upsert,
    WarehouseError,
    WarehouseNotFound,
)
from warehouse.catalog.snapshots import find_snapshot, parse_at
from warehouse.export.formats import plain

COMMITS = 5


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """A warehouse whose snapshot 1 + n holds the texts of commit n, with snapshot 4 expired."""
    with Lake(tmp_path_factory.mktemp("history") / "lake") as lake:
        for n in range(1, COMMITS + 1):
            write(lake, n, Upsert("items", items(10 * n, f"commit {n}: ")))
        cursor = lake.new_cursor()
        cursor.execute("CALL ducklake_expire_snapshots('lake', versions => [4])")
        cursor.close()
        yield lake


def times(lake: Lake) -> dict[int, datetime]:
    with lake.read() as reader:
        return dict(reader.rows("SELECT snapshot_id, snapshot_time FROM lake.snapshots()"))


def test_a_number_and_its_time_give_the_same_past(history: Lake) -> None:
    at = times(history)
    for number in (2, 3, 5, 6):
        for form in (number, str(number)) if number == 3 else (number, at[number], at[number].isoformat()):
            with warehouse.connect(history.path, at=form) as reader:
                assert reader.scalar("SELECT count(*) FROM items") == 10 * (number - 1)
                assert reader.rows("SELECT DISTINCT split_part(content, ':', 1) FROM items") == [
                    (f"commit {number - 1}",)
                ]
                assert reader.snapshot() == number


def test_the_newest_is_read_when_nothing_is_asked_and_stays_the_same(tmp_path: Path) -> None:
    with Lake(tmp_path / "lake") as lake:
        write(lake, 1, Append("items", items(3)))
        with warehouse.connect(str(lake.path)) as reader:
            first = reader.snapshot()
            write(lake, 2, Upsert("items", items(9)))
            assert (reader.snapshot(), reader.scalar("SELECT count(*) FROM items")) == (first, 3)
        with warehouse.connect(lake.path) as reader:
            assert reader.scalar("SELECT count(*) FROM items") == 9


@pytest.mark.parametrize("at", [None, 2])
def test_a_query_that_fails_leaves_the_reader_at_its_snapshot(tmp_path: Path, at: int | None) -> None:
    with Lake(tmp_path / "lake") as lake:
        write(lake, 1, Append("items", items(3)))
        with warehouse.connect(lake.path, at=at) as reader:
            write(lake, 2, Upsert("items", items(9)))
            for wrong, values in (("SELECT content::INTEGER FROM items", []), ("SELECT ?", []), ("SELECT ?", [1, 2])):
                with pytest.raises(duckdb.Error):
                    reader.rows(wrong, values)
                assert (reader.snapshot(), reader.scalar("SELECT count(*) FROM items")) == (2, 3)
            with pytest.raises(duckdb.ConversionException):
                list(reader.batches("SELECT content::INTEGER FROM items", rows=2))
            assert reader.arrow("FROM items").num_rows == 3
        with pytest.raises(WarehouseError, match="This reader is closed"):  # a closed one stays closed
            reader.rows("SELECT 1")


def test_a_reader_whose_snapshot_was_expired_meanwhile_says_so(tmp_path: Path) -> None:
    with Lake(tmp_path / "lake") as lake:
        write(lake, 1, Append("items", items(3)))
        with warehouse.connect(lake.path) as reader:
            write(lake, 2, Upsert("items", items(9)))
            cursor = lake.new_cursor()
            cursor.execute("CALL ducklake_expire_snapshots('lake', versions => [2])")
            cursor.close()
            with pytest.raises(duckdb.ConversionException):
                reader.rows("SELECT 'a'::INTEGER")
            for _ in range(2):
                with pytest.raises(SnapshotNotFound, match="Snapshot 2 was expired"):
                    reader.rows("SELECT 1")


def test_a_snapshot_that_is_expired_while_it_is_opened_is_not_called_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lake(tmp_path / "lake") as lake:
        write(lake, 1, Append("items", items(3)))
        write(lake, 2, Upsert("items", items(9)))

        def found(*_: object) -> int:
            cursor = lake.new_cursor()
            cursor.execute("CALL ducklake_expire_snapshots('lake', versions => [2])")
            cursor.close()
            return 2

        monkeypatch.setattr("warehouse.schema.migrations.find_snapshot", found)
        with pytest.raises(SnapshotNotFound, match="Snapshot 2 was expired just now"):
            warehouse.connect(lake.path, at=2)


@pytest.mark.parametrize(
    ("query", "values", "words"),
    [
        (None, [], "The query is None; give its text"),
        (3, [], "The query is 3; give its text"),
        ("", [], "The query is empty"),
        ("-- only a remark", [], "The query is empty"),
        ("SELECT ?", "ab", r"values are 'ab'; give them in a list, \['ab'\]"),
        ("SELECT ?", 3, r"values are 3; give them in a list, \[3\]"),
    ],
)
@pytest.mark.parametrize("method", ["rows", "scalar", "arrow", "pandas", "polars"])
def test_what_is_no_query_is_refused_in_words(
    history: Lake, method: str, query: object, values: object, words: str
) -> None:
    with warehouse.connect(history.path) as reader:
        with pytest.raises(SettingsError, match=words):
            getattr(reader, method)(query, values)
        assert reader.rows("SELECT 1") == [(1,)]


@pytest.mark.parametrize("place", [None, 3, b"lake"])
def test_what_is_no_path_is_refused_in_words(place: Any) -> None:
    for opened in (warehouse.connect, Lake, lambda folder: Location(folder=folder)):
        with pytest.raises(SettingsError, match=r"folder is .*; give its path, such as 'lake'"):
            opened(place)


def test_a_time_whose_snapshot_may_be_expired_is_refused_and_not_answered_with_another(history: Lake) -> None:
    for time in (times(history)[3], times(history)[5] - timedelta(microseconds=1)):
        with pytest.raises(SnapshotNotFound, match="between 3 and 5 were expired"):
            warehouse.connect(history.path, at=time)


def test_a_time_that_the_clock_showed_twice_is_refused() -> None:
    at = datetime(2026, 1, 1, 10, tzinfo=UTC)
    kept = [(1, at), (2, at + timedelta(hours=2)), (3, at + timedelta(hours=1))]
    assert find_snapshot(at, kept) == 1
    assert find_snapshot(at + timedelta(hours=3), kept) == 3
    with pytest.raises(SnapshotNotFound, match="the clock went back between 2 and 3"):
        find_snapshot(at + timedelta(hours=1), kept)


def test_a_clock_that_was_ahead_makes_no_other_time_uncertain() -> None:
    """Snapshots 3 and 4 have a time to come, and were made between 2 and 5."""
    at, ahead = datetime(2026, 1, 1, 10, tzinfo=UTC), datetime.now(UTC) + timedelta(days=365)
    hours = [at + timedelta(hours=n) for n in range(8)]
    kept = [(1, hours[1]), (2, hours[2]), (3, ahead), (4, ahead), (5, hours[5]), (6, hours[6])]
    assert [find_snapshot(hours[n], kept) for n in (1, 5, 6, 7)] == [1, 5, 6, 6]
    for n in (2, 3, 4):
        with pytest.raises(SnapshotNotFound, match=r"cannot be told: between 2 and 5 a clock was ahead\. Name one"):
            find_snapshot(hours[n], kept)
    with pytest.raises(SnapshotNotFound, match="between 2 and 4 a clock was ahead"):
        find_snapshot(hours[7], kept[:4])
    soon = datetime.now(UTC) + timedelta(minutes=2)
    assert find_snapshot(hours[7], [*kept, (7, soon)]) == 6, "a clock of the team that is a little ahead"
    with pytest.raises(SnapshotNotFound, match="those between 6 and 8 were expired"):
        find_snapshot(hours[7], [*kept, (8, soon)])


@pytest.mark.parametrize(
    ("at", "error", "words"),
    [
        (99, SnapshotNotFound, "no snapshot 99 yet; the newest is 6"),
        (4, SnapshotNotFound, "expired.*nearest kept are 3 and 5"),
        ("4", SnapshotNotFound, "expired"),
        (-1, SnapshotNotFound, "no snapshot -1; the oldest that can be read is 1, the newest 6"),
        ("-1", SnapshotNotFound, "no snapshot -1"),
        ("2020-01-01", SnapshotNotFound, "the oldest is 1"),
        (datetime.now(UTC) + timedelta(days=1), SnapshotNotFound, "future"),
        ("last tuesday", SettingsError, "neither a snapshot number nor a time"),
        (0, SnapshotNotFound, "the oldest that can be read is 1"),
    ],
)
def test_what_cannot_be_read_is_said_with_the_way_out(history: Lake, at: int, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        warehouse.connect(history.path, at=at)


def test_a_time_without_a_zone_is_utc(history: Lake) -> None:
    time = times(history)[6].astimezone(UTC)
    with warehouse.connect(history.path, at=time.replace(tzinfo=None)) as reader:
        assert reader.snapshot() == 6


def test_numbers_of_numpy_and_dates_are_read_and_other_things_refused() -> None:
    assert parse_at(np.int64(3)) == 3
    assert parse_at(date(2026, 11, 24)) == datetime(2026, 11, 24, tzinfo=UTC)
    with pytest.raises(SettingsError, match=r"2\.0 is neither"):
        parse_at(2.0)  # pyright: ignore[reportArgumentType]


def test_a_split_that_is_none_is_refused(history: Lake) -> None:
    with history.read() as reader, pytest.raises(DataError, match="'training'"):
        reader.read_vectors(split="training")


def test_a_name_in_brackets_is_a_label(tmp_path: Path) -> None:
    path = tmp_path / "gold.csv"
    path.write_text('id,label\n1,[urgent]\n2,"[""a"", ""b""]"\n', "utf-8")
    assert [(row.item_id, row.labels) for row in read_label_file(path)] == [("1", ("[urgent]",)), ("2", ("a", "b"))]


def test_a_decimal_is_a_number_in_json() -> None:
    most = 10**38 - 1  # more digits than Python's decimals compute with
    assert [plain(Decimal(text)) for text in ("2.50", "3", str(most))] == [2.5, 3, most]


def test_connecting_never_writes_and_says_who_does(history: Lake) -> None:
    with pytest.raises(SettingsError, match=r"Lake\(path\)\.stage"):
        warehouse.connect(history.path, read_only=False)
    with pytest.raises(WarehouseNotFound, match="name that one"):
        warehouse.connect(history.path.parent)


def test_the_same_rows_as_arrow_pandas_and_polars(history: Lake) -> None:
    query = "SELECT item_id, position FROM items WHERE position < ? ORDER BY item_id"
    with warehouse.connect(history.path) as reader:
        arrow = reader.arrow(query, [7])
        assert reader.pandas(query, [7]).to_dict("list") == arrow.to_pydict()
        assert reader.polars(query, [7]).to_dict(as_series=False) == arrow.to_pydict()
        assert reader.rows(query, [7]) == [tuple(row.values()) for row in arrow.to_pylist()]


def test_vectors_come_as_one_matrix_that_belongs_to_its_ids(tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).standard_normal((3000, 8), np.float32)
    table = vectors(matrix)
    with Lake(tmp_path / "lake") as lake:
        with warehouse.connect(lake.path) as reader:
            ids, empty = reader.read_vectors()
            assert (len(ids), empty.shape) == (0, (0, 0))
        rows = items(3000).set_column(0, "item_id", table.column("item_id"))
        splits = pa.array(["train"] * 2000 + ["test"] * 1000)
        write(lake, 1, Append("items", rows.set_column(rows.column_names.index("split"), "split", splits)))
        write(lake, 2, Append("vectors", table.slice(0, 1500)))
        write(lake, 3, Append("vectors", table.slice(1500)))
        with warehouse.connect(lake.path) as reader:
            ids, found = reader.read_vectors("e")
            assert found.dtype == np.float32
            assert found.flags["C_CONTIGUOUS"]
            assert found.flags["WRITEABLE"]
            order = np.argsort(ids.to_numpy(zero_copy_only=False))
            np.testing.assert_array_equal(found[order], matrix)
            assert len(reader.read_vectors(split="test")[1]) == 1000
            with pytest.raises(DataError, match="no vectors of encoder 'f'; found: e"):
                reader.read_vectors("f")
        other = table.slice(0, 1).set_column(1, "encoder_id", pa.array(["f"]))
        write(lake, 4, Append("vectors", other))
        with warehouse.connect(lake.path) as reader, pytest.raises(DataError, match="2 encoders, e, f"):
            reader.read_vectors()


def test_reading_the_past_opens_one_duckdb(history: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[duckdb.DuckDBPyConnection] = []
    real = duckdb.connect
    monkeypatch.setattr(duckdb, "connect", lambda **options: opened.append(real(**options)) or opened[-1])
    with warehouse.connect(history.path, at=3) as reader:
        assert reader.scalar("SELECT count(*) FROM items") == 20
        assert reader.rows("SELECT database_name FROM duckdb_databases() WHERE NOT internal") == [
            ("lake",),
            ("memory",),
        ]
    assert len(opened) == 1
