"""The contract of selection strategies: one class of tests that each strategy inherits."""

import numpy as np
import pytest

from active.graph import Floats, PoolGraph, Rows
from active.pool import Pool
from active.strategies import STRATEGIES, Pick, Situation
from tests.active.pools import CLASSES, clusters, unit

N = 90


def situation(vectors: np.ndarray, predicted: Floats, *, labelled: Rows, queued: Rows, seed: int = 0) -> Situation:
    n = len(vectors)
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -1)
    rows = np.argsort(-similarity, axis=1, kind="stable")[:, : min(10, n - 1)]
    pool = Pool(
        item_ids=[f"i{row:05d}" for row in range(n)],
        content_hashes=[""] * n,
        class_names=list(CLASSES),
        votes=np.zeros((n, len(CLASSES))),
        weak=np.zeros((n, len(CLASSES))),
        predicted=predicted,
        has_prediction=np.ones(n, np.bool_),
        labelled=labelled,
        queued=queued,
    )
    graph = PoolGraph.build(vectors, np.take_along_axis(similarity, rows, axis=1), rows)
    return Situation(pool=pool, graph=graph, generator=np.random.default_rng(seed))


def probabilities(n: int) -> Floats:
    return np.random.default_rng(0).dirichlet(np.ones(len(CLASSES)), n)


NONE = np.empty(0, np.int64)


class StrategyContract:
    """What each strategy owes, whatever it prefers."""

    name: str

    def pick(self, batch: int, vectors: np.ndarray, labelled: Rows = NONE, queued: Rows = NONE, seed: int = 0) -> Pick:
        given = situation(vectors, probabilities(len(vectors)), labelled=labelled, queued=queued, seed=seed)
        return STRATEGIES[self.name](given, batch)

    def test_a_batch_has_its_size_and_no_item_twice(self) -> None:
        pick = self.pick(8, clusters(N)[0])
        assert len(pick.rows) == len(pick.values) == len(set(pick.rows.tolist())) == 8

    def test_values_lie_between_0_and_1_and_never_rise(self) -> None:
        values = self.pick(20, clusters(N)[0]).values
        assert ((values >= 0) & (values <= 1)).all()
        assert (np.diff(values) <= 0).all()

    def test_equal_situations_and_seeds_give_equal_picks(self) -> None:
        one, two = self.pick(8, clusters(N)[0], seed=3), self.pick(8, clusters(N)[0], seed=3)
        assert one.rows.tolist() == two.rows.tolist()
        assert one.values.tolist() == two.values.tolist()

    def test_taken_items_are_never_picked(self) -> None:
        labelled, queued = np.arange(0, N, 3), np.arange(1, N, 3)
        rows = self.pick(N, clusters(N)[0], labelled, queued).rows
        assert set(rows.tolist()) == set(range(2, N, 3))

    def test_copies_are_picked_once_and_copies_of_taken_items_never(self) -> None:
        vectors, _ = clusters(12)
        nearly = unit(vectors + 0.01 * np.random.default_rng(1).standard_normal((12, 16)))
        rows = self.pick(36, np.vstack([vectors, vectors, nearly]), np.array([0]), np.array([13])).rows
        assert sorted(row % 12 for row in rows.tolist()) == list(range(2, 12))

    def test_where_only_copies_of_taken_items_are_left_nothing_is_picked(self) -> None:
        vectors, _ = clusters(12)
        assert self.pick(3, np.vstack([vectors, vectors]), labelled=np.arange(12)).rows.tolist() == []

    def test_texts_without_a_direction_are_no_copies_and_never_picked_twice(self) -> None:
        nothing = np.zeros((4, 16), np.float32)
        assert sorted(self.pick(9, nothing, labelled=np.array([1])).rows.tolist()) == [0, 2, 3]

    def test_a_single_item_is_picked_and_an_exhausted_pool_gives_nothing(self) -> None:
        one = clusters(1)[0]
        assert self.pick(3, one).rows.tolist() == [0]
        assert self.pick(3, one, labelled=np.array([0])).rows.tolist() == []

    def test_an_empty_pool_gives_nothing(self) -> None:
        assert self.pick(3, np.empty((0, 16), np.float32)).rows.tolist() == []


class TestRandom(StrategyContract):
    name = "random"

    def test_the_seed_decides(self) -> None:
        vectors, _ = clusters(N)
        assert self.pick(8, vectors, seed=1).rows.tolist() != self.pick(8, vectors, seed=2).rows.tolist()


class TestMargin(StrategyContract):
    name = "margin"

    def test_the_narrowest_margins_come_first(self) -> None:
        best_two = np.sort(probabilities(N), axis=1)[:, -2:]
        margin = best_two[:, 1] - best_two[:, 0]
        assert self.pick(5, clusters(N)[0]).rows.tolist() == np.argsort(margin, kind="stable")[:5].tolist()


class TestValue(StrategyContract):
    name = "value"

    def test_a_batch_reaches_every_cluster_where_all_are_equally_doubtful(self) -> None:
        vectors, classes = clusters(N)
        given = situation(vectors, np.full((N, len(CLASSES)), 1 / 3), labelled=NONE, queued=NONE)
        assert set(classes[STRATEGIES["value"](given, 3).rows].tolist()) == {0, 1, 2}


def test_every_strategy_inherits_the_contract() -> None:
    assert {cls.name for cls in StrategyContract.__subclasses__()} == set(STRATEGIES)


def test_the_contract_can_fail() -> None:
    class Careless(StrategyContract):
        name = "careless"

        def pick(
            self, batch: int, vectors: np.ndarray, labelled: Rows = NONE, queued: Rows = NONE, seed: int = 0
        ) -> Pick:
            return Pick(np.zeros(batch, np.int64), np.linspace(0, 1, batch))

    careless = Careless()
    for name in [name for name in dir(StrategyContract) if name.startswith("test_") and "equal_situations" not in name]:
        with pytest.raises(AssertionError):
            getattr(careless, name)()
