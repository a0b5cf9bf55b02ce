"""A warehouse of every released schema opens, migrates once with a record, and keeps its rows and its past."""

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.warehouse.test_commit_is_atomic import classes
from warehouse import Lake, Reader, SchemaTooOld, Upsert
from warehouse.catalog.connection import connect
from warehouse.catalog.location import locate
from warehouse.maintenance.compaction import maintain
from warehouse.schema.migrations import MIGRATIONS
from warehouse.schema.tables import SCHEMA_VERSION, TABLES
from warehouse.schema.views import VIEWS

FIXTURES = Path(__file__).parent / "fixtures"
RELEASED = sorted(int(p.name.removeprefix("schema_")) for p in FIXTURES.glob("schema_*"))


def released(version: int, folder: Path) -> Path:
    """A warehouse of a released schema, in a place of its own."""
    source = FIXTURES / f"schema_{version}"
    shutil.copytree(source, folder)
    with sqlite3.connect(folder / "catalog.sqlite") as catalog:
        catalog.execute("PRAGMA journal_mode = WAL")  # a dump does not keep it
        catalog.executescript((folder / "catalog.sql").read_text(encoding="utf-8"))
    catalog.close()
    (folder / "catalog.sql").unlink()
    return folder


def shape(lake: Lake) -> tuple[set[tuple[str, ...]], set[tuple[str, str]]]:
    with lake.read() as reader:
        columns = reader.rows(
            "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() WHERE database_name = 'lake'"
        )
        views = reader.rows("SELECT view_name, sql FROM duckdb_views() WHERE database_name = 'lake'")
    return set(columns), set(views)


def test_every_released_schema_has_its_fixture() -> None:
    assert set(range(1, SCHEMA_VERSION)) <= set(RELEASED)


@pytest.mark.parametrize("version", RELEASED)
def test_a_released_schema_migrates_once_to_the_shape_of_a_new_one_and_keeps_its_rows_and_its_past(
    version: int, lake: Lake, tmp_path: Path
) -> None:
    path = released(version, tmp_path / "old")
    if version < SCHEMA_VERSION:
        with pytest.raises(SchemaTooOld, match="siftline run"):
            Lake(path, read_only=True)
    with Lake(path) as old:
        assert shape(old) == shape(lake)
        with old.read() as reader:
            steps = reader.rows("SELECT version, effect FROM schema_migrations ORDER BY version")
            assert [number for number, _ in steps] == list(range(version, SCHEMA_VERSION + 1))
            assert all(effect for _, effect in steps)
            message = reader.scalar("SELECT commit_message FROM lake.snapshots() ORDER BY snapshot_id DESC LIMIT 1")
            assert all(effect in message for number, effect in steps if number > version)
            for view in VIEWS:
                reader.rows(f"SELECT * FROM {view.name}")
            keeps_rows_and_past(reader, version)
        before = old.snapshot()
        with old.stage("ingest", version=9, inputs=()) as stage:
            assert stage.commit([Upsert("classes", classes("new", "names"))]).committed
    with Lake(path) as again:
        assert again.snapshot() == before + 1
    with Lake(path, read_only=True) as reading, reading.read() as reader:
        assert reader.rows("SELECT name FROM classes ORDER BY class_id") == [("new",), ("names",)]


def keeps_rows_and_past(reader: Reader, version: int) -> None:
    assert reader.scalar("SELECT count(*) FROM items") == 19
    assert reader.rows("SELECT DISTINCT split_part(content, ' ', 1), count(*) FROM items GROUP BY 1 ORDER BY 1") == [
        ("edited", 2),
        ("text", 17),
    ]
    assert reader.scalar("SELECT count(*) FROM vectors WHERE len(vector) = 4") == 20
    unknown = reader.scalar("SELECT count(*) FROM runs WHERE author = '' AND content_hash = '{}'")
    assert unknown == (4 if version == 1 else 0)
    assert reader.scalar("SELECT count(*) FROM items AT (VERSION => 2)") == 20
    assert reader.scalar("SELECT count(*) FROM lf_votes AT (VERSION => 4)") == 40


@pytest.mark.parametrize("version", RELEASED)
def test_maintenance_may_be_what_migrates(version: int, tmp_path: Path) -> None:
    folder = released(version, tmp_path / "old")
    with contextlib.closing(connect(folder, read_only=False)) as before:  # rows in the catalogue, and some deleted
        for number in range(2):
            before.execute("INSERT INTO items (item_id) VALUES (?), (?)", [f"a{number}", f"b{number}"])
        before.execute("DELETE FROM items WHERE item_id LIKE 'b%'")
        kept = before.execute("SELECT item_id FROM items ORDER BY ALL").fetchall()
    with Lake(folder) as old:
        assert maintain(old).rows_flushed > 0
        with old.read() as reader:
            assert reader.rows("SELECT item_id FROM items ORDER BY ALL") == kept


def test_abstains_of_schema_1_become_reach(tmp_path: Path) -> None:
    path = released(1, tmp_path / "old")
    with contextlib.closing(connect(locate(path), read_only=False)) as older:
        older.execute("DELETE FROM lake.lf_votes WHERE item_id = 'i00000' AND lf_name = 'long'")
        older.execute("UPDATE lake.lf_votes SET input_hash = 'edited' WHERE item_id = 'i00001' AND lf_name = 'long'")
        older.execute("UPDATE lake.lf_votes SET lf_version = 'former' WHERE item_id = 'i00002' AND lf_name = 'long'")
        older.execute("UPDATE lake.lf_votes SET vote = 0 WHERE item_id > 'i00009' AND vote = 1")
        before = set(older.execute("SELECT item_id, lf_name, vote FROM lake.lf_votes").fetchall())
    with Lake(path) as lake, lake.read() as reader:
        after = set(reader.rows("SELECT item_id, lf_name, vote FROM lf_applied"))
        # All are called again on items that one has not seen as they were, and one of two versions on every item.
        assert after == {row for row in before if row[0] > "i00001" and row[1] == "short"}
        assert {vote for *_, vote in after} == {-1, 0, 1}
        assert reader.scalar("SELECT count(*) FROM lf_votes WHERE vote < 0") == 0


def test_schema_6_knows_which_texts_people_did_not_see(tmp_path: Path) -> None:
    path = released(5, tmp_path / "old")
    with contextlib.closing(connect(locate(path), read_only=False)) as older:
        older.execute("USE lake")
        older.execute(
            "INSERT INTO asked_before (item_id, project, round, task_id, content_hash, why) "
            "VALUES ('i00002', 'p', 1, 'first', 'another', 'edited')"
        )
        for item, seen, task in (
            ("i00000", "'another'", ""), ("i00001", "content_hash", ""), ("i00002", "content_hash", "first")
        ):  # fmt: skip
            older.execute(
                "INSERT INTO queue (item_id, project, state, content_hash, task_id) "
                f"SELECT item_id, 'p', 'answered', {seen}, '' FROM items WHERE item_id = ?",
                [item],
            )
            older.execute(
                "INSERT INTO annotations (item_id, project, annotation_id, task_id, annotator, class_id, action) "
                "VALUES (?, 'p', ?, ?, 'x', 0, 'labelled')",
                [item, item, task],
            )
        gold = older.execute("SELECT item_id FROM gold_labels").fetchall()
    assert gold == [("i00001",)]
    with Lake(path) as lake, lake.read() as reader:
        changed = reader.rows("SELECT item_id FROM items WHERE changed_at IS NOT NULL ORDER BY item_id")
        assert changed == [("i00000",), ("i00002",)]
        assert reader.rows("SELECT item_id FROM gold_labels") == gold
        effect = reader.scalar("SELECT effect FROM schema_migrations WHERE version = 6")
    assert "filled for the 2 with" in effect


def test_a_step_that_fails_leaves_the_warehouse_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = released(1, tmp_path / "old")

    def refuse(*_: object) -> str:
        raise ValueError("no")

    with monkeypatch.context() as broken:
        broken.setattr("warehouse.schema.migrations._replace_views", refuse)
        with pytest.raises(ValueError, match="no"):
            Lake(path)
    with Lake(path) as lake, lake.read() as reader:
        assert reader.scalar("SELECT count(*) FROM schema_migrations") == SCHEMA_VERSION
        assert {m.version for m in MIGRATIONS} <= {v for (v,) in reader.rows("SELECT version FROM schema_migrations")}


def test_the_schema_names_every_table_once() -> None:
    assert len({t.name for t in TABLES}) == len(TABLES)
