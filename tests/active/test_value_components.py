"""The value of a label: each component says what it claims, the mixture moves by its rule, the reason is true."""

from pathlib import Path

import numpy as np
import pytest

from active.graph import PoolGraph
from active.pool import Pool
from active.select import SelectConfig, select
from active.value import (
    ValueConfig,
    class_weight,
    disagreement,
    estimate_values,
    representative_share,
    uncertainty,
)
from tests.active.pools import SmallPool, clusters, label, small_pool, unit
from warehouse import Lake, SettingsError

COMPONENTS = ("value", "representativeness", "uncertainty", "disagreement", "redundancy")


def values(pool: SmallPool) -> dict[str, dict[str, float | str]]:
    with pool.lake.read() as reader:
        rows = reader.arrow('SELECT * FROM "values" WHERE cycle = (SELECT max(cycle) FROM "values")').to_pylist()
    return {row["item_id"]: row for row in rows}


def sure(n: int) -> np.ndarray:
    return np.tile([0.98, 0.01, 0.01], (n, 1))


def test_every_unlabelled_train_item_gets_a_value_between_0_and_1(lake: Lake, tmp_path: Path) -> None:
    n = 60
    probs = np.random.default_rng(0).dirichlet(np.ones(3), n)
    pool = small_pool(lake, tmp_path, clusters(n)[0], probs, test_rows=[0, 1], weak=probs[::-1])
    label(pool, {"i00002": 0})
    result = estimate_values(lake, pool.index(), ValueConfig())
    found = values(pool)
    assert result.rows_written == {"values": n - 3}
    assert set(found) == set(pool.ids) - {"i00000", "i00001", "i00002"}
    for name in COMPONENTS:
        assert all(0 <= row[name] <= 1 for row in found.values()), name
    assert not estimate_values(lake, pool.index(), ValueConfig()).committed


def test_the_more_unlabelled_neighbours_the_more_representative(lake: Lake, tmp_path: Path) -> None:
    axes = np.eye(16)
    crowd = axes[0] + 0.1 * np.random.default_rng(0).standard_normal((30, 16))
    pool = small_pool(lake, tmp_path, unit(np.vstack([axes[:1], crowd, axes[5:6]])), sure(32))
    estimate_values(lake, pool.index(), ValueConfig(neighbors=10))
    found = values(pool)
    assert found["i00000"]["representativeness"] > 2 * found["i00031"]["representativeness"]
    assert "Speaks for 30 records nobody has labelled" in found["i00000"]["reason"]


def test_a_labelled_neighbour_takes_value_away(lake: Lake, tmp_path: Path) -> None:
    vectors, _ = clusters(60)
    vectors[1] = unit(vectors[:1] + 0.02)[0]
    pool = small_pool(lake, tmp_path, vectors, sure(60))
    estimate_values(lake, pool.index(), ValueConfig())
    before = values(pool)["i00001"]
    label(pool, {"i00000": 0})
    estimate_values(lake, pool.index(), ValueConfig())
    after = values(pool)["i00001"]
    assert before["redundancy"] == 0
    assert after["redundancy"] > 0.9
    assert after["value"] < before["value"] / 2
    assert "close to one already labelled" in str(after["reason"])


def test_uncertainty_is_the_margin_of_the_item_and_its_neighbours() -> None:
    vectors = unit([[1, 0], [1, 0.01], [0, 1]])
    graph = PoolGraph.build(vectors, np.array([[0.99], [0.99], [0]], np.float32), np.array([[1], [0], [-1]]))
    even, certain = [0.5, 0.5], [1.0, 0.0]
    alone = uncertainty(graph, np.array([certain, certain, even]))
    assert alone == pytest.approx([0, 0, 1])
    beside = uncertainty(graph, np.array([certain, even, certain]))
    assert 0 < beside[0] < beside[1] < 1
    assert beside[2] == 0


def test_disagreement_sees_functions_against_each_other_and_models_against_each_other() -> None:
    agreed, split, silent = [2.0, 0.0], [1.0, 1.0], [0.0, 0.0]
    yes, no, nothing = [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]
    found = disagreement(
        np.array([agreed, split, agreed, silent]), np.array([yes, yes, yes, nothing]), np.array([yes, yes, no, no])
    )
    assert found == pytest.approx([0, 1, 1, 0])


def test_the_mixture_moves_from_representativeness_to_doubt_as_gold_grows() -> None:
    shares = [representative_share(pool_with(gold, voted=1.0)) for gold in (0, 32, 64, 128, 1_000)]
    assert shares == sorted(shares, reverse=True)
    assert len(set(shares)) == len(shares)
    assert all(0 < share < 1 for share in shares)
    assert representative_share(pool_with(0, voted=0.0)) == 1.0  # nothing is known: only what is typical counts


def test_every_class_counts_the_same_in_representativeness() -> None:
    predicted = np.repeat(np.eye(2), [90, 10], axis=0)
    weight = class_weight(predicted)
    assert weight[:90].sum() == pytest.approx(weight[90:].sum())
    assert class_weight(np.full((4, 2), 0.5)) == pytest.approx(1)


def pool_with(gold: int, voted: float) -> Pool:
    n = 1_000
    votes = np.zeros((n, 8))
    votes[: int(voted * n), 0] = 1
    return Pool(
        item_ids=[str(row) for row in range(n)],
        content_hashes=[""] * n,
        class_names=list("abcdefgh"),
        votes=votes,
        weak=np.zeros((n, 8)),
        predicted=np.full((n, 8), 1 / 8),
        has_prediction=np.zeros(n, np.bool_),
        labelled=np.arange(gold),
        gold=np.zeros(gold, np.int64),
        queued=np.empty(0, np.int64),
    )


def test_the_reason_is_what_the_tables_say(lake: Lake, tmp_path: Path) -> None:
    probs = sure(40)
    probs[7] = [0.48, 0.47, 0.05]
    pool = small_pool(lake, tmp_path, clusters(40)[0], probs, votes={7: [0, 1, 1], 8: [0, 0], 9: [2], 11: [0, 1, 2]})
    estimate_values(lake, pool.index(), ValueConfig())
    found = values(pool)
    assert "3 functions disagree on acq and earn" in found["i00007"]["reason"]
    assert "unsure between acq and earn" in found["i00007"]["reason"]
    assert "2 functions vote acq" in found["i00008"]["reason"]
    assert "the model says acq (98%)" in found["i00008"]["reason"]
    assert "1 function votes ship" in found["i00009"]["reason"]
    assert "3 functions disagree on acq, earn and ship" in found["i00011"]["reason"]
    assert "no function votes on it" in found["i00010"]["reason"]


def test_without_votes_and_models_the_typical_items_come_first(lake: Lake, tmp_path: Path) -> None:
    pool = small_pool(lake, tmp_path, clusters(60)[0])
    assert estimate_values(lake, pool.index(), ValueConfig()).committed
    found = values(pool)
    by_value = sorted(found, key=lambda item: float(found[item]["value"]))
    by_representativeness = sorted(found, key=lambda item: float(found[item]["representativeness"]))
    assert by_value[-5:] == by_representativeness[-5:]


def test_an_empty_pool_and_a_single_item_are_no_fault(lake: Lake, tmp_path: Path) -> None:
    pool = small_pool(lake, tmp_path, clusters(1)[0], sure(1))
    assert estimate_values(lake, pool.index(), ValueConfig()).rows_written == {"values": 1}
    label(pool, {"i00000": 0})
    assert "every train item" in estimate_values(lake, pool.index(), ValueConfig()).detail["reason"]


def test_the_cycle_is_the_next_selection(lake: Lake, tmp_path: Path) -> None:
    pool = small_pool(lake, tmp_path, clusters(60)[0], sure(60))
    assert estimate_values(lake, pool.index(), ValueConfig()).detail["cycle"] == 1
    select(lake, pool.index(), SelectConfig(project="p", batch=2))
    with lake.read() as reader:
        label(pool, {item: 0 for (item,) in reader.rows("SELECT item_id FROM queue")})
    assert estimate_values(lake, pool.index(), ValueConfig()).detail["cycle"] == 2


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match="neighbors is 0"):
        ValueConfig(neighbors=0)
