"""Neighbour lists: exact where few, with a measured recall where many, never an item beside itself."""

from typing import Any

import faiss
import numpy as np
import pytest

from features import approximate
from features import index as module
from features.approximate import neighbor_lists
from features.index import VectorIndex
from warehouse import DataError, SettingsError


def vectors(count: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((40, 16))[generator.integers(0, 40, count)]
    rows = rows + 0.5 * generator.standard_normal(rows.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def brute_force(rows: np.ndarray, k: int) -> np.ndarray:
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -np.inf)
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]


def test_few_vectors_are_searched_exactly() -> None:
    rows = vectors(300)
    found = neighbor_lists(rows, 5)
    assert (found.kind, found.recall) == ("exact", 1.0)
    assert np.mean(found.rows == brute_force(rows, 5)) > 0.99  # rounding may swap two equals


@pytest.mark.parametrize(("flat_up_to", "kind"), [(10_000, "inverted lists"), (500, "inverted lists, 8 bits")])
def test_many_vectors_reach_the_recall_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, flat_up_to: int, kind: str
) -> None:
    monkeypatch.setattr(approximate, "EXACT_UP_TO", 500)
    monkeypatch.setattr(approximate, "FLAT_UP_TO", flat_up_to)
    rows = vectors(3000)
    found = neighbor_lists(rows, 10, least_recall=0.9)
    assert found.kind == kind
    assert found.recall >= 0.9
    truth = brute_force(rows, 10)
    shared = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found.rows, truth, strict=True)])
    assert shared == pytest.approx(found.recall, abs=0.05)
    assert not (found.rows == np.arange(3000)[:, None]).any()
    assert found.rows.tolist() == neighbor_lists(rows, 10, least_recall=0.9).rows.tolist()


def test_the_index_of_many_items_takes_the_approximate_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = vectors(700)
    index: Any = faiss.IndexFlatIP(16)
    index.add(rows)
    distinct = module._group(rows)
    exact = VectorIndex([f"i{n:04d}" for n in range(700)], rows, distinct, index).neighbors(5)[1]
    monkeypatch.setattr(approximate, "EXACT_UP_TO", 500)
    found = VectorIndex([f"i{n:04d}" for n in range(700)], rows, distinct, index).neighbors(5)[1]
    assert np.mean([len(np.intersect1d(a, b)) / 5 for a, b in zip(found, exact, strict=True)]) >= 0.9
    assert not (found == np.arange(700)[:, None]).any()


def test_copies_and_tiny_sets_are_no_fault() -> None:
    assert neighbor_lists(np.repeat(vectors(1), 30, axis=0), 3).rows.shape == (30, 3)
    assert neighbor_lists(vectors(1), 3).rows.shape == (1, 0)
    assert neighbor_lists(vectors(3), 10).rows.shape == (3, 2)


def test_what_is_not_finite_or_out_of_range_is_refused() -> None:
    broken = vectors(20)
    broken[7, 3] = np.nan
    with pytest.raises(DataError, match="the first is at place 7"):
        neighbor_lists(broken, 3)
    with pytest.raises(SettingsError, match="k is 0"):
        neighbor_lists(vectors(20), 0)
    with pytest.raises(SettingsError, match=r"least_recall 1\.5"):
        neighbor_lists(vectors(20), 3, least_recall=1.5)
