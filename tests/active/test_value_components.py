"""The value of a label: each component says what it claims, the mixture moves by its rule, the reason is true."""

from pathlib import Path

import numpy as np
import pytest

from active.pool.graph import NEAR_DUPLICATE, PoolGraph
from active.pool.pool import MANY, read_pool
from active.selection.stage import SelectConfig, select
from active.value.reasons import ALIKE
from active.value.stage import ValueConfig, conflict, disagreement, estimate_values, information, uncertainty
from tests.active.pools import SmallPool, clusters, label, small_pool, unit
from tests.lakes import copy_of
from tests.weak_labels.small_lake import build
from warehouse import Lake, SettingsError
from weak_labels.end_model.stage import end_model
from weak_labels.label_models import label_model

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
    vectors = clusters(n)[0]
    vectors[3] = unit(vectors[2:3] + 0.06 * np.linspace(-1, 1, vectors.shape[1]))[0]
    pool = small_pool(lake, tmp_path, vectors, probs, test_rows=[0, 1], weak=probs[::-1])
    label(pool, {"i00002": 0})
    result = estimate_values(lake, pool.index(), ValueConfig())
    found = values(pool)
    assert result.rows_written == {"values": n - 3}
    assert set(found) == set(pool.ids) - {"i00000", "i00001", "i00002"}
    for name in COMPONENTS:
        assert all(0 <= row[name] <= 1 for row in found.values()), name
    assert 0.95 < float(found["i00003"]["redundancy"]) < 1
    assert found["i00003"]["value"] == 0, "a near-duplicate of a labelled item"
    assert not estimate_values(lake, pool.index(), ValueConfig()).committed


def test_a_cover_that_grows_item_by_item_is_that_of_all_to_the_last_bit() -> None:
    """What a pick adds is worked out anew where it changed alone: a gain of a million items for each took 1.5 s."""
    generator = np.random.default_rng(0)
    vectors = unit(generator.standard_normal((400, 8)).astype(np.float32))
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -2.0)
    rows = np.argsort(-similarity, axis=1)[:, :6]
    rows[7] = rows[8, 2:4] = -1  # with few neighbours or none of its own
    graph = PoolGraph.build(vectors, np.take_along_axis(similarity, rows, axis=1), rows)
    weight = generator.random(400)
    cover = graph.cover(rows[:0, 0])
    gain = graph.gain(cover, weight)
    taken = generator.permutation(400)[:60]
    for count, row in enumerate(taken.tolist(), start=1):
        touched = graph.cover_more(cover, row)
        before, gain[touched] = gain.copy(), graph.gain(cover, weight, touched)
        assert (cover == graph.cover(taken[:count])).all()
        assert (gain == graph.gain(cover, weight)).all()
        assert len(touched) < 200
        assert (gain <= before).all()
    assert len(graph.gain(cover, weight, rows[:0, 0])) == 0


def test_progress_begins_before_the_neighbours_are_looked_for(lake: Lake, tmp_path: Path) -> None:
    n = 20
    index = small_pool(lake, tmp_path, clusters(n)[0], sure(n)).index()
    told: list[tuple[int, int, bool]] = []

    def progress(done: int, total: int) -> None:
        told.append((done, total, bool(index._neighbors)))  # pyright: ignore[reportPrivateUsage]

    estimate_values(lake, index, ValueConfig(), progress)
    assert told[0] == (0, 3, False)
    assert told[-1] == (3, 3, True)


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


def test_while_many_labels_are_the_same_what_is_unlike_them_is_worth_most(lake: Lake, tmp_path: Path) -> None:
    vectors, classes = clusters(90)
    same = [f"i{row:05d}" for row in np.flatnonzero(classes == 0)]
    pool = small_pool(lake, tmp_path, vectors)

    def of() -> dict[str, dict[str, float | str]]:
        estimate_values(lake, pool.index(), ValueConfig())
        return values(pool)

    label(pool, dict.fromkeys(same[: MANY - 1], 0))
    few = of()
    assert not any(ALIKE in str(row["reason"]) for row in few.values())
    label(pool, {same[MANY - 1]: 0})
    many = {item: row for item, row in of().items() if item != same[MANY - 1]}
    for row in many.values():
        redundancy = float(row["redundancy"])
        assert row["value"] == pytest.approx(1 - redundancy if redundancy < NEAR_DUPLICATE else 0, abs=2e-6)
        assert str(row["reason"]).endswith(f"; {ALIKE}.")
    select(lake, pool.index(), SelectConfig(project="p", batch=3))
    with lake.read() as reader:
        first = reader.rows("SELECT item_id, value, reason FROM queue ORDER BY rank LIMIT 1")[0]
    best = max(many, key=lambda item: float(many[item]["value"]))
    assert first == (best, many[best]["value"], many[best]["reason"])
    assert best not in same
    label(pool, {best: 1})
    assert not any(ALIKE in str(row["reason"]) for row in of().values())


@pytest.mark.parametrize("classes", [[], [0, 2]])
def test_so_it_is_in_a_multi_label_project(lake: Lake, tmp_path: Path, classes: list[int]) -> None:
    pool = small_pool(lake, tmp_path, clusters(60)[0], multi_label=True)
    label(pool, {item: classes for item in pool.ids[:MANY]})
    estimate_values(lake, pool.index(), ValueConfig())
    assert all(str(row["reason"]).endswith(f"; {ALIKE}.") for row in values(pool).values())


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


def test_the_mixture_moves_from_representativeness_to_doubt_as_predictions_become_sure(tmp_path: Path) -> None:
    vectors, classes = clusters(90)
    doubtful = np.arange(90) % 9 == 0
    rising: list[float] = []
    for sharpness in (0.0, 2.0, 6.0):
        probs = np.exp(sharpness * np.eye(3)[classes])
        probs[doubtful] = 1.0
        with copy_of(Lake, tmp_path / f"lake{sharpness}") as other:
            pool = small_pool(other, tmp_path / f"index{sharpness}", vectors, probs / probs.sum(axis=1, keepdims=True))
            estimate_values(other, pool.index(), ValueConfig())
            found = values(pool)
        value = np.array([float(found[item]["value"]) for item in pool.ids])
        typical = np.array([float(found[item]["representativeness"]) for item in pool.ids])
        if sharpness == 0:
            assert value == pytest.approx(typical, abs=1e-5)  # nothing is known: only what is typical counts
        rising.append(value[doubtful].mean() / value[~doubtful].mean())
    assert rising == sorted(rising)
    assert rising[-1] > 5 * rising[0]


def test_a_contradiction_raises_the_value_of_what_lies_around_it(tmp_path: Path) -> None:
    vectors, classes = clusters(60)
    probs = np.eye(3)[classes] * 0.9 + 0.1 / 3
    mean: list[float] = []
    for wrong in (1, 2):  # the label model is wrong about one whole cluster
        with copy_of(Lake, tmp_path / f"lake{wrong}") as other:
            said = np.where(classes == wrong, 0, classes)
            weak, votes = np.eye(3)[said], {row: [int(vote)] for row, vote in enumerate(said)}
            pool = small_pool(other, tmp_path / f"index{wrong}", vectors, probs, weak=weak, votes=votes)
            estimate_values(other, pool.index(), ValueConfig())
            found = values(pool)
        mean.append(float(np.mean([float(found[pool.ids[row]]["value"]) for row in np.flatnonzero(classes == 1)])))
    assert mean[0] > 1.2 * mean[1]


def test_votes_for_one_class_alone_are_no_opinion_before_somebody_answers(tmp_path: Path) -> None:
    vectors, weak = clusters(40)[0], np.tile([0.1, 0.8, 0.1], (40, 1))
    found: list[dict[str, float]] = []
    for name, said in (("without", None), ("with", weak)):
        votes = {row: [1] for row in range(40)} if said is not None else None
        with Lake(tmp_path / name) as other:
            pool = small_pool(other, tmp_path / f"index of {name}", vectors, votes=votes, weak=said)
            estimate_values(other, pool.index(), ValueConfig())
            found.append({item: float(row["value"]) for item, row in values(pool).items()})
            assert not any(row["disagreement"] for row in values(pool).values())
    assert found[0] == found[1]


def test_the_reason_is_what_the_tables_say(lake: Lake, tmp_path: Path) -> None:
    probs = sure(40)
    probs[7] = [0.48, 0.47, 0.05]
    probs[12], probs[13] = [0.9951, 0.0049, 0], [0.9949, 0.0051, 0]
    pool = small_pool(lake, tmp_path, clusters(40)[0], probs, votes={7: [0, 1, 1], 8: [0, 0], 9: [2], 11: [0, 1, 2]})
    told = estimate_values(lake, pool.index(), ValueConfig()).detail
    found = values(pool)
    assert "3 functions disagree on acq and earn" in found["i00007"]["reason"]
    assert "unsure between acq and earn" in found["i00007"]["reason"]
    assert "2 functions vote acq" in found["i00008"]["reason"]
    assert "the model says acq (98%)" in found["i00008"]["reason"]
    assert "the model says acq (over 99%)" in found["i00012"]["reason"], "not 100%"
    assert "the model says acq (99%)" in found["i00013"]["reason"]
    assert "1 function votes ship" in found["i00009"]["reason"]
    assert "3 functions disagree on acq, earn and ship" in found["i00011"]["reason"]
    assert "no function votes on it" in found["i00010"]["reason"]
    best = max(found.values(), key=lambda row: float(row["value"]))
    assert best["value"] == 1
    with lake.read() as reader:
        known = read_pool(reader, pool.index().item_ids)
    doubt = information(known, PoolGraph.from_index(pool.index(), known.item_ids, 20))
    before = doubt.doubt
    doubt.settle(known.item_ids.index(str(best["item_id"])))
    share = 1 - doubt.doubt / before
    assert f"; a label would remove {share:.2%} of the model's doubt about all records" in str(best["reason"])
    assert told["share_of_doubt_best_label_removes"] == pytest.approx(share, abs=1e-5)


def test_without_votes_and_models_the_typical_items_come_first(lake: Lake, tmp_path: Path) -> None:
    pool = small_pool(lake, tmp_path, clusters(60)[0])
    assert estimate_values(lake, pool.index(), ValueConfig()).committed
    found = values(pool)
    by_value = sorted(found, key=lambda item: float(found[item]["value"]))
    by_representativeness = sorted(found, key=lambda item: float(found[item]["representativeness"]))
    assert by_value[-5:] == by_representativeness[-5:]


def test_the_class_shares_that_stand_for_no_vote_are_no_opinion(lake: Lake, tmp_path: Path) -> None:
    """The label model has a row for every item, also for those that no function votes on."""
    small = build(lake, tmp_path)
    silent, _, *voted = sorted(small.train_ids())
    for number in range(5):
        small.delete_votes(f"lf_{number}")
    for votes in ({}, {"some": {item: small.truth[item] for item in voted}}):
        if votes:
            small.put_votes(votes)
        assert label_model(lake, small.label_config).committed
        end_model(lake, small.end_config)
        with lake.read() as reader:
            assert reader.scalar("SELECT count(*) FROM latest_weak_labels WHERE list_sum(probs) > 0.99") == 180
            pool = read_pool(reader, small.train_ids())
        assert pool.weak.any() == bool(votes), "without votes the value is that of a project without functions"
        assert conflict(pool)[pool.item_ids.index(silent)] == 0


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
