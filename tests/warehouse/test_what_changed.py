"""History: the list of commits, and which labels differ between two of them and why."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

import warehouse
from tests.flows.report_lake import CLASSES, add_items, full_lake
from tests.warehouse.test_migrations import RELEASED, released
from warehouse import Append, Delete, Lake, SnapshotNotFound, Upsert, matrix_to_list_array
from warehouse.commits.history import compare, snapshots
from warehouse.commits.transaction import author
from warehouse.schema.tables import SCHEMA_VERSION


def up(table: str, **columns: list[object]) -> Upsert:
    return Upsert(table, pa.table(columns))


def commit(lake: Lake, name: str, *writes: Append | Upsert | Delete) -> int:
    with lake.stage(name, version=1, inputs=()) as stage:
        stage.commit(writes)
    return lake.snapshot()


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    with full_lake(tmp_path_factory.mktemp("changed") / "lake") as opened:
        yield opened


def answer(item: str, label: int, *, who: str = "ada", action: str = "labelled", at: datetime | None = None) -> Append:
    now = at or datetime.now(UTC)
    row = {"annotation_id": f"{who}{item}", "item_id": item, "project": "p <b>", "task_id": "t", "annotator": who}
    row |= {
        "action": action,
        "class_id": label,
        "simulated": False,
        "created_at": now,
        "updated_at": now,
        "seconds": 1.0,
    }
    return Append("annotations", pa.Table.from_pylist([row]))


def predict(model: str, sequence: int, labels: dict[str, int]) -> tuple[Upsert, Upsert]:
    import numpy as np

    n = len(labels)
    probs = matrix_to_list_array(np.full((n, 3), 1 / 3, np.float32))
    made = up("models", model_id=[model], stage=["end_model"], kind=["k"], gold_labels=[20], items=[40],
              sequence=[sequence], detail=["{}"])  # fmt: skip
    rows = pa.table({"item_id": list(labels), "end_model_id": [model] * n, "probs": probs,
                     "class_id": list(labels.values()), "confidence": [0.8] * n})  # fmt: skip
    return made, Upsert("predictions", rows)


def test_the_list_tells_time_author_message_and_rows(lake: Lake) -> None:
    with warehouse.connect(lake.path) as reader:
        found = snapshots(reader)
        assert [s.number for s in snapshots(reader, limit=2)] == [s.number for s in found[:2]]
        written = dict(reader.rows("SELECT stage, rows_written::JSON->>'items' FROM runs WHERE stage = 'ingest'"))
    assert [s.number for s in found] == sorted((s.number for s in found), reverse=True)
    ingest = next(s for s in found if s.message.startswith("ingest"))
    assert ingest.rows["items"] == int(written["ingest"]) == 90
    assert ingest.author == author()
    assert "created" in found[-1].message


def test_every_changed_label_has_the_cause_that_changed_it(lake: Lake) -> None:
    before = lake.snapshot()
    ids = [f"i{n:03d}" for n in range(90)]
    old = {item: n % 3 for n, item in enumerate(ids)}
    new = dict(old) | {"i030": 1, "i031": 2, "i033": 2, "n001": 0, "i089": 1}
    with lake.read() as reader:
        edited = reader.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM items WHERE item_id = 'i031'")
    index = edited.column_names.index("content_hash")
    edited = edited.set_column(index, "content_hash", pa.array(["other"]))
    added = edited.set_column(0, "item_id", pa.array(["n001"]))
    votes = up("lf_votes", item_id=["i033"], lf_name=["lf_ship"], lf_version=["2"], input_hash=["h"], vote=[2])
    gone = Delete("items", pa.table({"item_id": ["i088"]}))
    after = commit(
        lake, "everything", *predict("m9", 9, new), Upsert("items", edited), Upsert("items", added), votes, gone,
        answer("i040", 0), answer("i041", old["i041"]),
    )  # fmt: skip
    found = compare(lake.path, before, after)
    causes = {
        row["item_id"]: (row["label_before"], row["label_after"], row["cause"]) for row in found.changes.to_pylist()
    }
    assert causes == {
        "i030": (CLASSES[0], CLASSES[1], "model changed"),
        "i031": (CLASSES[1], CLASSES[2], "text edited"),
        "i033": (CLASSES[0], CLASSES[2], "votes changed"),
        "i040": (CLASSES[1], CLASSES[0], "gold given"),
        "i041": (CLASSES[2], CLASSES[2], "gold given"),
        "i088": (CLASSES[1], None, "item removed"),
        "i089": (CLASSES[2], CLASSES[1], "model changed"),
        "n001": (None, CLASSES[0], "item added"),
    }
    reasons = {row["item_id"]: row["reason"] for row in found.changes.to_pylist()}
    assert reasons["i040"] == "labelled grain by ada"
    assert reasons["i033"].startswith("votes of lf_ship differ")
    assert reasons["i030"] == "end model m2 became m9"
    assert found.models == [("end_model", "m2", 16, "m9", 20)]
    assert [(name, new_version) for name, _, new_version in found.functions] == [("lf_ship", "2")]
    assert (found.confirmed, found.left_alone) == (1, 0)
    assert dict(found.causes())["model changed"] == 2
    backwards = compare(lake.path, after, before)
    assert backwards.changes.num_rows == found.changes.num_rows
    assert (backwards.confirmed, backwards.left_alone) == (0, 1)

    withdrawn = commit(lake, "withdraw", answer("i040", -1, action="deleted"))
    [row] = compare(lake.path, after, withdrawn).changes.to_pylist()
    assert (row["cause"], row["label_before"], row["label_after"]) == ("gold withdrawn", CLASSES[0], CLASSES[1])


def test_an_answer_lost_to_an_edit_is_named_though_the_model_says_the_same(lake: Lake) -> None:
    with lake.read() as reader:
        edited = reader.arrow(
            """
            SELECT i.* EXCLUDE (run_id, committed_at) REPLACE ('other' AS content_hash, now() AS changed_at)
            FROM items i JOIN gold_labels g USING (item_id) JOIN latest_predictions p USING (item_id)
            JOIN queue q ON q.item_id = i.item_id AND q.content_hash = i.content_hash
            WHERE p.class_id = g.class_id ORDER BY item_id LIMIT 1
            """
        )
        [item_id] = edited.column("item_id").to_pylist()
        label = reader.scalar("SELECT label FROM gold_labels WHERE item_id = ?", [item_id])
    before = lake.snapshot()
    lost = compare(lake.path, before, commit(lake, "edit", Upsert("items", edited)))
    [row] = lost.changes.to_pylist()
    assert (row["item_id"], row["label_before"], row["label_after"], row["cause"]) == (
        item_id, label, label, "text edited"
    )  # fmt: skip
    assert row["reason"].endswith(f"; the answer {label} was of the former")
    assert (lost.confirmed, lost.left_alone) == (0, 1)


def test_an_added_class_is_named(lake: Lake) -> None:
    before = lake.snapshot()
    added = pa.table({"class_id": pa.array([len(CLASSES)], pa.int32()), "name": ["tariff"]})
    after = commit(lake, "one more", Upsert("classes", added))
    assert compare(lake.path, before, before).classes == []
    assert compare(lake.path, before, after).classes == [(len(CLASSES), None, "tariff")]
    assert compare(lake.path, after, before).classes == [(len(CLASSES), "tariff", None)]


def test_only_who_gave_the_label_is_named(lake: Lake) -> None:
    before = lake.snapshot()
    after = commit(
        lake, "said", answer("i043", 2), answer("i043", -1, who="bob", action="skipped"), answer("i043", 0, who="cem"),
        answer("i043", 2, who="dan"), answer("i043", 2, who="eve"), answer("i044", 1),
    )  # fmt: skip
    [first, second] = compare(lake.path, before, after).changes.to_pylist()
    assert (first["cause"], first["reason"]) == ("gold given", f"labelled {CLASSES[2]} by ada, dan, eve")
    assert second["reason"] == f"labelled {CLASSES[1]} by ada"
    gone = answer("i043", -1, who="dan", action="deleted"), answer("i043", -1, who="eve", action="deleted")
    changed = commit(lake, "said more", *gone, answer("i043", 0, who="fay"))
    [row] = compare(lake.path, after, changed).changes.to_pylist()
    assert row["reason"] == f"people's label {CLASSES[2]} became {CLASSES[0]} by cem, fay"


@pytest.mark.parametrize("version", [v for v in RELEASED if v < SCHEMA_VERSION])
def test_snapshots_from_before_a_migration_compare(version: int, tmp_path: Path) -> None:
    with Lake(released(version, tmp_path / "lake")) as lake:
        before = lake.snapshot() - 1
    assert compare(tmp_path / "lake", 1, before).changes.num_rows == 0


def test_nothing_changed_is_an_empty_comparison(lake: Lake) -> None:
    found = compare(lake.path, lake.snapshot())
    assert (found.changes.num_rows, found.models, found.functions, found.confirmed) == (0, [], [], 0)


def test_a_snapshot_that_is_not_there_is_refused(lake: Lake) -> None:
    with pytest.raises(SnapshotNotFound, match="no snapshot 9999 yet"):
        compare(lake.path, 9999)
    with pytest.raises(SnapshotNotFound, match="no snapshot 9999 yet"):
        compare(lake.path, 2, 9999)


def test_a_warehouse_without_labels_compares(tmp_path: Path) -> None:
    with Lake(tmp_path / "lake") as empty:
        first = empty.snapshot()
        add_items(empty)
        assert compare(empty.path, first).changes.num_rows == 0
