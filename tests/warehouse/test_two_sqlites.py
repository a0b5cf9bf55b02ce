"""A process with a second SQLite beside that of DuckDB's extension: it drops a reader's locks, which is noticed."""

import itertools
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from shutil import copy

import duckdb
import pytest

import warehouse
from tests.warehouse.test_forks import COUNT, UPKEEP, write
from warehouse import Lake, Reader, WarehouseError, attach_statement
from warehouse.catalog.reader_locks import Hold
from warehouse.schema.migrations import connect_checked
from warehouse.session.extensions import extension_path, load_extensions

STEPS = "SELECT count(*) FROM schema_migrations"
"""Read after upkeep, and not before: what was read once may be remembered."""


def look_by_sqlite3(lake: Lake) -> None:
    with closing(sqlite3.connect(lake.catalog)) as catalog:
        catalog.execute("SELECT count(*) FROM ducklake_snapshot").fetchone()


def look_by_another_copy(lake: Lake) -> None:
    """As any DuckDB does whose extension came from DuckDB's repository."""
    another = copy(extension_path("sqlite_scanner"), lake.path.parent)
    with closing(duckdb.connect()) as connection:
        connection.execute(f"LOAD '{another}'")
        load_extensions(connection, ["ducklake"])
        connection.execute(attach_statement(lake.path, read_only=True))
        connection.execute("SELECT count(*) FROM lake.items").fetchone()


def upkeep(lake: Lake) -> str:
    return subprocess.run([sys.executable, "-c", UPKEEP, lake.path], capture_output=True, text=True).stdout


@pytest.mark.parametrize("look", [look_by_sqlite3, look_by_another_copy])
def test_a_reader_sees_its_snapshot_beside_another_sqlite_and_upkeep(lake: Lake, look: Callable[[Lake], None]) -> None:
    """It read 0 steps, or that a column has another type, without the locks that keep upkeep from its snapshot."""
    write(lake, 5)
    with warehouse.connect(lake.path) as reader:
        snapshot = reader.snapshot()
        look(lake)
        upkeep(lake)
        assert (reader.scalar(STEPS), reader.scalar(COUNT), reader.snapshot()) == (1, 5, snapshot)
        assert upkeep(lake) == "vacuumed: False\n", "it holds its locks again"
        assert reader.scalar(COUNT) == 5


@pytest.mark.parametrize("look", ["by a connection that stays open", "at the file, as who copies it"])
def test_a_reader_that_lost_one_of_its_locks_has_lost_its_snapshot(lake: Lake, look: str) -> None:
    """Of a connection that stays open it read that a column has another type, after upkeep."""
    write(lake, 5)
    with lake.read() as reader, closing(sqlite3.connect(lake.catalog)) as other:
        assert reader.scalar(COUNT) == 5
        if look == "at the file, as who copies it":
            lake.catalog.read_bytes()
        else:
            other.execute("SELECT count(*) FROM ducklake_snapshot").fetchone()
        with pytest.raises(WarehouseError, match=r"what it read may be wrong"):
            reader.scalar(COUNT)


@pytest.mark.parametrize(
    ("own", "other"),
    [
        (" {pid} ", " 1 "),
        ("POSIX", "FLOCK"),
        (" READ ", " WRITE "),
        (":{index} 123 ", ":1 123 "),
        (" 123 123", " 127 127"),
    ],
    ids=["process", "kind", "way", "catalogue", "place in the log"],
)
def test_locks_of_another_process_kind_or_reader_are_not_its_own(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, other: str
) -> None:
    write(lake, 5)
    with lake.read() as reader:
        assert reader.scalar(COUNT) == 5
        own = own.format(pid=os.getpid(), index=os.stat(f"{lake.catalog}-shm").st_ino)
        (tmp_path / "locks").write_text(Path("/proc/locks").read_text().replace(own, other))
        monkeypatch.setattr("warehouse.catalog.reader_locks.LOCKS", tmp_path / "locks")
        with pytest.raises(WarehouseError, match=r"what it read may be wrong"):
            reader.scalar(COUNT)


def test_a_reader_whose_folder_was_moved_still_holds_its_locks(lake: Lake) -> None:
    write(lake, 5)
    with lake.read() as reader:
        assert reader.scalar(STEPS) == 1
        lake.path.rename(lake.path.parent / "moved")
        assert reader.scalar(STEPS) == 1


def test_behind_a_query_that_failed_one_that_reads_no_table_has_not_lost_the_snapshot(lake: Lake) -> None:
    """Such as one on a frame of the caller's: the reader, opened again, had taken no lock yet."""
    write(lake, 5)
    with warehouse.connect(lake.path) as reader:
        assert reader.scalar(COUNT) == 5
        with pytest.raises(duckdb.ConversionException):
            reader.rows("SELECT 'a'::INTEGER")
        assert [reader.scalar("SELECT 1"), reader.scalar(COUNT)] == [1, 5]


def test_an_answer_that_was_read_without_locks_is_an_error(lake: Lake) -> None:
    write(lake, 5)
    with lake.read() as reader:  # which knows no way back to its snapshot
        assert reader.scalar(COUNT) == 5
        look_by_sqlite3(lake)
        with pytest.raises(WarehouseError, match=r"what it read may be wrong.* warehouse\.attached"):
            reader.scalar(COUNT)
    with warehouse.connect(lake.path) as reader:
        batches = reader.batches("SELECT item_id FROM items", rows=9)
        assert next(batches).num_rows == 5
        look_by_sqlite3(lake)
        with pytest.raises(WarehouseError, match=r"what it read may be wrong"):
            next(batches)
        assert reader.scalar(COUNT) == 5


def test_batches_that_end_after_their_reader_was_closed_ask_for_no_locks(lake: Lake) -> None:
    write(lake, 5)
    with warehouse.connect(lake.path) as reader:
        batches = reader.batches("SELECT item_id FROM items", rows=9)
        assert next(batches).num_rows == 5
    assert list(batches) == []


def test_a_reader_beside_one_whose_locks_are_gone_is_refused(lake: Lake) -> None:
    """SQLite believes that the process has the lock, and takes none."""
    write(lake, 5)
    with lake.read() as other:
        other.scalar(COUNT)
        look_by_sqlite3(lake)
        with pytest.raises(WarehouseError, match="Close the readers of this process"):
            warehouse.connect(lake.path)
    with warehouse.connect(lake.path) as reader:
        assert reader.scalar(COUNT) == 5


def test_a_reader_whose_locks_are_gone_is_closed_before_its_snapshot_is_opened_again(lake: Lake) -> None:
    """Else whoever opens it is beside one whose locks are gone."""

    def again(at: int) -> duckdb.DuckDBPyConnection:
        with warehouse.connect(lake.path) as beside:
            assert beside.scalar(COUNT) == 5
        return connect_checked(lake.path, at=at)

    write(lake, 5)
    with Reader(connect_checked(lake.path), again=again, hold=Hold.on(lake.location)) as reader:
        assert reader.scalar(COUNT) == 5
        look_by_sqlite3(lake)
        assert reader.scalar(STEPS) == 1


def test_a_reader_looks_for_a_failed_transaction_only_behind_a_query_that_failed(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(lake, 5)
    looks: list[object] = []
    monkeypatch.setattr("warehouse.queries.reader._is_aborted", looks.append)
    with warehouse.connect(lake.path) as reader:
        with pytest.raises(duckdb.Error):
            reader.scalar("SELECT nothing")
        assert [reader.scalar(COUNT) for _ in range(3)] == [5, 5, 5]
    assert len(looks) == 1


def test_where_the_system_does_not_tell_of_locks_a_reader_reads(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(lake, 5)
    monkeypatch.setattr("warehouse.catalog.reader_locks._shown", set[Path]())
    (tmp_path / "locks").write_text("1: POSIX  ADVISORY  READ 1 00:2f:7 123 123\n")
    for place in (tmp_path / "locks", tmp_path / "none"):
        monkeypatch.setattr("warehouse.catalog.reader_locks.LOCKS", place)
        with warehouse.connect(lake.path) as reader:
            assert reader.scalar(COUNT) == 5


def test_a_lock_that_is_missing_from_one_look_is_looked_for_again(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where other processes' locks come and go, a line may be missing from what the system gives."""

    class Torn:
        looks = 0

        def read_bytes(self) -> bytes:
            self.looks += 1
            return b"" if self.looks % 3 else Path("/proc/locks").read_bytes()

    write(lake, 5)
    with lake.read() as reader:
        assert reader.scalar(COUNT) == 5
        monkeypatch.setattr("warehouse.catalog.reader_locks.LOCKS", Torn())
        assert [reader.scalar(COUNT) for _ in range(3)] == [5, 5, 5]


def test_a_look_that_misses_a_readers_own_lock_leaves_it_among_those_that_may_be_its_own(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a reader of another snapshot, whose end looked as if the own lock were gone."""

    class Torn:
        looks: Iterator[list[int]]

        def read_bytes(self) -> bytes:
            file, index = (os.stat(f"{lake.catalog}{end}").st_ino for end in ("", "-shm"))
            ranges = [(file, 1073741826, 1073742335), *((index, place, place) for place in next(self.looks))]
            lock = f"1: POSIX  ADVISORY  READ {os.getpid()} 00:1f"
            return "".join(f"{lock}:{inode} {first} {last}\n" for inode, first, last in ranges).encode()

    write(lake, 5)
    with lake.read() as reader:
        torn = Torn()
        monkeypatch.setattr("warehouse.catalog.reader_locks.LOCKS", torn)
        for looks in [[[123, 125]], [[125], [123, 125]], [[123]]]:
            torn.looks = itertools.chain(looks, itertools.repeat(looks[-1]))
            assert reader.scalar(COUNT) == 5


def test_an_attached_warehouse_leaves_readers_their_locks(lake: Lake) -> None:
    write(lake, 5)
    with warehouse.connect(lake.path) as reader, closing(warehouse.attached(lake.path)) as connection:
        assert connection.execute(COUNT).fetchone() == (5,)
        assert upkeep(lake) == "vacuumed: False\n", "the reader holds its locks"
        assert reader.scalar("SELECT count(*) FROM classes") == 0
        assert connection.execute("SELECT count(*) FROM classes").fetchone() == (2,), "the newest snapshot"
        with pytest.raises(duckdb.Error, match="read-only"):
            connection.execute("DELETE FROM items")
        counts: list[object] = []
        ask = COUNT.replace("items", "lake.items")
        with connection.cursor() as cursor:  # as tools give each thread
            asking = threading.Thread(target=lambda: counts.append(cursor.execute(ask).fetchone()))
            asking.start()
            asking.join()
        assert counts == [(5,)]
        assert str(connection.execute("SELECT current_setting('TimeZone')").fetchone()) == "('UTC',)"
