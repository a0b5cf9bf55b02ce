"""Neighbour lists: exact where few, with a measured recall where many, never an item beside itself."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from features.neighbors import search
from features.neighbors.search import joined, neighbor_lists
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


@pytest.fixture
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "EXACT_UP_TO", 500)


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, truth, strict=True)]))


@pytest.mark.parametrize("count", [5, 64, 300])
def test_the_truth_is_found_piece_by_piece(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Some may be asked for twice, as when the sample of all meets that of those that came."""
    monkeypatch.setattr(search, "STEP", 64)
    vectors = np.random.default_rng(7).standard_normal((count, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = np.array([0, count - 1, 3, 0])
    similarity, rows = search.brute_force(vectors, queries, 4)
    every = vectors[queries].astype(np.float64) @ vectors.T.astype(np.float64)
    every[np.arange(len(queries)), queries] = -np.inf
    expected = np.argsort(-every, axis=1)[:, :4]
    assert (rows == expected).all()
    assert np.allclose(similarity, np.take_along_axis(every, expected, axis=1), atol=1e-6)


@pytest.mark.parametrize("least", [0.6, 0.9, 1.0])
@pytest.mark.usefixtures("few_are_many")
def test_many_vectors_reach_the_recall_that_was_asked_for(least: float) -> None:
    rows = vectors(3000)
    found = neighbor_lists(rows, 10, least_recall=least)
    assert (found.kind, len(found.centres)) == ("inverted lists", 219)
    assert found.recall >= least
    assert recall(found.rows, brute_force(rows, 10)) == pytest.approx(found.recall, abs=0.03)
    assert not (found.rows == np.arange(3000)[:, None]).any()
    assert (found.similarity[:, :-1] >= found.similarity[:, 1:]).all()
    told: list[tuple[int, int]] = []
    again = neighbor_lists(rows, 10, least_recall=least, progress=lambda *steps: told.append(steps))
    assert found.rows.tolist() == again.rows.tolist()
    assert len(told) > 200
    assert told == sorted(told)
    assert {lists for _, lists in told} == {219}


@pytest.mark.usefixtures("few_are_many")
def test_vectors_that_come_later_join_as_if_they_had_been_there() -> None:
    rows = vectors(3000)
    came = np.sort(np.random.default_rng(1).choice(3000, 60, replace=False))
    there = np.setdiff1d(np.arange(3000), came)
    before = np.full(3000, -1)
    before[there] = np.arange(len(there))
    found = joined(neighbor_lists(rows[there], 10), rows, before)
    assert found is not None
    truth = brute_force(rows, 10)
    assert recall(found.rows[came], truth[came]) >= 0.95
    told = (np.isin(truth, came).any(axis=1)) & (before >= 0)  # who was there and has a new neighbour
    assert told.sum() > 200
    assert recall(found.rows[told], truth[told]) >= 0.95
    anew = neighbor_lists(rows, 10)
    assert recall(found.rows, truth) >= recall(anew.rows, truth) - 0.01
    assert not (found.rows == np.arange(3000)[:, None]).any()


@pytest.mark.usefixtures("few_are_many")
def test_the_true_neighbours_of_the_sample_are_kept_and_stay_true(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def noted(vectors: np.ndarray, queries: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        compared.append(len(queries))
        return compare(vectors, queries, width)

    compare = search.brute_force
    monkeypatch.setattr(search, "brute_force", noted)
    rows = vectors(3400)
    parts = [np.arange(2000), np.arange(2100), np.arange(2200), np.arange(8, 2210)]
    lists = neighbor_lists(rows[parts[0]], 10)
    for earlier, now in pairwise(parts):
        before = np.where(np.isin(now, earlier), np.searchsorted(earlier, now), -1)
        found = joined(lists, rows[now], before)
        assert found is not None
        lists = found
        truth = brute_force(rows[now], 10)[lists.sample]
        assert np.sort(lists.near, axis=1).tolist() == np.sort(truth, axis=1).tolist()
        assert len(lists.sample) == 200
        assert recall(lists.rows[lists.sample], truth) >= lists.recall - 0.01
    assert compared[1:3] == [300, 100]  # of the 200 of all none is compared with all again
    assert 10 < compared[3] < 100  # but for those that lost a neighbour


@pytest.mark.usefixtures("few_are_many")
def test_neighbours_of_neighbours_make_up_for_lists_not_looked_into() -> None:
    rows = vectors(3000)
    lists = neighbor_lists(rows[:2950], 10)
    assert lists.looked > 2
    before = np.r_[np.arange(2950), np.full(50, -1)]
    found = joined(replace(lists, looked=1), rows, before)
    assert found is not None
    truth = brute_force(rows, 10)
    assert recall(found.rows[2950:], truth[2950:]) >= 0.95
    told = (truth[:2950] >= 2950).any(axis=1)
    assert recall(found.rows[:2950][told], truth[:2950][told]) >= 0.95
    again = joined(replace(lists, looked=1), rows, before)
    assert again is not None
    assert again.rows.tolist() == found.rows.tolist()


@pytest.mark.usefixtures("few_are_many")
def test_more_lists_are_looked_into_where_the_first_are_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "ROUNDS", 0)
    rows = vectors(3000)
    found = joined(neighbor_lists(rows[:2950], 10), rows, np.r_[np.arange(2950), np.full(50, -1)])
    assert found is not None
    assert recall(found.rows[2950:], brute_force(rows, 10)[2950:]) >= 0.95


@pytest.mark.usefixtures("few_are_many")
def test_those_that_join_together_find_each_other_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MOST_PAIRS", 50)  # less than a list and those that look into it
    rows = vectors(3000)
    crowd = rows[:1] + 0.01 * np.random.default_rng(2).standard_normal((30, 16))
    rows[2970:] = crowd / np.linalg.norm(crowd, axis=1, keepdims=True)
    found = joined(neighbor_lists(rows[:2970], 10), rows, np.r_[np.arange(2970), np.full(30, -1)])
    assert found is not None
    assert recall(found.rows[2970:], brute_force(rows, 10)[2970:]) >= 0.95
    assert all(len(set(row)) == 10 for row in found.rows.tolist())
    assert (found.similarity[:, :-1] >= found.similarity[:, 1:]).all()
    assert not (found.rows == np.arange(3000)[:, None]).any()


@pytest.mark.usefixtures("few_are_many")
def test_any_of_many_near_copies_is_a_true_neighbour() -> None:
    rows = vectors(3000)
    copies = vectors(20, seed=1)[np.arange(1500) % 20] + 1e-4 * np.random.default_rng(2).standard_normal((1500, 16))
    rows[::2] = copies / np.linalg.norm(copies, axis=1, keepdims=True)
    lists = neighbor_lists(rows[:2950], 10)
    assert lists.recall >= 0.95
    found = joined(lists, rows, np.r_[np.arange(2950), np.full(50, -1)])
    assert found is not None
    assert found.recall >= 0.95


@pytest.mark.usefixtures("few_are_many")
def test_vectors_that_go_are_nobodys_neighbour_and_others_take_their_place() -> None:
    rows = vectors(3000)
    kept = np.setdiff1d(np.arange(3000), [5, 900, 2100])
    found = joined(neighbor_lists(rows, 10), rows[kept], kept)
    assert found is not None
    assert found.rows.min() >= 0
    truth = brute_force(rows[kept], 10)
    assert recall(found.rows, truth) >= 0.95
    lost = np.isin(brute_force(rows, 10)[kept], [5, 900, 2100]).any(axis=1)
    assert recall(found.rows[lost], truth[lost]) >= 0.95


@pytest.mark.usefixtures("few_are_many")
def test_vectors_in_another_order_have_the_same_neighbours() -> None:
    rows = vectors(3000)
    lists = neighbor_lists(rows, 10)
    order = np.random.default_rng(1).permutation(3000)
    found = joined(lists, rows[order], order)
    assert found is not None
    assert order[found.rows].tolist() == lists.rows[order].tolist()


@pytest.mark.usefixtures("few_are_many")
def test_where_much_changes_or_the_recall_falls_nothing_is_joined() -> None:
    rows = vectors(3000)
    lists = neighbor_lists(rows[:2000], 10)
    assert joined(lists, rows, np.r_[np.arange(2000), np.full(1000, -1)]) is None
    assert joined(replace(lists, made_for=1000), rows[:2000], np.arange(2000)) is None
    elsewhere = replace(lists, centres=np.roll(lists.centres, 1, axis=0))  # the new ones look where nobody is
    assert joined(lists, rows[:2050], np.r_[np.arange(2000), np.full(50, -1)]) is not None
    assert joined(elsewhere, rows[:2050], np.r_[np.arange(2000), np.full(50, -1)]) is None


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
