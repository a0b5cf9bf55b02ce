"""Searching the index: against brute force, and at its edges."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.neighbors import faiss_index
from features.neighbors.faiss_index import IndexConfig, VectorIndex, open_index
from warehouse import DataError, Lake, SettingsError, Upsert, matrix_to_list_array

D = 24


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def random_vectors(count: int, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(count, D)))


def put_vectors(lake: Lake, vectors: np.ndarray, *, encoder_id: str = "e", read: int = 1) -> list[str]:
    count = len(vectors)
    item_ids = [f"i{n:04d}" for n in range(count)]
    columns = {
        "item_id": item_ids,
        "encoder_id": [encoder_id] * count,
        "content_hash": item_ids,
        "vector": matrix_to_list_array(vectors),
        "tokens": pa.array([5] * count, pa.int32()),
        "truncated": [False] * count,
        "active_frac": pa.array([1.0] * count, pa.float32()),
        "route": [""] * count,
    }
    items = {
        "item_id": item_ids,
        "content": item_ids,
        "content_hash": item_ids,
        "modality": ["text"] * count,
        "source": ["s"] * count,
        "position": pa.array(range(count), pa.int64()),
        "metadata": ["{}"] * count,
        "split": ["train"] * count,
    }
    order = np.random.default_rng(9).permutation(count)  # rows lie in the warehouse in any order
    with lake.stage("embed", version=read, inputs=(), params={"encoder": encoder_id}) as stage:
        stage.commit([Upsert("items", pa.table(items)), Upsert("vectors", pa.table(columns).take(order))])
    return item_ids


def make_index(lake: Lake, tmp_path: Path, vectors: np.ndarray) -> VectorIndex:
    item_ids = put_vectors(lake, vectors)
    index = open_index(lake, IndexConfig(folder=tmp_path / "index"), "e")
    assert index.item_ids == item_ids
    assert np.array_equal(index.vectors, vectors)
    return index


def brute_force(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    similarity = (queries.astype(np.float64)[:, None, :] * vectors[None]).sum(2).astype(np.float32)
    rows = np.lexsort((np.broadcast_to(np.arange(len(vectors)), similarity.shape), -similarity), axis=1)[:, :k]
    return np.take_along_axis(similarity, rows, 1), rows


@pytest.mark.parametrize("k", [1, 7, 50])
def test_search_equals_brute_force(lake: Lake, tmp_path: Path, k: int) -> None:
    vectors, queries = random_vectors(400), random_vectors(60, seed=1)
    similarity, rows = make_index(lake, tmp_path, vectors).search(queries, k)
    expected_similarity, expected_rows = brute_force(vectors, queries, k)
    assert np.array_equal(rows, expected_rows)
    assert np.array_equal(similarity, expected_similarity)
    assert (similarity.dtype, rows.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize(("asked", "ranked"), [(25, 7), (7, 25), (60, 1)])
def test_many_queries_are_answered_part_by_part(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int, ranked: int
) -> None:
    vectors, queries = random_vectors(400), random_vectors(60, seed=1)
    monkeypatch.setattr(faiss_index, "ASKED", asked)
    monkeypatch.setattr(faiss_index, "CHUNK_BYTES", ranked * 8 * (5 + faiss_index.SLACK) * D)
    similarity, rows = make_index(lake, tmp_path, vectors).search(queries, 5)
    expected_similarity, expected_rows = brute_force(vectors, queries, 5)
    assert np.array_equal(rows, expected_rows)
    assert np.array_equal(similarity, expected_similarity)


def test_neighbors_equal_brute_force_without_the_item(lake: Lake, tmp_path: Path) -> None:
    vectors = random_vectors(300)
    similarity, rows = make_index(lake, tmp_path, vectors).neighbors(10)
    expected_similarity, expected_rows = brute_force(vectors, vectors, 11)
    assert np.array_equal(rows, expected_rows[:, 1:])
    assert np.array_equal(similarity, expected_similarity[:, 1:])


def test_equal_vectors_stand_in_order_of_their_rows(lake: Lake, tmp_path: Path) -> None:
    distinct = random_vectors(30)
    vectors = distinct[np.random.default_rng(2).integers(0, 30, 500)]
    index = make_index(lake, tmp_path, vectors)
    for k in (1, 5, 40, 499):
        expected_similarity, expected_rows = brute_force(vectors, vectors, len(vectors))
        similarity, rows = index.search(vectors, k)
        assert np.array_equal(rows, expected_rows[:, :k])
        assert np.array_equal(similarity, expected_similarity[:, :k])
        others = expected_rows[expected_rows != np.arange(500)[:, None]].reshape(500, 499)
        assert np.array_equal(index.neighbors(k)[1], others[:, :k])


def test_an_answer_does_not_depend_on_the_batch(lake: Lake, tmp_path: Path) -> None:
    index = make_index(lake, tmp_path, random_vectors(300))
    queries = random_vectors(100, seed=3)
    similarity, rows = index.search(queries, 9)
    for start, stop in ((0, 1), (5, 30), (17, 99)):
        part_similarity, part_rows = index.search(queries[start:stop], 9)
        assert np.array_equal(part_similarity, similarity[start:stop])
        assert np.array_equal(part_rows, rows[start:stop])


def test_k_above_the_count_gives_all(lake: Lake, tmp_path: Path) -> None:
    index = make_index(lake, tmp_path, random_vectors(5))
    similarity, rows = index.search(random_vectors(3, seed=1), 100)
    assert similarity.shape == rows.shape == (3, 5)
    assert np.array_equal(np.sort(rows, axis=1), np.tile(np.arange(5), (3, 1)))
    assert index.neighbors(100)[1].shape == (5, 4)
    assert (np.sort(index.neighbors(100)[1][2]) == [0, 1, 3, 4]).all()


def test_one_item_has_no_neighbors(lake: Lake, tmp_path: Path) -> None:
    index = make_index(lake, tmp_path, random_vectors(1))
    assert index.neighbors(3)[1].shape == (1, 0)
    assert index.search(index.vectors, 3)[1].tolist() == [[0]]


def test_an_empty_index_finds_nothing(lake: Lake, tmp_path: Path) -> None:
    index = open_index(lake, IndexConfig(folder=tmp_path / "index"), "e")
    assert len(index) == 0
    assert index.search(random_vectors(4), 3)[1].shape == (4, 0)
    assert index.neighbors(3)[0].shape == (0, 0)
    assert not (tmp_path / "index").exists()


def test_no_queries_are_no_answers(lake: Lake, tmp_path: Path) -> None:
    assert make_index(lake, tmp_path, random_vectors(9)).search(np.empty((0, D)), 3)[1].shape == (0, 3)


@pytest.mark.parametrize("shape", [(2, D - 1), (D,), (1, 1, D)])
def test_queries_of_another_shape_are_refused(lake: Lake, tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=rf"needs \[M, {D}\]"):
        make_index(lake, tmp_path, random_vectors(9)).search(np.zeros(shape, np.float32), 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_queries_that_are_not_finite_are_refused(lake: Lake, tmp_path: Path, value: float) -> None:
    queries = random_vectors(4)
    queries[2, 3] = value
    with pytest.raises(DataError, match="the first is query 2"):
        make_index(lake, tmp_path, random_vectors(9)).search(queries, 3)


def test_k_below_one_is_refused(lake: Lake, tmp_path: Path) -> None:
    index = make_index(lake, tmp_path, random_vectors(9))
    with pytest.raises(SettingsError, match="0 neighbours"):
        index.search(index.vectors, 0)
    with pytest.raises(SettingsError, match="0 neighbours"):
        index.neighbors(0)


def test_stored_vectors_that_are_not_finite_are_refused_by_item(lake: Lake, tmp_path: Path) -> None:
    vectors = random_vectors(9)
    vectors[4, 0] = np.nan
    put_vectors(lake, vectors)
    with pytest.raises(DataError, match="items i0004"):
        open_index(lake, IndexConfig(folder=tmp_path / "index"), "e")


def test_only_train_items_with_the_present_text_are_in_the_index(lake: Lake, tmp_path: Path) -> None:
    """Texts of the test split must not shape the graph, and an edited text's old vector must not stand for it."""
    vectors = random_vectors(6)
    item_ids = put_vectors(lake, vectors)
    with lake.stage("ingest", version=1, inputs=()) as stage:
        items = stage.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM items ORDER BY item_id").to_pylist()
        items[1]["split"] = "test"
        items[2]["content_hash"] = "edited"
        stage.commit([Upsert("items", pa.Table.from_pylist(items))])
    index = open_index(lake, IndexConfig(folder=tmp_path / "index"), "e")
    kept = [0, 3, 4, 5]
    assert index.item_ids == [item_ids[row] for row in kept]
    assert np.array_equal(index.vectors, vectors[kept])
