"""A run records what its rows hash to: by content, in any order, as they stand in the warehouse."""

import json

import numpy as np
import pyarrow as pa
import pytest

from tests.warehouse.test_commit_is_atomic import classes, items
from tests.warehouse.test_reading import vectors
from warehouse import Append, Delete, Lake, Upsert, WarehouseError
from warehouse.commits.row_hash import hash_rows


def test_the_hash_follows_content_and_not_order_chunks_or_width_of_types() -> None:
    rows = items(50)
    shuffled = rows.take(pa.array(np.random.default_rng(0).permutation(50)))
    chunked = pa.concat_tables([rows.slice(30), rows.slice(0, 30)])
    wide = rows.set_column(1, "content", rows["content"].cast(pa.large_string()))
    assert len({hash_rows("items", r) for r in (rows, shuffled, chunked, wide)}) == 1


@pytest.mark.parametrize(
    "other",
    [
        items(49),
        items(50, "other"),
        items(50).set_column(6, "metadata", pa.array([None] * 50, pa.string())),
        items(50).set_column(6, "metadata", pa.array([""] * 50)),
        items(50).set_column(5, "position", pa.array(range(50), pa.int64())),
    ],
    ids=["fewer", "text", "null", "empty", "number"],
)
def test_another_row_count_text_null_or_number_is_another_hash(other: pa.Table) -> None:
    assert hash_rows("items", items(50)) != hash_rows("items", other)


def test_one_bit_of_one_vector_is_another_hash() -> None:
    matrix = np.random.default_rng(0).standard_normal((100, 8), np.float32)
    changed = matrix.copy()
    changed[7, 3] = np.nextafter(changed[7, 3], np.float32(9))
    assert hash_rows("vectors", vectors(matrix)) != hash_rows("vectors", vectors(changed))


def test_vectors_are_hashed_without_a_copy_of_them() -> None:
    matrix = np.random.default_rng(0).standard_normal((2000, 256), np.float32)
    rows = pa.concat_tables([vectors(matrix).slice(start, 500) for start in range(0, 2000, 500)])
    watched, before = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(watched)
    try:
        found = hash_rows("vectors", rows)
    finally:
        pa.set_memory_pool(before)
    largest = watched.max_memory()
    assert largest is not None
    assert largest < matrix.nbytes / 4
    assert found == hash_rows("vectors", vectors(matrix))


def test_what_moves_from_one_row_to_the_next_is_another_hash() -> None:
    assert hash_rows("classes", classes("ab", "c")) != hash_rows("classes", classes("a", "bc"))
    sets = (pa.table({"item_id": ["a", "b"], "class_ids": both}) for both in ([[0], [1, 2]], [[0, 1], [2]]))
    assert len({hash_rows("annotations", rows) for rows in sets}) == 2


def test_a_run_records_hashes_that_the_stored_rows_still_have(lake: Lake) -> None:
    matrix = np.random.default_rng(0).standard_normal((40, 8), np.float32)
    wide = pa.table({"class_id": [0.0, 1.0], "name": pa.array(["a", "b"]).dictionary_encode()})
    with lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Upsert("items", items(40)), Append("vectors", vectors(matrix)), Upsert("classes", wide)])
    with lake.read() as reader:
        recorded = json.loads(reader.scalar("SELECT content_hash FROM runs"))
        tables = ("items", "vectors", "classes")
        assert recorded == {t: hash_rows(t, reader.arrow(f"SELECT * FROM {t}")) for t in tables}


def test_a_number_that_a_column_cannot_hold_is_refused_and_not_rounded(lake: Lake) -> None:
    with lake.stage("s", version=1, inputs=()) as stage, pytest.raises(WarehouseError, match="fit the table classes"):
        stage.commit([Upsert("classes", pa.table({"class_id": [0.6], "name": ["a"]}))])
    with lake.read() as reader:
        assert reader.rows("FROM classes UNION BY NAME FROM runs") == []


def test_a_delete_is_part_of_the_hash(lake: Lake) -> None:
    found = []
    a, b = classes("a"), pa.table({"name": ["b"]})
    for number, write in enumerate((Delete("classes", a), Delete("classes", b), Upsert("classes", a))):
        with lake.stage("s", version=number, inputs=()) as stage:
            stage.commit([Upsert("classes", classes("a", "b")), write])
        with lake.read() as reader:
            found.append(reader.scalar("SELECT content_hash FROM runs ORDER BY committed_at DESC LIMIT 1"))
    assert len(set(found)) == 3


def test_the_author_stands_in_the_run_and_in_the_snapshot(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIFTLINE_AUTHOR", "mira")
    with lake.stage("s", version=1, inputs=()) as stage:
        stage.commit([Upsert("classes", classes("a"))], message="one class")
    with lake.read() as reader:
        assert reader.scalar("SELECT author FROM runs") == "mira"
        last = reader.rows("SELECT author, commit_message FROM lake.snapshots() ORDER BY snapshot_id DESC LIMIT 1")
        assert last == [("mira", "one class")]
