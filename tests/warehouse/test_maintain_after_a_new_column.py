"""Upkeep of a PostgreSQL catalogue that holds small commits from before and after a table got a column.

DuckLake drops the tables that held rows of the older schema once they are in files, and waits for their readers.
"""

import contextlib
from pathlib import Path

import pytest

from tests.warehouse.test_commit_is_atomic import items
from warehouse import Lake, Location, Upsert, WarehouseBusy, WarehouseError, connect
from warehouse.maintenance import compaction as maintain_steps
from warehouse.maintenance.compaction import maintain
from warehouse.storage.checksums import verify


def of_two_schemas(place: Location) -> None:
    """A warehouse whose catalogue holds small commits from before and after a column came."""
    with Lake(place) as lake:
        for rows in (5, 7):
            with lake.stage("ingest", version=rows, inputs=()) as stage:
                stage.commit([Upsert("items", items(rows))])
            if rows == 5:
                with contextlib.closing(lake.new_cursor()) as cursor:
                    cursor.execute("ALTER TABLE items ADD COLUMN more VARCHAR")


def test_upkeep_does_not_wait_for_readers_of_an_older_schema(tmp_path: Path, postgres: str) -> None:
    """DuckLake drops the tables that held such rows, and nobody could write while it waited for a notebook."""
    place = Location(folder=tmp_path / "lake", catalog=postgres)
    of_two_schemas(place)
    with Lake(place) as lake:
        with connect(place) as reader:
            assert reader.scalar("SELECT count(*) FROM items") == 7
            with pytest.raises(WarehouseBusy, match=r"PostgreSQL process \d+\)"):
                maintain(lake)
        assert maintain(lake).rows_flushed >= 7
        with connect(place) as reader:
            assert reader.scalar("SELECT count(*) FROM items") == 7
            maintain(lake)  # nothing is of an older schema any more


def test_a_flush_that_landed_and_is_called_failed_loses_no_file(
    tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it, DuckLake drops the tables that held rows of an older schema, and waits for their readers. Where the
    server ended that wait, DuckDB removed the files that the catalogue named by then.
    """
    monkeypatch.setattr(maintain_steps, "_refuse_readers_of_an_older_schema", lambda _: None)  # it came after the look
    place = Location(folder=tmp_path / "lake", catalog=postgres)
    of_two_schemas(place)
    with connect(place) as reader:
        assert reader.scalar("SELECT count(*) FROM items") == 7
        impatient = Location(folder=place.folder, catalog=f"{postgres} options='-c lock_timeout=100'")
        with Lake(impatient) as lake, contextlib.suppress(WarehouseError):
            maintain(lake)
    assert verify(place).damaged == ()
    with connect(place) as reader:
        assert len(reader.rows("SELECT * FROM items")) == 7
