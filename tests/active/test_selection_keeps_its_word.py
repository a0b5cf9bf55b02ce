"""Selection: never an item twice, never beyond the budget, nothing while people still work, the same on every run."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from active.selection.stage import SelectConfig, select
from active.strategies import Pick
from active.value.stage import ValueConfig, estimate_values
from tests.active.pools import CLASSES, SmallPool, clusters, label, small_pool
from tests.lakes import copy_of
from warehouse import DataError, Lake, SettingsError, StageResult

N = 120


def probabilities(n: int, seed: int = 0) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).dirichlet(np.ones(len(CLASSES)), n)


@pytest.fixture
def pool(lake: Lake, tmp_path: Path) -> SmallPool:
    vectors, _ = clusters(N)
    return small_pool(lake, tmp_path / "index", vectors, probabilities(N), test_rows=range(0, N, 4))


def config(**changes: Any) -> SelectConfig:
    return SelectConfig(**{"project": "p", "batch": 8, "budget": 24, **changes})


def one_round(pool: SmallPool, settings: SelectConfig) -> StageResult:
    estimate_values(pool.lake, pool.index(), ValueConfig())
    return select(pool.lake, pool.index(), settings)


def queued(lake: Lake) -> list[tuple[str, int, int, float]]:
    with lake.read() as reader:
        return reader.rows("SELECT item_id, cycle, rank, value FROM queue ORDER BY cycle, rank")


def cycle_items(lake: Lake, cycle: int) -> list[str]:
    return [item for item, of, _, _ in queued(lake) if of == cycle]


def test_it_stays_within_the_budget_and_never_asks_twice(pool: SmallPool) -> None:
    settings = config(budget=20)
    for cycle, in_all in ((1, 8), (2, 16), (3, 20)):
        result = one_round(pool, settings)
        assert result.committed
        assert result.detail["queued_in_all"] == in_all
        label(pool, dict.fromkeys(cycle_items(pool.lake, cycle), 0))
    last = one_round(pool, settings)
    assert not last.committed
    assert "budget of 20" in last.detail["reason"]
    items = [item for item, *_ in queued(pool.lake)]
    assert len(items) == len(set(items)) == 20
    assert [len(cycle_items(pool.lake, cycle)) for cycle in (1, 2, 3)] == [8, 8, 4]


def test_a_setting_that_is_changed_is_work_again(pool: SmallPool) -> None:
    spent = config(budget=0)  # nothing is selected, so all begin after the same commit
    changes = {"project": "q", "batch": 9, "strategy": "margin", "seed": 1, "neighbors": 7, "explore": 0.5}
    changes |= {"most_per_class": 0.5, "slice_by": "m", "most_per_slice": 0.5, "cost": "seconds"}
    assert set(changes) == {field.name for field in fields(spent)} - {"budget", "refill_below"}
    settings = [spent, *(replace(spent, **{name: value}) for name, value in changes.items()), config(budget=8)]
    assert len({select(pool.lake, pool.index(), one).token for one in settings}) == len(settings)


def test_only_train_items_are_selected_and_ranks_follow_the_value(pool: SmallPool) -> None:
    assert one_round(pool, config(batch=N, budget=N)).committed
    with pool.lake.read() as reader:
        assert reader.rows("SELECT DISTINCT split FROM items JOIN queue USING (item_id)") == [("train",)]
    _, _, ranks, values = zip(*queued(pool.lake), strict=True)
    assert ranks == tuple(range(1, len(ranks) + 1))
    assert list(values) == sorted(values, reverse=True)


def test_equal_snapshots_and_seeds_give_equal_queues(tmp_path: Path) -> None:
    hashes: list[str] = []
    for name in ("one", "two"):
        with copy_of(Lake, tmp_path / name) as lake:
            pool = small_pool(lake, tmp_path / f"index-{name}", clusters(N)[0], probabilities(N))
            one_round(pool, config(seed=3))
            hashes.append(lake.content_hash(["queue"])["queue"])
    assert hashes[0] == hashes[1]


def test_when_only_copies_are_left_nothing_is_selected(lake: Lake, tmp_path: Path) -> None:
    vectors, _ = clusters(6)
    pool = small_pool(lake, tmp_path / "index", np.vstack([vectors, vectors]), probabilities(12))
    one_round(pool, config(batch=8))
    assert len(cycle_items(lake, 1)) == 6
    label(pool, dict.fromkeys(cycle_items(lake, 1), 0))
    assert "nothing is left" in one_round(pool, config(batch=8)).detail["reason"]


def test_an_empty_warehouse_gives_nothing(lake: Lake, tmp_path: Path) -> None:
    pool = SmallPool(lake=lake, folder=tmp_path, ids=[])
    assert not estimate_values(lake, pool.index(), ValueConfig()).committed
    assert "nothing is left" in select(lake, pool.index(), config()).detail["reason"]


@pytest.mark.parametrize("strategy", ["k-means", "typiclust", "patron", "badge", "value"])
def test_a_batch_of_which_all_is_explored_asks_no_strategy(pool: SmallPool, strategy: str) -> None:
    one_round(pool, config(batch=1, explore=0.05, strategy=strategy))
    assert len(cycle_items(pool.lake, 1)) == 1


def give(rows: Any, values: Any) -> Any:
    return lambda situation, batch: Pick(np.array(rows), np.array(values))


def broken(situation: Any, batch: int) -> Pick:
    raise ZeroDivisionError("nothing to divide")


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (broken, "failed: ZeroDivisionError: nothing to divide"),
        (lambda situation, batch: None, "failed: AttributeError"),
        (give([3, 3], [1.0, 0.5]), "an item twice"),
        (give([0], [1.0]), "labelled or queued, or that do not exist"),
        (give([-1], [1.0]), "do not exist"),
        (give([900], [1.0]), "do not exist"),
        (give([1.0], [1.0]), "float64"),
        (give([4, 5], [1.0]), "values of shape"),
        (give([4], [np.nan]), "not between 0 and 1"),
        (give(range(3, 30), np.ones(27)), "27 items where 8 were asked for"),
    ],
)
def test_a_strategy_of_ones_own_cannot_break_the_promises(
    pool: SmallPool, strategy: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    label(pool, {"i00001": 0})  # the first of the train items
    monkeypatch.setattr("active.selection.stage.find_strategy", lambda name: strategy)
    with pytest.raises(SettingsError, match=f"The strategy 'mine' .*{message}"):
        select(pool.lake, pool.index(), config(strategy="mine"))
    assert queued(pool.lake) == []


@pytest.mark.parametrize("what", ["predicted", "weak"])
def test_probabilities_that_are_not_finite_are_refused_before_anything_is_stored(
    lake: Lake, tmp_path: Path, what: str
) -> None:
    predicted, weak = probabilities(N), probabilities(N)
    {"predicted": predicted, "weak": weak}[what][7, 1] = np.nan
    pool = small_pool(lake, tmp_path / "index", clusters(N)[0], predicted, weak=weak)
    message = f"{what} probabilities of 1 of {N} items.*i00007"
    with pytest.raises(DataError, match=message):
        estimate_values(lake, pool.index(), ValueConfig())
    with pytest.raises(DataError, match=message):
        select(lake, pool.index(), config())


def test_nothing_is_selected_while_people_still_work(pool: SmallPool) -> None:
    one_round(pool, config())
    first = cycle_items(pool.lake, 1)
    label(pool, dict.fromkeys(first[:6], 1))
    waiting = one_round(pool, config())
    assert not waiting.committed
    assert "waiting for answers to 2 tasks" in waiting.detail["reason"]
    assert one_round(pool, config(refill_below=2)).committed
    assert len(cycle_items(pool.lake, 2)) == 8


def test_a_second_run_selects_nothing_more(pool: SmallPool) -> None:
    settings = config(refill_below=100)
    assert one_round(pool, settings).committed
    snapshot = pool.lake.snapshot()
    assert not one_round(pool, settings).committed
    assert pool.lake.snapshot() == snapshot


def test_the_suggestion_is_the_models_answer_or_none(lake: Lake, tmp_path: Path) -> None:
    vectors, _ = clusters(30)
    pool = small_pool(lake, tmp_path / "index", vectors)
    one_round(pool, config())
    with lake.read() as reader:
        assert reader.rows("SELECT DISTINCT prediction, confidence FROM queue") == [(-1, 0.0)]


def test_the_suggestion_carries_its_confidence(pool: SmallPool) -> None:
    one_round(pool, config())
    with pool.lake.read() as reader:
        rows = reader.rows(
            "SELECT q.prediction = p.class_id AND q.confidence = p.confidence, q.reason = v.reason FROM queue q "
            'JOIN latest_predictions p USING (item_id) JOIN "values" v USING (item_id, cycle)'
        )
    assert rows == [(True, True)] * 8


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("batch", 0),
        ("budget", -1),
        ("refill_below", -1),
        ("seed", -1),
        ("neighbors", 0),
        ("strategy", "best"),
        ("explore", 1.5),
        ("most_per_class", 0),
        ("most_per_slice", -1),
        ("slice_by", 'a"b'),
    ],
)
def test_wrong_settings_are_refused_with_their_value(setting: str, value: object) -> None:
    with pytest.raises(SettingsError, match=str(value)):
        config(**{setting: value})
