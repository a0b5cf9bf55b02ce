"""Upkeep that is told a number of days leaves no deleted row in a file, and writes a file anew no more often."""

import contextlib
import re
import shlex
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.projects import ROOT
from tests.warehouse.servers import S3, Postgres
from tests.warehouse.test_commit_is_atomic import items
from tests.warehouse.test_maintain import dated
from warehouse import Append, Delete, Lake, Location, Upsert
from warehouse.maintenance.compaction import maintain

ITEMS = 200
WORD = "zz-mombasa"
"""It is the greatest of all texts, so that the ranges of the columns in the catalogue tell of it."""


def commit(lake: Lake, number: int, write: Append | Delete | Upsert) -> None:
    with lake.stage("test", version=number, inputs=()) as stage:
        stage.commit([write])


def filled(lake: Lake) -> None:
    """One file of many items; the text of the first has to go."""
    rows = items(ITEMS)
    texts = [WORD, *rows["content"].to_pylist()[1:]]
    commit(lake, 1, Append("items", rows.set_column(rows.column_names.index("content"), "content", [texts])))


def delete(lake: Lake, place: int) -> None:
    commit(lake, 10 + place, Delete("items", pa.table({"item_id": items(ITEMS)["item_id"].slice(place, 1)})))


def in_files(lake: Lake) -> int:
    """How many files hold the word."""
    paths = (lake.path / "data" / "main" / "items").glob("*.parquet")
    tables = [pq.read_table(path) for path in paths]
    return sum(WORD in table["content"].to_pylist() for table in tables if "content" in table.column_names)


def in_catalogue(lake: Lake) -> int:
    """How many ranges of columns begin or end with the word."""
    with contextlib.closing(lake.new_cursor()) as cursor:
        found = 0
        for kind in ("file", "table"):
            table = f"__ducklake_metadata_lake.ducklake_{kind}_column_stats"
            row = cursor.execute(f"SELECT count(*) FROM {table} WHERE ? IN (min_value, max_value)", [WORD]).fetchone()
            found += int(row[0]) if row else 0
        return found


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_row_of_many_is_gone_from_files_and_catalogue(
    how: str, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    catalog = "sqlite" if kind == "sqlite" else request.getfixturevalue("postgres")
    with Lake(Location(folder=tmp_path / "lake", catalog=catalog)) as lake:
        filled(lake)
        maintain(lake)
        first = items(1)
        commit(lake, 2, Upsert("items", first) if how == "replaced" else Delete("items", first.select(["item_id"])))
        assert in_files(lake)
        assert in_catalogue(lake)
        maintain(lake, expire_older_than_days=0, grace_h=0)
        assert (in_files(lake), in_catalogue(lake)) == (0, 0)
        with lake.read() as reader:
            assert reader.scalar("SELECT count(*) FROM items") == ITEMS - (how == "deleted")
        assert maintain(lake, expire_older_than_days=0, grace_h=0).files_rewritten == 0, "what is clean stays"


def test_nothing_is_left_in_a_bucket_and_in_the_files_of_postgresql(
    tmp_path: Path, postgres_server: Postgres, s3: S3
) -> None:
    """Its planner keeps samples of the columns' ranges; `vacuum full` alone copies these."""
    page = (ROOT / "docs" / "operations.md").read_text("utf-8").partition("## A record that has to go\n")[2]
    ((command, named),) = re.findall(r'^ *(psql .*)"(dbname=.*?)"  #', page, re.MULTILINE)
    catalog = postgres_server.fresh()
    database = catalog.removeprefix("postgres:")
    assert set(named.split()) >= {"dbname=tickets", "user=siftline"}

    def tell(folder: Path) -> list[Path]:
        return [path for path in folder.rglob("*") if path.is_file() and WORD.encode() in path.read_bytes()]

    with Lake(Location(folder=tmp_path / "lake", catalog=catalog, data="s3://bucket/left")) as lake:
        filled(lake)
        subprocess.run(
            ["psql", "--quiet", "--command", "analyze", database], check=True
        )  # as the server does now and then
        commit(lake, 2, Upsert("items", items(1)))
        maintain(lake, expire_older_than_days=0, grace_h=0)
    # The server has databases of other tests too, with the same word.
    number = "select oid from pg_database where datname = current_database()"
    asked = subprocess.run(
        ["psql", "--tuples-only", "--no-align", "--command", number, database],
        check=True,
        capture_output=True,
        text=True,
    )
    files = postgres_server.folder / "data" / "base" / asked.stdout.strip()
    subprocess.run(["psql", "--quiet", "--command", "checkpoint", database], check=True)
    assert tell(files), "the case is there"
    subprocess.run([*shlex.split(command), "--quiet", database], check=True)
    subprocess.run(["psql", "--quiet", "--command", "checkpoint", database], check=True)
    assert tell(files) == []
    stored = [str(pq.read_table(path)["content"]) for path in (s3.folder / "bucket" / "left").rglob("items/*.parquet")]
    assert stored
    assert not any(WORD in texts for texts in stored)
    assert not (tmp_path / "lake" / "data").exists()


def test_a_file_is_written_anew_when_its_oldest_deletion_is_older_than_the_days(lake: Lake) -> None:
    filled(lake)
    maintain(lake)
    delete(lake, 0)
    first = lake.snapshot()
    delete(lake, 1)
    assert maintain(lake, expire_older_than_days=1).files_rewritten == 0
    assert in_files(lake) == 1
    dated(lake, "ducklake_snapshot", "snapshot_time", "25 hours", f"snapshot_id <= {first}")
    assert maintain(lake, expire_older_than_days=1).files_rewritten == 1
    rewritten = lake.snapshot()
    delete(lake, 2)
    assert maintain(lake, expire_older_than_days=1).files_rewritten == 0, "not each night"
    dated(lake, "ducklake_snapshot", "snapshot_time", "25 hours", f"snapshot_id <= {rewritten}")
    maintain(lake, expire_older_than_days=1, grace_h=0)
    assert in_files(lake) == 0
