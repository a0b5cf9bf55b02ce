"""Opening a warehouse: what is there, what is not, what is damaged, and what a newer Siftline wrote."""

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from tests.warehouse.test_commit_is_atomic import classes
from warehouse import (
    Append,
    FolderAway,
    Lake,
    SettingsError,
    WarehouseBusy,
    WarehouseError,
    WarehouseNotFound,
    attached,
    connect,
)
from warehouse.errors import SchemaTooNew
from warehouse.files.atomic_file import replaced_file
from warehouse.maintenance.compaction import maintain
from warehouse.schema.tables import SCHEMA_VERSION, TABLES
from warehouse.schema.views import VIEWS


def test_reading_where_there_is_no_warehouse_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(WarehouseNotFound, match="siftline run"):
        Lake(tmp_path / "nowhere", read_only=True)
    with pytest.raises(WarehouseNotFound, match="siftline run"):
        connect(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_catalogue_without_tables_is_a_first_run_at_work_and_with_data_files_a_loss(tmp_path: Path) -> None:
    folder = tmp_path / "lake"
    folder.mkdir()
    with sqlite3.connect(folder / "catalog.sqlite") as catalogue:
        catalogue.execute("PRAGMA journal_mode = WAL")  # it has its first page, as before the tables are committed
    with pytest.raises(WarehouseNotFound, match=r"There is no warehouse in .* yet"):
        connect(folder)
    (folder / "data").mkdir()
    (folder / "data" / "items.parquet").touch()
    with pytest.raises(WarehouseError, match="Bring it back from a backup"):
        connect(folder)
    (folder / "data" / "items.parquet").unlink()
    with Lake(folder) as lake, lake.read() as reader:
        assert reader.scalar("SELECT count(*) FROM items") == 0


KEEP_LOCKED = """
import sqlite3, sys
catalogue = sqlite3.connect(sys.argv[1], isolation_level=None)
for step in ("PRAGMA locking_mode = EXCLUSIVE", "BEGIN IMMEDIATE", "CREATE TABLE other (a)", "ROLLBACK"):
    catalogue.execute(step)
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_catalogue_that_another_program_keeps_locked_is_called_busy_and_not_damaged(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warehouse.catalog.connection.BUSY_TIMEOUT_MS", 10)
    monkeypatch.setattr(
        "warehouse.catalog.connection.catalog_faults", lambda *_: []
    )  # it waits 10 s, and then finds none
    command = [sys.executable, "-c", KEEP_LOCKED, str(lake.catalog)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "locked\n"
        for opened in (connect, Lake):
            with pytest.raises(WarehouseBusy, match=r"keeps the catalogue .*catalog.sqlite locked.*no sign of damage"):
                opened(lake.path)
        other.stdin.close()
    with connect(lake.path) as reader:
        assert reader.scalar("SELECT count(*) FROM items") == 0


def test_a_folder_that_is_moved_while_it_is_open_is_whole_and_is_not_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warehouse.commits.transaction.PATIENCE_S", 0.0)
    with Lake(tmp_path / "project" / "lake") as lake, lake.stage("one", version=1, inputs=()) as first:
        assert first.commit([Append("classes", classes("a"))]).committed
        assert maintain(lake).rows_flushed
        with lake.read() as reader, lake.stage("two", version=1, inputs=()) as stage:
            (tmp_path / "project").rename(tmp_path / "moved")
            # What is open has its snapshot as before, but for what lies in data files.
            assert reader.scalar("SELECT count(*) FROM classes") == 1
            for asks in (
                lambda: reader.scalar("SELECT max(name) FROM classes"),
                lake.read,
                lambda: stage.commit([Append("classes", classes("b"))]),
            ):
                with pytest.raises(FolderAway, match="run again where it is now"):
                    asks()
        with pytest.raises(SettingsError, match="moved or removed"), replaced_file(lake.path.parent / "runs.json"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]
    with connect(tmp_path / "moved" / "lake") as reader:
        assert reader.rows("SELECT name FROM classes") == [("a",)]


def test_a_place_may_be_a_string(lake: Lake) -> None:
    with Lake(str(lake.path), create=False) as again, again.read() as reader:
        assert reader.scalar("SELECT count(*) FROM classes") == 0


def test_every_table_view_and_column_has_its_comment(lake: Lake) -> None:
    with lake.read() as reader:
        tables = dict(reader.rows("SELECT table_name, comment FROM duckdb_tables() WHERE database_name = 'lake'"))
        views = dict(reader.rows("SELECT view_name, comment FROM duckdb_views() WHERE database_name = 'lake'"))
        columns = reader.rows(
            "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE database_name = 'lake'"
        )
    assert tables == {t.name: t.comment for t in TABLES}
    assert {v.name: v.comment for v in VIEWS}.items() <= views.items()
    commented = {(table, column): comment for table, column, comment in columns}
    for table in TABLES:
        for column in table.all_columns:
            assert commented[table.name, column.name] == column.comment


@pytest.mark.parametrize("view", [v.name for v in VIEWS])
def test_every_view_answers_on_an_empty_warehouse(lake: Lake, view: str) -> None:
    with lake.read() as reader:
        assert reader.rows(f"SELECT * FROM {view}") == []


def test_a_newer_schema_is_refused_in_words(lake: Lake) -> None:
    newer = pa.table({"version": pa.array([SCHEMA_VERSION + 1], pa.int32()), "effect": ["from the future"]})
    with lake.stage("migrate", version=1, inputs=()) as stage:
        stage.commit([Append("schema_migrations", newer)])
    for read_only in (False, True):
        with pytest.raises(SchemaTooNew, match="or a newer one"):
            Lake(lake.path, read_only=read_only)
    for at in (None, lake.snapshot()):
        with pytest.raises(SchemaTooNew, match="or a newer one"):
            connect(lake.path, at=at)
    with pytest.raises(SchemaTooNew, match="or a newer one"):
        attached(lake.path)


def test_a_damaged_catalogue_is_named(lake: Lake) -> None:
    catalog = lake.catalog
    lake.close()
    for path in catalog.parent.glob("catalog.sqlite*"):
        path.write_bytes(b"not a database" * 100)
    with pytest.raises(WarehouseError, match=r"catalog\.sqlite"):
        Lake(catalog.parent)


def test_a_damaged_data_file_is_named_and_never_read_as_rows(lake: Lake) -> None:
    from tests.warehouse.test_commit_is_atomic import items

    with lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Append("items", items(500))])
    [path] = (lake.path / "data" / "main" / "items").glob("*.parquet")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = b"\0" * (len(content) - len(content) // 2)
    path.write_bytes(content)
    damaged = pytest.raises(duckdb.Error, match=path.name)
    with Lake(lake.path, read_only=True) as reading, reading.read() as reader, damaged:
        reader.rows("SELECT * FROM items")


def test_the_folder_is_for_its_owner_only(lake: Lake) -> None:
    assert stat.S_IMODE(lake.path.stat().st_mode) == 0o700


def test_the_catalogue_is_in_wal_mode(lake: Lake) -> None:
    """Without it readers and writers lock each other out."""
    with sqlite3.connect(lake.catalog) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_warehouse_that_was_moved_reads_and_writes_in_its_new_place(lake: Lake, tmp_path: Path) -> None:
    from tests.warehouse.test_commit_is_atomic import classes, items

    with lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Append("items", items(500))])
    lake.close()
    moved = lake.path.rename(tmp_path / "elsewhere")
    with Lake(moved) as opened:
        with opened.stage("more", version=1, inputs=()) as stage:
            stage.commit([Append("classes", classes("a"))])
        with opened.read() as reader:
            assert reader.scalar("SELECT count(DISTINCT content) FROM items") == 500
    assert not lake.path.exists()
    with Lake(moved, read_only=True) as opened, opened.read() as reader:
        assert reader.scalar("SELECT count(*) FROM classes") == 1


def test_reading_leaves_the_mask_of_the_process(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the whole process's: what another thread of a service made meanwhile was closed to its readers."""
    lake.close()
    before = os.umask(0)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, "umask", lambda _: pytest.fail("changed"))  # pyright: ignore[reportUnknownLambdaType]
            with connect(lake.path) as reader:
                reader.rows("SELECT count(*) FROM items")
                made = [path for path in lake.path.iterdir() if path.name.startswith("catalog.sqlite-")]
                assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o600}
    finally:
        os.umask(before)
