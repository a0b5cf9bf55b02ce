"""Views of an existing warehouse become those of the code that writes it, in one snapshot; newer ones stay."""

import hashlib
from pathlib import Path

import pytest

from tests.warehouse.test_commit_is_atomic import classes, items
from warehouse import Lake, Upsert, WarehouseError, connect
from warehouse.commits.history import snapshots
from warehouse.schema.migrations import VERSION_VIEW
from warehouse.schema.views import VIEWS, VIEWS_VERSION

PINNED = {
    2: "17e86174271b08b2",
    3: "6ab01f10823ce49a",
    4: "22d0d05dbaa1253b",
    5: "85dd3cb910809ddc",
    6: "81f8e826026f4668",
    7: "c71d5e0266500db2",
    8: "adabcfa5a26eda6c",
    9: "fdfea67c88590186",
    10: "ed9b567465ce1022",
    11: "bcc982341c4db3ba",
    12: "29d62d36e1472558",
    13: "8612c862b5ea0ef0",
    14: "1dfb28a043df5f8d",
    15: "fec1f8b68c42e2e2",
    16: "531fe8623182385b",
    17: "e5440a7bc0ee3017",
    18: "bf84fd7306688891",
    19: "64ade3160fb0a79b",
}
"""Hash of the views' text by version."""

OLDER = "SELECT item_id, 'older' AS split FROM items"


def texts(path: Path) -> dict[str, str]:
    with connect(path) as reader:
        return dict(reader.rows("SELECT view_name, sql FROM duckdb_views() WHERE database_name = 'lake'"))


def with_views_of(lake: Lake, version: int | None) -> None:
    """Leave the warehouse as code of another version left it: `training_set` reads otherwise. None: had no version."""
    with lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Upsert("items", items(20)), Upsert("classes", classes("a", "b"))])
    cursor = lake.new_cursor()
    cursor.execute("BEGIN TRANSACTION")
    cursor.execute(f"CREATE OR REPLACE VIEW training_set AS {OLDER}")
    cursor.execute("CREATE VIEW mine AS SELECT count(*) AS n FROM training_set")
    cursor.execute(f"DROP VIEW {VERSION_VIEW}")
    if version is not None:
        cursor.execute(f"CREATE VIEW {VERSION_VIEW} AS SELECT {version} AS version")
    cursor.execute("COMMIT")
    cursor.close()


def test_the_version_is_raised_with_every_change_of_a_view() -> None:
    words = [" ".join(f"{view.name} {view.comment} {view.sql}".split()) for view in VIEWS]
    found = hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
    assert PINNED[VIEWS_VERSION] == found, (
        f"raise VIEWS_VERSION in warehouse/schema/views.py and pin {found} for it here"
    )


@pytest.mark.parametrize("version", [None, VIEWS_VERSION - 1])
def test_older_views_become_those_of_the_code_once_it_writes(lake: Lake, version: int | None) -> None:
    current = texts(lake.path)
    with_views_of(lake, version)
    before = lake.snapshot()
    with Lake(lake.path, read_only=True) as reading:
        assert reading.snapshot() == before, "a reader changes nothing"
    with lake.read() as earlier:
        assert earlier.scalar("SELECT count(*) FROM training_set WHERE split = 'older'") == 20
        Lake(lake.path).close()
        assert earlier.scalar("SELECT count(*) FROM training_set WHERE split = 'older'") == 20
    found = texts(lake.path)
    assert {name: text for name, text in found.items() if name != "mine"} == current
    with connect(lake.path) as reader:
        assert reader.scalar("SELECT n FROM mine") == 0, "a person's own view stays, and no item has a label"
        newest = snapshots(reader, limit=1)[0]
    assert newest.number == before + 1
    assert newest.message == f"views {VIEWS_VERSION}: training_set, view_version made anew"
    Lake(lake.path).close()
    assert lake.snapshot() == before + 1, "it is done once"
    with connect(lake.path, at=before) as past:
        assert past.scalar("SELECT count(*) FROM training_set WHERE split = 'older'") == 20


def test_newer_views_stay_when_older_code_writes(lake: Lake) -> None:
    with_views_of(lake, VIEWS_VERSION + 1)
    before = texts(lake.path)
    with Lake(lake.path) as older, older.stage("more", version=1, inputs=()) as stage:
        assert stage.commit([Upsert("classes", classes("c"))]).committed
    assert texts(lake.path) == before


def test_views_that_cannot_be_made_leave_the_old_ones(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    with_views_of(lake, None)
    before = texts(lake.path)
    with monkeypatch.context() as broken:
        broken.setattr("warehouse.schema.migrations.quote", lambda text: "no text")
        with pytest.raises(WarehouseError, match='syntax error at or near "no"'):
            Lake(lake.path)
    assert texts(lake.path) == before
