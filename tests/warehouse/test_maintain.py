"""Maintenance keeps every snapshot bit for bit, beside readers, and gives up only what it was told to."""

import contextlib
import hashlib
import os
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.warehouse.test_commit_is_atomic import classes, count, items
from warehouse import (
    Append,
    Lake,
    Location,
    SettingsError,
    SnapshotNotFound,
    Upsert,
    WarehouseError,
    connect,
)
from warehouse.catalog.sqlite_file import vacuum_fault
from warehouse.maintenance import compaction as maintain_steps
from warehouse.maintenance.compaction import maintain
from warehouse.storage.layout import OFTEN_EMPTY

ROOT = Path(__file__).parents[2]


def filled(lake: Lake, commits: int = 8) -> None:
    """Commits that add 100 items and two classes each, then one that replaces a few items of the first."""
    for number in range(commits):
        with lake.stage("ingest", version=number, inputs=()) as stage:
            new = items(100 * (number + 1)).slice(100 * number)
            stage.commit([Append("items", new), Append("classes", classes("a", "b"))])
    with lake.stage("edit", version=1, inputs=()) as stage:
        stage.commit([Upsert("items", items(10, "edited"))])


def past(lake: Lake, *, every: int = 1) -> dict[int, tuple[object, ...]]:
    """What every snapshot holds, or every few of them, as hashes."""
    found = {}
    for number in range(2, lake.snapshot() + 1, every):
        with connect(lake.location, at=number) as reader:
            found[number] = reader.rows(
                "SELECT (SELECT bit_xor(hash(i)) FROM items i), (SELECT count(*) FROM items),"
                " (SELECT bit_xor(hash(c)) FROM classes c), (SELECT bit_xor(hash(r)) FROM runs r)"
            )[0]
    return found


def files(lake: Lake) -> list[Path]:
    return list((lake.path / "data").rglob("*.parquet"))


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_every_snapshot_reads_the_same_after_compaction(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    catalog = "sqlite" if kind == "sqlite" else request.getfixturevalue("postgres")
    with Lake(Location(folder=tmp_path / "lake", catalog=catalog)) as lake:
        filled(lake)
        before = past(lake)
        many = len(files(lake))
        done = maintain(lake, grace_h=0)
        assert done.rows_flushed > 0
        assert done.files_made < done.files_merged
        assert done.files_removed > 0
        assert done.snapshots_expired == ()
        assert len(files(lake)) < many
        after = past(lake)
        assert {number: after[number] for number in before} == before
        snapshot = lake.snapshot()
        again = maintain(lake, grace_h=0)
        assert (again.files_merged, again.rows_flushed, lake.snapshot()) == (0, 0, snapshot)


def shuffled(n: int) -> pa.Table:
    """Items whose ids have no order, as content hashes have none."""
    rows = items(n)
    ids = [hashlib.sha256(name.encode()).hexdigest() for name in rows["item_id"].to_pylist()]
    return rows.set_column(0, "item_id", pa.array(ids))


def without_layout(lake: Lake) -> Lake:
    """The warehouse as it was made before it had an order, file options and statistics, opened anew."""
    with contextlib.closing(lake.new_cursor()) as cursor:
        cursor.execute("ALTER TABLE items RESET SORTED BY")
        cursor.execute("ALTER TABLE predictions RESET SORTED BY")
        cursor.execute("DELETE FROM __ducklake_metadata_lake.ducklake_metadata WHERE key LIKE 'parquet%'")
        cursor.execute(
            "DELETE FROM __ducklake_metadata_lake.ducklake_table_stats WHERE table_id IN "
            "(SELECT table_id FROM ducklake_table_info('lake') WHERE table_name = ANY(?))",
            [list(OFTEN_EMPTY)],
        )
    lake.close()
    return Lake(lake.path)


def all_have_statistics(lake: Lake) -> bool:
    """Whether DuckLake knows statistics of every table that may stay empty."""
    with lake.read() as reader:
        known = reader.rows(
            "SELECT t.table_name FROM __ducklake_metadata_lake.ducklake_table_stats s "
            "JOIN __ducklake_metadata_lake.ducklake_table t USING (table_id)"
        )
    return {(table,) for table in OFTEN_EMPTY} <= set(known)


def row_groups(lake: Lake) -> list[tuple[str, str]]:
    """Lowest and highest id of each row group of `items`."""
    found = []
    for path in (lake.path / "data" / "main" / "items").glob("*.parquet"):
        metadata = pq.ParquetFile(path).metadata
        assert metadata.schema.column(0).name == "item_id"
        for number in range(metadata.num_row_groups):
            statistics = metadata.row_group(number).column(0).statistics
            found.append((statistics.min, statistics.max))
    return sorted(found)


def test_files_with_few_deletions_do_not_add_up(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a queue: each batch is a file, one task of it changes later, and DuckLake merges no file with deletions."""
    most, counts = 3, list[int]()
    monkeypatch.setattr(maintain_steps, "MOST_WITH_DELETIONS", most)
    for number in range(1, most + 2):  # the last merges
        with lake.stage("select", version=number, inputs=()) as stage:
            stage.commit([Append("items", items(20 * number).slice(20 * (number - 1)))])
        with lake.stage("answer", version=number, inputs=()) as stage:
            stage.commit([Upsert("items", items(20 * number, "answered").slice(20 * number - 1))])
        before = past(lake, every=2) if number > most else {}
        maintain(lake, grace_h=0)
        if before:
            assert {n: hashes for n, hashes in past(lake, every=2).items() if n in before} == before
        with contextlib.closing(lake.new_cursor()) as cursor:
            cursor.execute("SELECT file_count FROM ducklake_table_info('lake') WHERE table_name = 'items'")
            counts.append((cursor.fetchone() or (0,))[0])
    assert count(lake, "items") == 20 * (most + 1)
    assert max(counts) > most, "the case is there"
    assert counts[-1] < max(counts)


@pytest.mark.parametrize("made", ["now", "before there was a layout"])
def test_one_id_lies_in_one_row_group(lake: Lake, made: str) -> None:
    if made != "now":
        lake = without_layout(lake)
    with lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Append("items", shuffled(50_000))])
    if made != "now":
        assert len(row_groups(lake)) == 1
        maintain(lake, grace_h=0)
        with lake.stage("ingest", version=2, inputs=()) as stage:
            stage.commit([Append("items", shuffled(50_000))])
        maintain(lake, grace_h=0)
    groups = row_groups(lake)
    assert len(groups) >= 2
    assert all(last <= first for (_, last), (first, _) in pairwise(groups))
    for path in (lake.path / "data" / "main" / "items").glob("*.parquet"):
        column = pq.ParquetFile(path).metadata.row_group(0).column(0)
        assert (column.compression, column.encodings) == ("LZ4", ("DELTA_LENGTH_BYTE_ARRAY",))


@pytest.mark.parametrize("made", ["now", "when the order was by item alone"])
def test_the_predictions_of_one_model_lie_together(lake: Lake, made: str) -> None:
    if made != "now":
        with contextlib.closing(lake.new_cursor()) as cursor:
            cursor.execute("ALTER TABLE predictions SET SORTED BY (item_id)")
        maintain(lake, grace_h=0)
    count = 20_480
    for model in ("m1", "m2", "m3"):
        with lake.stage("end_model", version=1, inputs=(), params={"model": model}) as stage:
            rows = {
                "item_id": [f"i{number}" for number in range(count)],
                "end_model_id": [model] * count,
                "probs": [[1.0]] * count,
                "class_id": pa.array([0] * count, pa.int32()),
                "confidence": pa.array([1.0] * count, pa.float32()),
            }
            stage.commit([Append("predictions", pa.table(rows))])
    maintain(lake, grace_h=0)
    merged = list((lake.path / "data" / "main" / "predictions").glob("*.parquet"))
    assert len(merged) == 1
    metadata = pq.ParquetFile(merged[0]).metadata
    place = metadata.schema.names.index("end_model_id")
    found = [metadata.row_group(number).column(place).statistics for number in range(metadata.num_row_groups)]
    assert [(group.min, group.max) for group in found] == [("m1", "m1"), ("m2", "m2"), ("m3", "m3")]
    snapshot = lake.snapshot()
    maintain(lake, grace_h=0)
    assert lake.snapshot() == snapshot, "the order is known"


@pytest.mark.parametrize("made", ["now", "before there was a layout"])
def test_an_empty_table_has_statistics_and_no_snapshot_holds_a_row_for_them(lake: Lake, made: str) -> None:
    if made != "now":
        lake = without_layout(lake)
        assert not all_have_statistics(lake)
    else:
        assert all_have_statistics(lake)
    maintain(lake, grace_h=0)
    assert all_have_statistics(lake)
    snapshot = lake.snapshot()
    maintain(lake, grace_h=0)
    assert lake.snapshot() == snapshot, "there was nothing left to do"
    for number in range(1, snapshot + 1):
        with connect(lake.location, at=number) as reader:
            assert [reader.scalar(f"SELECT count(*) FROM {table}") for table in OFTEN_EMPTY] == [0] * len(OFTEN_EMPTY)
    with lake.stage("faults", version=1, inputs=()) as stage:
        rows = {"item_id": ["i1"], "lf_name": ["f"], "lf_version": ["1"], "fault": ["raised"], "detail": ["x"]}
        stage.commit([Append("lf_faults", pa.table(rows))])
    with lake.read() as reader:
        assert reader.rows("SELECT count(*), count(run_id), min(fault), max(fault) FROM lf_faults") == [
            (1, 1, "raised", "raised")
        ]


def test_unused_files_stay_for_the_grace(lake: Lake) -> None:
    filled(lake)
    before = set(files(lake))
    maintain(lake)
    assert before <= set(files(lake))


def test_an_orphan_goes_after_the_grace_and_not_before(lake: Lake) -> None:
    filled(lake, 1)
    orphan = files(lake)[0].with_name("ducklake-01a22164-1a1e-71ed-b6da-89f3ec72a88d.parquet")
    orphan.write_bytes(b"half a file")
    maintain(lake, grace_h=1)
    assert orphan.exists()
    old = time.time() - 7200
    os.utime(orphan, (old, old))
    maintain(lake, grace_h=1)
    assert not orphan.exists()


def test_a_file_that_is_not_the_warehouses_is_named_and_stays(lake: Lake) -> None:
    filled(lake, 1)
    orphan = files(lake)[0].with_name("ducklake-01a22164-1a1e-71ed-b6da-89f3ec72a88d.parquet")
    mine = lake.path / "data" / "monday.parquet"
    old = time.time() - 7200
    for path in (orphan, mine):
        path.write_bytes(b"half a file")
        os.utime(path, (old, old))
    with pytest.raises(WarehouseError, match=r"monday\.parquet, which is none of the warehouse's"):
        maintain(lake, grace_h=1)
    assert mine.exists()
    assert orphan.exists()
    mine.unlink()
    maintain(lake, grace_h=1)
    assert not orphan.exists()


@pytest.mark.parametrize("relative", [False, True])
def test_a_file_elsewhere_that_the_catalogue_names_for_removal_stays(lake: Lake, relative: bool) -> None:
    """A warehouse from somebody else could name any file of this machine."""
    mine = lake.path.parent / "main" / "items" / "ducklake-01a22164.parquet"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"precious")
    path = f"../../{mine.relative_to(lake.path.parent)}" if relative else str(mine)
    with contextlib.closing(sqlite3.connect(lake.catalog)) as catalogue, catalogue:
        catalogue.execute(
            "INSERT INTO ducklake_files_scheduled_for_deletion VALUES (9999, ?, ?, '2020-01-01 00:00:00+00')",
            [path, relative],
        )
    with pytest.raises(WarehouseError, match="none of the warehouse's"):
        maintain(lake, grace_h=1)
    assert mine.read_bytes() == b"precious"


def test_snapshots_are_given_up_only_on_purpose_and_then_said_to_be(lake: Lake) -> None:
    filled(lake, 3)
    last = lake.snapshot()
    maintain(lake)
    assert connect(lake.path, at=2).scalar("SELECT count(*) FROM items") == 100
    done = maintain(lake, expire_older_than_days=0, grace_h=0)
    assert set(range(2, last)) <= set(done.snapshots_expired)
    with pytest.raises(SnapshotNotFound, match="expired"):
        connect(lake.path, at=2)
    assert count(lake, "items") == 300


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_snapshots_of_the_same_day_are_told_apart(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    catalog = "sqlite" if kind == "sqlite" else request.getfixturevalue("postgres")
    with Lake(Location(folder=tmp_path / "lake", catalog=catalog)) as lake:
        filled(lake, 3)
        last = lake.snapshot()
        dated(lake, "ducklake_snapshot", "snapshot_time", "2 hours", "snapshot_id < 4")
        done = maintain(lake, expire_older_than_days=1 / 24)
        assert [number for number in done.snapshots_expired if number < 4] == [0, 1, 2, 3]
        assert not set(range(4, last + 1)) & set(done.snapshots_expired)


def dated(lake: Lake, table: str, column: str, ago: str, where: str = "true") -> None:
    """Set times of the catalogue to some time ago, in the form that it keeps."""
    with contextlib.closing(lake.new_cursor()) as cursor:
        then = f"(now() - INTERVAL '{ago}')" + ("::VARCHAR" if lake.location.dsn is None else "")
        cursor.execute(f"UPDATE __ducklake_metadata_lake.{table} SET {column} = {then} WHERE {where}")


def test_unused_files_of_the_same_day_stay_for_the_grace(lake: Lake) -> None:
    filled(lake)
    maintain(lake)
    unused = len(files(lake))
    maintain(lake, grace_h=1)
    assert len(files(lake)) == unused
    dated(lake, "ducklake_files_scheduled_for_deletion", "schedule_start", "50 hours")
    assert maintain(lake, grace_h=1).files_removed > 0
    assert len(files(lake)) < unused


def test_a_flush_has_one_thread_and_the_rest_has_all(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckLake damages the heap when two threads finish a flush."""
    threads = {}
    real = maintain_steps._commit

    def noting(lake: Lake, work: Callable[[duckdb.DuckDBPyConnection], Any], message: str, *rest: Any) -> Any:
        def noted(cursor: duckdb.DuckDBPyConnection) -> Any:
            (threads[message],) = cursor.execute("SELECT current_setting('threads')").fetchone() or ()
            return work(cursor)

        return real(lake, noted, message, *rest)

    monkeypatch.setattr(maintain_steps, "_commit", noting)
    filled(lake)
    with contextlib.closing(lake.new_cursor()) as cursor:
        cursor.execute("SET threads = 4")
        assert maintain(lake, grace_h=0).rows_flushed > 0
        assert cursor.execute("SELECT current_setting('threads')").fetchone() == (4,)
    with contextlib.closing(duckdb.connect()) as fresh:
        usual = fresh.execute("SELECT current_setting('threads')").fetchone()
    assert threads.pop("maintain: small commits moved into files") == 1
    assert {(number,) for number in threads.values()} == {usual}


COMMITS_AND_MAINTENANCE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tests.warehouse.test_commit_is_atomic import classes
from warehouse import Append, Lake
from warehouse.maintenance.compaction import maintain
with Lake(Path(sys.argv[1])) as lake, ThreadPoolExecutor(5) as pool:
    def commit(writer):
        for number in range(8):
            with lake.stage(f"writer {writer}", version=number, inputs=()) as stage:
                stage.commit([Append("classes", classes("a", "b"))])
    def keep_small():
        for _ in range(3):
            maintain(lake)
    for done in [*(pool.submit(commit, writer) for writer in range(4)), pool.submit(keep_small)]:
        done.result()
"""


def test_maintenance_ends_while_other_threads_of_its_process_commit(lake: Lake) -> None:
    lake.close()
    command = [sys.executable, "-c", COMMITS_AND_MAINTENANCE, str(lake.path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=150)
    with connect(lake.path) as reader:
        assert reader.scalar("SELECT count(*) FROM runs") == 32


def test_negative_numbers_are_refused(lake: Lake) -> None:
    with pytest.raises(SettingsError, match="-1"):
        maintain(lake, grace_h=-1)
    for number in (float("inf"), float("nan"), 1e300):
        with pytest.raises(SettingsError, match="1,000,000 days"):
            maintain(lake, grace_h=number)
        with pytest.raises(SettingsError, match="1,000,000 days"):
            maintain(lake, expire_older_than_days=number)


READER = """
import sys
from pathlib import Path
from warehouse import Lake
with Lake(Path(sys.argv[1]), read_only=True) as lake:
    print("ready", flush=True)
    for _ in iter(sys.stdin.readline, "stop\\n"):
        with lake.read() as reader:
            one = reader.rows("SELECT count(*), bit_xor(hash(i)) FROM items i")
            two = reader.rows("SELECT count(*), bit_xor(hash(i)) FROM items i")
            assert one == two, (one, two)
        print("read", flush=True)
"""


def test_a_reader_beside_commits_and_compaction_sees_each_snapshot_whole(lake: Lake) -> None:
    filled(lake, 1)
    command = [sys.executable, "-c", textwrap.dedent(READER), str(lake.path)]
    reader = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert reader.stdin is not None
    assert reader.stdout is not None
    assert reader.stdout.readline() == "ready\n"
    for number in range(6):
        reader.stdin.write("go\n")
        reader.stdin.flush()
        with lake.stage("ingest", version=100 + number, inputs=()) as stage:
            stage.commit([Upsert("items", items(300, f"w{number}"))])
        maintain(lake)
        assert reader.stdout.readline() == "read\n"
    out, _ = reader.communicate("stop\n", timeout=60)
    assert reader.returncode == 0, out


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
@pytest.mark.parametrize("ours", [True, False], ids=["of_connect", "of_a_lake"])
def test_a_reader_that_stays_open_loses_no_row_to_compaction(
    kind: str, ours: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """What it saw lies in other files afterwards, which a newer look at the catalogue by older bounds does not find."""
    location = Location(
        folder=tmp_path / "lake", catalog="sqlite" if kind == "sqlite" else request.getfixturevalue("postgres")
    )
    with Lake(location) as lake:
        filled(lake, 3)
        with Lake(location, read_only=True) as other, connect(location) if ours else other.read() as reader:
            counts = "SELECT (SELECT count(*) FROM items), (SELECT count(*) FROM classes), (SELECT count(*) FROM runs)"
            before = reader.rows(counts)
            assert before == [(300, 6, 4)]
            done = maintain(lake)
            assert done.rows_flushed > 0
            assert done.files_merged > 0
            assert reader.rows(counts) == before


WRITER = """
import sys
from pathlib import Path
from tests.warehouse.test_commit_is_atomic import classes
from warehouse import Lake, Upsert
with Lake(Path(sys.argv[1])) as lake, lake.stage("other", version=int(sys.argv[2]), inputs=()) as stage:
    stage.commit([Upsert("classes", classes("a", "b"))])
"""


def test_maintenance_takes_no_lock_from_a_reader_of_its_own_process(lake: Lake) -> None:
    """Another process that then takes itself for the only one would remove the log that this one still writes."""
    with lake.read() as reader:
        reader.rows("SELECT count(*) FROM items")
        assert not maintain(lake).vacuumed
        for number in range(2):
            with lake.stage("ingest", version=number, inputs=()) as stage:
                stage.commit([Append("items", items(20 * (number + 1)).slice(20 * number))])
            command = [sys.executable, "-c", WRITER, str(lake.path), str(number)]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        assert reader.scalar("SELECT count(*) FROM items") == 0
    assert vacuum_fault(lake.catalog) == ""
    with connect(lake.path) as newest:
        assert newest.rows("SELECT stage, count(*) FROM runs GROUP BY ALL ORDER BY ALL") == [
            ("ingest", 2),
            ("other", 2),
        ]
        assert newest.scalar("SELECT count(*) FROM items") == 40


def test_a_vacuum_gives_the_space_of_rows_that_left_the_catalogue_back(lake: Lake) -> None:
    with lake.stage("ingest", version=1, inputs=()) as stage:  # few enough to be kept in the catalogue
        stage.commit([Append("items", items(10).set_column(1, "content", pa.array(["x" * 100_000] * 10)))])
    done = maintain(lake)
    assert done.rows_flushed >= 10
    assert done.catalog_bytes is not None
    before, after = done.catalog_bytes
    assert after < before - 900_000
    assert {path.name for path in lake.path.glob("catalog*")} == {"catalog.sqlite"}
