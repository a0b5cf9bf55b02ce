"""The contract of selection strategies: one class of tests that each strategy inherits."""

import inspect
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from active.pool.graph import Floats, PoolGraph, Rows
from active.pool.pool import MANY, Pool
from active.strategies import STRATEGIES, Pick, Situation, Strategy, find_strategy
from tests.active.pools import CLASSES, clusters, unit
from warehouse import DataError, SettingsError

N = 90


def situation(vectors: np.ndarray, predicted: Floats, *, labelled: Rows, queued: Rows, seed: int = 0) -> Situation:
    n = len(vectors)
    similarity = np.nan_to_num(vectors @ vectors.T)
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
        gold=labelled % len(CLASSES),
        queued=queued,
    )
    graph = PoolGraph.build(vectors, np.take_along_axis(similarity, rows, axis=1), rows)
    return Situation(pool=pool, graph=graph, generator=np.random.default_rng(seed))


def probabilities(n: int) -> Floats:
    return np.random.default_rng(0).dirichlet(np.ones(len(CLASSES)), n)


NONE = np.empty(0, np.int64)


def one_large_cluster() -> tuple[np.ndarray, np.ndarray]:
    """Of three clusters the first is three times as large as each of the others."""
    vectors, classes = clusters(N)
    kept = (classes == 0) | (np.arange(N) < N // 3)
    return vectors[kept], classes[kept]


class StrategyContract:
    """What each strategy owes, whatever it prefers."""

    name: str

    @property
    def strategy(self) -> Strategy:
        return STRATEGIES[self.name]

    def pick(
        self,
        batch: int,
        vectors: np.ndarray,
        labelled: Rows = NONE,
        queued: Rows = NONE,
        seed: int = 0,
        **parameters: Any,
    ) -> Pick:
        given = situation(vectors, probabilities(len(vectors)), labelled=labelled, queued=queued, seed=seed)
        return self.strategy(given, batch, **parameters)

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

    def test_each_parameter_is_keyword_only_and_has_a_test(self) -> None:
        kinds = inspect.signature(self.strategy).parameters
        parameters = [name for name in kinds if name not in ("situation", "batch")]
        assert all(kinds[name].kind is inspect.Parameter.KEYWORD_ONLY for name in parameters)
        assert {name for name in dir(self) if name.startswith("test_parameter_")} == {
            f"test_parameter_{name}" for name in parameters
        }


class TestRandom(StrategyContract):
    name = "random"

    def test_the_seed_decides(self) -> None:
        vectors, _ = clusters(N)
        assert self.pick(8, vectors, seed=1).rows.tolist() != self.pick(8, vectors, seed=2).rows.tolist()


class DrawnWhereAllAreEqual:
    """Before there is a model: the pool is in the order of the ids, which often is that of the classes."""

    def test_where_nothing_tells_items_apart_they_are_drawn(self) -> None:
        even = np.full((N, len(CLASSES)), 1 / len(CLASSES))
        picks = [
            STRATEGIES[self.name](situation(clusters(N)[0], even, labelled=NONE, queued=NONE, seed=seed), 8)  # type: ignore[attr-defined]
            for seed in (1, 1, 2)
        ]
        rows = [sorted(pick.rows.tolist()) for pick in picks]
        assert rows[0] == rows[1] != rows[2]
        assert max(rows[0]) > N // 2
        np.testing.assert_allclose(picks[0].values, 1.0)


class TestMargin(DrawnWhereAllAreEqual, StrategyContract):
    name = "margin"

    def test_the_narrowest_margins_come_first(self) -> None:
        best_two = np.sort(probabilities(N), axis=1)[:, -2:]
        margin = best_two[:, 1] - best_two[:, 0]
        assert self.pick(5, clusters(N)[0]).rows.tolist() == np.argsort(margin, kind="stable")[:5].tolist()


class TestEntropy(DrawnWhereAllAreEqual, StrategyContract):
    name = "entropy"

    def test_the_flattest_predictions_come_first(self) -> None:
        probs = probabilities(N)
        order = np.argsort((probs * np.log(probs)).sum(axis=1), kind="stable")
        assert self.pick(5, clusters(N)[0]).rows.tolist() == order[:5].tolist()


class TestKMeans(StrategyContract):
    name = "k-means"

    def test_a_batch_reaches_every_cluster(self) -> None:
        vectors, classes = clusters(N)
        assert set(classes[self.pick(3, vectors).rows].tolist()) == {0, 1, 2}

    def test_large_clusters_come_first(self) -> None:
        vectors, classes = one_large_cluster()
        assert classes[self.pick(3, vectors).rows[0]] == 0


class TestCoreSet(StrategyContract):
    name = "core-set"

    def test_the_farthest_from_everything_taken_comes_first(self) -> None:
        vectors, _ = clusters(N)
        labelled = np.arange(0, N, 2)
        farthest = (vectors @ vectors[labelled].T).max(axis=1).argmin()
        assert self.pick(1, vectors, labelled=labelled).rows.tolist() == [farthest]


class TestTypiClust(StrategyContract):
    name = "typiclust"

    def test_clusters_without_labels_come_first(self) -> None:
        vectors, classes = clusters(N)
        labelled = np.flatnonzero(classes == 0)[:2]
        assert classes[self.pick(1, vectors, labelled=labelled).rows].tolist() != [0]

    def test_parameter_most_clusters(self) -> None:
        vectors, _ = clusters(N)
        one = self.pick(4, vectors, most_clusters=1).rows
        given = situation(vectors, probabilities(N), labelled=NONE, queued=NONE)
        typical = np.argsort(-given.graph.typicality(np.zeros(N, np.int64)), kind="stable")
        assert one.tolist() == typical[:4].tolist()
        assert self.pick(4, vectors).rows.tolist() != one.tolist()


class TestProbCover(StrategyContract):
    name = "probcover"

    def test_the_first_pick_covers_most(self) -> None:
        crowd = np.eye(16)[0] + 0.1 * np.random.default_rng(0).standard_normal((30, 16))
        vectors = unit(np.vstack([np.eye(16)[:1], crowd, np.eye(16)[5:8]]))
        pick = self.pick(1, vectors, purity=0.2)
        assert pick.rows[0] <= 30
        assert pick.values[0] > 2 / len(vectors)
        two = self.pick(2, vectors, purity=0.2)
        then = self.pick(1, vectors, labelled=two.rows[:1], purity=0.2)
        assert (then.rows[0], then.values[0]) == (
            two.rows[1],
            two.values[1],
        )  # a taken item covers as a picked one does

    def test_parameter_purity(self) -> None:
        vectors, _ = clusters(N)
        assert self.pick(1, vectors, purity=0.5).values[0] > self.pick(1, vectors, purity=1.0).values[0]


class TestBadge(StrategyContract):
    name = "badge"

    def test_certain_items_are_never_drawn_while_there_are_others(self) -> None:
        vectors, _ = clusters(N)
        probs = np.tile([1.0, 0.0, 0.0], (N, 1))
        probs[:10] = [0.5, 0.5, 0.0]
        rows = self.strategy(situation(vectors, probs, labelled=NONE, queued=NONE), 5).rows
        assert rows.max() < 10

    def test_gradients_of_one_direction_are_seldom_drawn_together(self) -> None:
        crowd = np.repeat(np.eye(16)[:2], [40, 10], axis=0)
        vectors = unit(crowd + 0.08 * np.random.default_rng(0).standard_normal((50, 16)))
        even = np.tile([0.5, 0.5, 0.0], (50, 1))
        both = 0
        for seed in range(20):
            rows = self.strategy(situation(vectors, even, labelled=NONE, queued=NONE, seed=seed), 2).rows
            both += len(set((rows < 40).tolist())) == 2
        assert both >= 14  # of equal chances about 7


class TestContrastive(StrategyContract):
    name = "contrastive"

    def test_items_unlike_their_labelled_neighbours_come_first(self) -> None:
        vectors, classes = clusters(N)
        probs = np.eye(3)[classes] * 0.9 + 0.1 / 3
        probs[30] = np.roll(probs[30], 1)
        rows = self.strategy(situation(vectors, probs, labelled=np.arange(30), queued=NONE), 1).rows
        assert rows.tolist() == [30]

    def test_the_value_is_how_badly_an_item_tells_what_its_neighbour_says(self) -> None:
        vectors, labelled, probs = clusters(N)[0], np.arange(30), probabilities(N)
        near = probs[labelled[(vectors @ vectors[labelled].T).argmax(axis=1)]]
        divergence = (near * (np.log(near) - np.log(probs))).sum(axis=1)[30:]
        pick = self.pick(1, vectors, labelled, neighbors=1)
        assert pick.rows.tolist() == [30 + divergence.argmax()]
        assert pick.values[0] == pytest.approx(1 - np.exp(-divergence.max()))

    def test_parameter_neighbors(self) -> None:
        vectors, _ = clusters(N)
        labelled = np.arange(30)
        one, all_of_them = (self.pick(5, vectors, labelled, neighbors=k).rows.tolist() for k in (1, 30))
        assert one != all_of_them


class TestPatron(StrategyContract):
    name = "patron"

    def test_a_batch_reaches_every_cluster(self) -> None:
        vectors, classes = clusters(N)
        assert set(classes[self.pick(3, vectors).rows].tolist()) == {0, 1, 2}

    def test_parameter_steps(self) -> None:
        vectors, _ = clusters(N)
        assert self.pick(1, vectors, steps=0).rows.tolist() != self.pick(1, vectors, steps=5).rows.tolist()

    def test_parameter_distance(self) -> None:
        vectors, _ = clusters(N)
        central = self.pick(3, vectors, distance=100.0).rows
        assert sorted(central.tolist()) == sorted(
            STRATEGIES["k-means"](situation(vectors, probabilities(N), labelled=NONE, queued=NONE), 3).rows.tolist()
        )


class TestKnnShapley(StrategyContract):
    name = "knn-shapley"

    def test_items_near_a_label_that_helps_come_before_those_near_a_wrong_one(self) -> None:
        axes = np.repeat(np.eye(16)[:2], 12, axis=0) + 0.2 * np.random.default_rng(0).standard_normal((24, 16))
        vectors = unit(axes)
        labelled = np.arange(0, 24, 2)
        given = situation(vectors, probabilities(24), labelled=labelled, queued=NONE)
        gold = np.where(labelled < 12, 0, np.arange(12) % 3)  # the second group is labelled at random
        rows = self.strategy(replaced(given, gold), 3).rows
        assert (rows < 12).all()
        of_two = np.where(labelled < 12, 0, 1 + np.arange(12) % 2)
        rows = self.strategy(replaced(given, of_two), 3, neighbors=2, variant="hard").rows
        assert (rows < 12).all(), "a label judged itself"

    def test_parameter_neighbors(self) -> None:
        vectors, labelled = clusters(N)[0], np.arange(40)
        one, many = (self.pick(5, vectors, labelled, neighbors=k).rows.tolist() for k in (1, 20))
        assert one != many

    def test_parameter_variant(self) -> None:
        vectors, labelled = clusters(N)[0], np.arange(40)
        with pytest.raises(SettingsError, match="'best'"):
            self.pick(5, vectors, labelled, variant="best")
        soft, near = (self.pick(5, vectors, labelled, variant=v).rows.tolist() for v in ("soft", "threshold"))
        assert soft != near


def replaced(given: Situation, gold: Rows) -> Situation:
    return replace(given, pool=replace(given.pool, gold=gold))


class TestValue(StrategyContract):
    name = "value"

    def test_a_batch_reaches_every_cluster_where_all_are_equally_doubtful(self) -> None:
        vectors, classes = clusters(N)
        given = situation(vectors, np.full((N, len(CLASSES)), 1 / 3), labelled=NONE, queued=NONE)
        assert set(classes[STRATEGIES["value"](given, 3).rows].tolist()) == {0, 1, 2}

    def test_where_functions_taught_a_picked_item_speaks_for_others_as_a_queued_one_does(self) -> None:
        vectors, classes = clusters(N)
        votes = np.eye(len(CLASSES))[classes]

        def picked(batch: int, queued: Rows) -> Pick:
            given = situation(vectors, probabilities(N), labelled=NONE, queued=queued)
            return STRATEGIES["value"](replace(given, pool=replace(given.pool, weak=votes, votes=votes)), batch)

        batch = picked(6, NONE)
        for count in range(1, 6):
            then = picked(1, batch.rows[:count])
            assert (then.rows[0], then.values[0]) == (batch.rows[count], pytest.approx(batch.values[count]))

    def test_while_many_labels_are_the_same_the_farthest_from_all_of_them_is_asked_about(self) -> None:
        """Twenty labels of the large cluster, and one item far from it: the value of its pick is its distance."""
        vectors, classes = clusters(N)
        kept = np.append(np.flatnonzero(classes == 0), np.flatnonzero(classes == 1)[0])
        given = unsaid(vectors[kept], labelled=np.arange(MANY), gold=np.zeros(MANY, np.int64))
        pick = STRATEGIES["value"](given, 3)
        nearest = given.graph.nearest(given.pool.taken)
        assert pick.rows[0] == len(kept) - 1
        assert pick.values[0] == pytest.approx(1.0 - nearest[pick.rows[0]])
        assert (np.diff(pick.values) <= 0).all()

    def test_seconds_count_also_while_many_labels_are_the_same(self) -> None:
        given = unsaid(clusters(N)[0], labelled=np.arange(MANY), gold=np.zeros(MANY, np.int64))
        first = int(STRATEGIES["value"](given, 1).rows[0])
        seconds = np.where(np.arange(N) == first, 100.0, 1.0)
        assert STRATEGIES["value"](replace(given, seconds=seconds), 1).rows[0] != first

    @pytest.mark.parametrize(
        "gold", [[], [0] * (MANY - 1), [0] * MANY + [1], [0, 1, 2] * 10], ids=["none", "few", "one other", "three"]
    )
    def test_without_many_labels_that_are_the_same_nothing_is_otherwise(
        self, gold: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given = unsaid(clusters(N)[0], labelled=np.arange(len(gold)), gold=np.array(gold, np.int64))
        found = STRATEGIES["value"](given, 12)
        monkeypatch.setattr(Pool, "all_alike", False)
        before = STRATEGIES["value"](given, 12)
        assert found.rows.tolist() == before.rows.tolist()
        assert found.values.tolist() == before.values.tolist()

    def test_labels_that_are_the_same_say_nothing_where_functions_taught_or_the_end_model_speaks(self) -> None:
        gold = np.zeros(MANY, np.int64)
        alike = unsaid(clusters(N)[0], labelled=np.arange(MANY), gold=gold).pool
        assert alike.all_alike
        assert replace(alike, multi_label=True, gold=gold - 1).all_alike
        assert not replace(alike, weak=np.eye(len(CLASSES))[np.arange(N) % len(CLASSES)]).all_alike
        assert not replace(alike, has_prediction=np.arange(N) == 0).all_alike


def unsaid(vectors: np.ndarray, *, labelled: Rows, gold: Rows) -> Situation:
    """A situation in which no model has said anything."""
    n = len(vectors)
    given = situation(vectors, np.full((n, len(CLASSES)), 1 / len(CLASSES)), labelled=labelled, queued=NONE)
    return replace(given, pool=replace(given.pool, gold=gold, has_prediction=np.zeros(n, np.bool_)))


def test_every_strategy_inherits_the_contract() -> None:
    assert {
        cls.name
        for cls in StrategyContract.__subclasses__()
        if cls.__module__ == __name__ and "<" not in cls.__qualname__
    } == set(STRATEGIES)


def test_the_contract_can_fail() -> None:
    def careless(situation: Situation, batch: int, *, untested: int = 0) -> Pick:
        return Pick(np.zeros(batch, np.int64), np.linspace(0, 1, batch))

    class Careless(StrategyContract):
        name = "careless"
        strategy = property(lambda self: careless)

    for name in [name for name in dir(StrategyContract) if name.startswith("test_") and "equal_situations" not in name]:
        with pytest.raises(AssertionError):
            getattr(Careless(), name)()


@pytest.mark.parametrize("name", STRATEGIES)
def test_vectors_and_predictions_that_are_not_finite_are_refused_by_name(name: str) -> None:
    vectors, _ = clusters(12)
    broken, long, probs = vectors.copy(), vectors.copy(), probabilities(12)
    broken[3, 2], probs[5, 0], long[4] = np.nan, np.inf, 2 * long[4]
    for given, message in (
        ((broken, probabilities(12)), "vectors.*i00003"),
        ((long, probabilities(12)), r"not of length 1, items i00004\. Divide each"),
        ((vectors, probs), "predict.*i00005"),
        ((vectors, np.log(probabilities(12))), "predictions of 12 of 12 items are no probabilities"),
    ):
        with pytest.raises(DataError, match=message):
            STRATEGIES[name](situation(*given, labelled=NONE, queued=NONE), 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"predicted": np.ones((3, 3)) / 3}, r"predicted of the pool is of shape \(3, 3\); give .* of shape \(12, 3\)"),
        ({"votes": [[0.0] * 3] * 12}, "votes of the pool is list"),
        ({"labelled": np.arange(12) < 2}, r"labelled of the pool are bool .*np\.flatnonzero"),
        ({"labelled": np.array([0, 12])}, "from 0 to 12; give whole numbers from 0 to 11"),
        (
            {"labelled": np.array([3, 5, 5, 3, 5]), "gold": np.zeros(5, np.int64)},
            "Item 3 of the pool is labelled 2 times; give one label for each item",
        ),
        ({"gold": np.array([0])}, "1 gold labels for 2 labelled items"),
        ({"gold": np.array([0, 3])}, "gold labels of the pool are int64 from 0 to 3"),
    ],
)
def test_what_is_known_fits_the_items(wrong: dict[str, Any], message: str) -> None:
    sound = situation(clusters(12)[0], probabilities(12), labelled=np.array([0, 1]), queued=NONE)
    with pytest.raises(SettingsError, match=message):
        replace(sound.pool, **wrong)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1], [2], [3]], "Neighbours are int64 from 1 to 3; give whole numbers from -1 to 2"),
        ([[1.0], [2.0], [0.0]], "Neighbours are float64"),
        ([[1], [1], [0]], "Item 1 has 1 among its neighbours twice, or itself"),
        ([[1, 1], [2, 0], [0, 1]], "Item 0 has 1 among its neighbours twice"),
        ([[1], [0]], r"Vectors have shape \(3, 16\), cosines \(2, 1\) and neighbours \(2, 1\)"),
    ],
)
def test_neighbours_are_other_items_of_the_pool(rows: list[list[int]], message: str) -> None:
    given = np.array(rows)
    with pytest.raises(SettingsError, match=message):
        PoolGraph.build(clusters(3)[0], np.full(given.shape, 0.5, np.float32), given)


def test_a_graph_is_made_of_frames_too() -> None:
    vectors, known = clusters(3)[0], np.array([[1], [2], [0]])
    cosines = np.full(known.shape, 0.5, np.float32)
    frames: list[Any] = [pd.DataFrame(given) for given in (vectors, cosines, known)]
    made, plain = PoolGraph.build(*frames), PoolGraph.build(vectors, cosines, known)
    assert type(made.vectors) is np.ndarray, "all that asks the graph counts on it"
    assert np.array_equal(made.vectors, plain.vectors)
    assert np.array_equal(made.rows, plain.rows)
    assert np.array_equal(made.weights, plain.weights)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_batch_that_is_no_number_of_items_is_refused(name: str) -> None:
    """Half an item was rounded up, and less than none picked none, without a word."""
    sound = situation(clusters(12)[0], probabilities(12), labelled=np.array([0, 1]), queued=NONE)
    for batch in (2.5, -1, True, "2"):
        with pytest.raises(SettingsError, match=f"The batch is {batch!r}; give how many items to pick"):
            find_strategy(name)(sound, cast("Any", batch))


def test_pool_graph_and_generator_belong_together() -> None:
    sound = situation(clusters(12)[0], probabilities(12), labelled=NONE, queued=NONE)
    others = situation(clusters(9)[0], probabilities(9), labelled=NONE, queued=NONE)
    with pytest.raises(SettingsError, match="The graph has 9 items, the pool 12"):
        replace(sound, graph=others.graph)
    with pytest.raises(SettingsError, match="The generator is 0; give one"):
        replace(sound, generator=0)  # pyright: ignore[reportArgumentType]


def my_strategy(situation: Situation, batch: int) -> Pick:
    return Pick(situation.pool.open[:batch], np.ones(min(batch, len(situation.pool.open))))


NOT_A_FUNCTION = 3


def test_a_strategy_of_ones_own_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    group = "siftline.strategies"
    points = EntryPoints(
        EntryPoint(name, f"{__name__}:{value}", group)
        for name, value in (("mine", "my_strategy"), ("gone", "nothing"), ("three", "NOT_A_FUNCTION"))
    )
    monkeypatch.setattr("active.strategies.entry_points", lambda group: points.select(group=group))
    assert find_strategy("mine") is my_strategy
    for name, message in (("gone", "cannot be loaded"), ("three", "int, no function"), ("best", "known are .*mine")):
        with pytest.raises(SettingsError, match=message):
            find_strategy(name)
