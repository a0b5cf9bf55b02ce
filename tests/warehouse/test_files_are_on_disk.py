"""A power failure after a commit loses nothing: data files are synced before the catalogue names them."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from tests.warehouse.test_commit_is_atomic import count, items
from tests.warehouse.test_migrations import released
from warehouse import Append, Delete, Lake, Upsert
from warehouse.errors import DiskFull
from warehouse.maintenance.compaction import maintain
from warehouse.storage.checksums import verify


def recorded(monkeypatch: pytest.MonkeyPatch, newest: Callable[[], int]) -> dict[Path, int]:
    """Where every sync of this process is noted, with the newest snapshot at that moment."""
    synced: dict[Path, int] = {}
    sync = os.fsync

    def noting(handle: int) -> None:
        sync(handle)
        synced[Path(os.readlink(f"/proc/self/fd/{handle}"))] = newest()

    monkeypatch.setattr(os, "fsync", noting)
    return synced


def files(lake: Lake) -> set[Path]:
    return set((lake.path / "data").rglob("*.parquet"))


def test_the_files_of_a_commit_are_synced_before_it_is_one(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = recorded(monkeypatch, lake.snapshot)
    for name, write in (
        ("add", Append("items", items(500))),
        ("edit", Upsert("items", items(30, "edited"))),
        ("remove", Delete("items", pa.table({"item_id": [f"i{n:05d}" for n in range(100, 200)]}))),
    ):
        before, known = lake.snapshot(), files(lake)
        synced.clear()
        with lake.stage(name, version=1, inputs=()) as stage:
            stage.commit([write])
        new = files(lake) - known
        assert new
        folders = {folder for path in new for folder in list(path.parents)[:3]}
        assert {path: synced.get(path) for path in new | folders} == dict.fromkeys(new | folders, before)


class CalledFailed:
    """A cursor whose first COMMIT lands and is called failed, as where a server's answer is lost: DuckDB removes the
    files. Of a real server the moment is too short to be met.
    """

    def __init__(self, cursor: duckdb.DuckDBPyConnection, new: Callable[[], set[Path]]) -> None:
        self._cursor, self._new = cursor, new

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, query: str, *values: object) -> object:
        done = self._cursor.execute(query, *values)
        if query == "COMMIT":
            for path in self._new():
                path.unlink()
            raise duckdb.Error("database is locked")
        return done


def test_a_commit_that_landed_and_is_called_failed_loses_no_file(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    new_cursor, known = lake.new_cursor, files(lake)
    made = list[CalledFailed]()

    def once(*, begin: bool = False) -> Any:
        cursor = new_cursor(begin=begin)
        if begin and not made:
            made.append(CalledFailed(cursor, lambda: files(lake) - known))
            return made[0]
        return cursor

    with lake.stage("add", version=1, inputs=()) as stage:
        monkeypatch.setattr(lake, "new_cursor", once)
        assert stage.commit([Append("items", items(500))]).committed
    assert made
    assert count(lake, "items") == 500
    found = verify(lake.location)
    assert (found.damaged, found.unnoted) == ((), 0)


def test_the_files_of_upkeep_are_synced(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        with lake.stage("ingest", version=number, inputs=()) as stage:
            stage.commit([Append("items", items(100 * (number + 1)).slice(100 * number))])
    known = files(lake)
    synced = recorded(monkeypatch, lambda: 0)
    assert maintain(lake).files_made
    new = files(lake) - known
    assert new
    assert new <= synced.keys()


def test_the_files_and_folders_of_a_partitioned_table_are_synced(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of ours is; whoever partitions one by hand gets folders below the table's."""
    cursor = lake.new_cursor()
    cursor.execute("ALTER TABLE items SET PARTITIONED BY (split)")
    cursor.close()
    synced = recorded(monkeypatch, lake.snapshot)
    with lake.stage("add", version=1, inputs=()) as stage:
        stage.commit([Append("items", items(500))])
    [file] = files(lake)
    assert file.parent.name == "split=train"
    assert {file, file.parent, file.parent.parent} <= {path for path, when in synced.items() if when < lake.snapshot()}


def test_the_files_of_a_migration_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = released(1, tmp_path / "old")
    known = set((path / "data").rglob("*.parquet"))
    synced = recorded(monkeypatch, lambda: 0)
    with Lake(path) as lake:
        assert files(lake) - known <= synced.keys()
        assert files(lake) - known


def test_a_disk_that_turns_out_full_at_the_sync_ends_in_words_and_writes_nothing(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken, lake.stage("ingest", version=1, inputs=()) as stage:
        broken.setattr(os, "fsync", full)
        with pytest.raises(DiskFull, match="nothing was written"):
            stage.commit([Append("items", items(500))])
    assert count(lake, "items") == 0
    assert files(lake) == set()
    with lake.stage("ingest", version=1, inputs=()) as stage:
        assert stage.commit([Append("items", items(500))]).committed
