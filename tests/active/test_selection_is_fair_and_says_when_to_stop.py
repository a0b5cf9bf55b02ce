"""Exploration leaves a sample that selection cannot bias, quotas hold, and the outlook says what more labels bring."""

import json
import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from active.pool.pool import read_pool
from active.queue.outbox import QueueConfig
from active.queue.push import push
from active.selection.exploration import EXPLORED, FairScore, exploration_order, fair_sample, score_fair_sample
from active.selection.stage import SelectConfig, select
from active.selection.stopping import outlook
from active.task_folder.service import TaskFolder
from active.value.stage import ValueConfig, estimate_values
from tests.active.pools import CLASSES, SmallPool, clusters, label, predictions, sets, small_pool
from warehouse import Lake, SettingsError, Upsert

N = 120


def filled(lake: Lake, folder: Path) -> tuple[SmallPool, np.ndarray]:
    vectors, classes = clusters(N)
    probs = np.eye(len(CLASSES))[classes] * 0.4 + 0.2
    metadata = {row: '{"author": "ann"}' for row in range(0, 60)} | {row: '{"author": 7}' for row in range(60, 90)}
    return small_pool(lake, folder, vectors, probs, metadata=metadata), classes


def one_round(pool: SmallPool, settings: SelectConfig) -> list[tuple[str, str, float]]:
    estimate_values(pool.lake, pool.index(), ValueConfig())
    assert select(pool.lake, pool.index(), settings).committed
    with pool.lake.read() as reader:
        return reader.rows(
            "SELECT item_id, reason, value FROM queue WHERE cycle = (SELECT max(cycle) FROM queue) ORDER BY rank"
        )


def test_the_fair_sample_is_the_begin_of_an_order_that_selection_does_not_know(lake: Lake, tmp_path: Path) -> None:
    pool, _ = filled(lake, tmp_path)
    settings = SelectConfig(project="p", batch=16, budget=64, explore=0.25)
    explored: list[str] = []
    for _ in range(3):
        rows = one_round(pool, settings)
        explored += [item for item, reason, value in rows if reason == EXPLORED and value == 0]
        label(pool, {item: 0 for item, _, _ in rows})
    order = [pool.ids[row] for row in exploration_order(pool.ids, 0)]
    with pool.lake.read() as reader:
        state = read_pool(reader, pool.ids)
        fair = [state.item_ids[row] for row in fair_sample(state.item_ids, state.labelled, state.skipped, 0)[0]]
    assert len(explored) == 12
    assert len(fair) >= 12
    assert fair == order[: len(fair)]
    assert set(explored) <= set(fair)


def test_who_answers_for_the_fair_sample_is_not_told_what_the_model_says(lake: Lake, tmp_path: Path) -> None:
    pool, _ = filled(lake, tmp_path)
    rows = one_round(pool, SelectConfig(project="p", batch=16, budget=64, explore=0.25))
    push(lake, TaskFolder(tmp_path / "tasks", "p"), QueueConfig(project="p", classes=CLASSES))
    tasks = [json.loads(path.read_text("utf-8")) for path in (tmp_path / "tasks").glob("*.json")]
    drawn = {item for item, reason, _ in rows if reason == EXPLORED}
    assert {task["data"]["item_id"] for task in tasks if "predictions" not in task} == drawn
    assert 0 < len(drawn) < len(tasks) == 16
    with lake.read() as reader:
        assert {item for (item,) in reader.rows("SELECT item_id FROM queue WHERE prediction = -1")} == drawn


def test_the_fair_sample_goes_on_behind_a_skipped_item_and_ends_before_an_open_one(lake: Lake, tmp_path: Path) -> None:
    pool, _ = filled(lake, tmp_path)
    rows = one_round(pool, SelectConfig(project="p", batch=4, budget=8, explore=1.0))
    first, skipped, third, still_open = [pool.ids[int(row)] for row in exploration_order(pool.ids, 0)[:4]]
    assert {item for item, _, _ in rows} == {first, skipped, third, still_open}
    label(pool, {first: 0, third: 1})
    with lake.stage("fixture", version=2, inputs=()) as stage:
        queue = stage.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM queue WHERE item_id = ?", [skipped])
        stage.commit([Upsert("queue", pa.Table.from_pylist([{**queue.to_pylist()[0], "state": "answered"}]))])

    def fair() -> list[str]:
        with lake.read() as reader:
            state = read_pool(reader, pool.ids)
            return [state.item_ids[row] for row in fair_sample(state.item_ids, state.labelled, state.skipped, 0)[0]]

    assert fair() == [first, third]
    edited = "UPDATE lake.items SET content_hash = 'another' WHERE item_id = ?"  # nobody saw the text it has now
    cursor = lake.new_cursor()
    cursor.execute(edited, [skipped])
    cursor.close()
    assert fair() == [first]


def test_items_that_keep_coming_in_do_not_cut_the_fair_sample() -> None:
    generator, ids, came, asked = np.random.default_rng(0), [f"i{n}" for n in range(2000)], [0] * 2000, set[int]()
    sizes, ages, explored = [0], [0], 0
    for cycle in range(1, 101):
        labelled = np.array(sorted(asked), np.int64)  # all that was asked is answered, and then more comes in
        ids += [f"new {cycle} {n}" for n in range(20)]
        came += [cycle] * 20
        fair, before = fair_sample(ids, labelled, np.array([], np.int64), 0, np.array(came))
        order = exploration_order(ids, 0)
        since = {row for row in range(len(ids)) if before is None or came[row] < before}
        place = {int(row): n for n, row in enumerate(order)}
        last = max((place[int(row)] for row in fair), default=-1)
        assert set(fair.tolist()) == set(order[: last + 1].tolist()) & since, "one that came before is left out"
        assert set(fair.tolist()) <= asked
        explored += 2
        sizes.append(len(fair))
        ages.append(0 if before is None else cycle - before)
        asked.update([int(row) for row in order if int(row) not in asked][:2])
        asked.update(int(row) for row in generator.permutation(len(ids))[:14])
    assert sizes[-1] >= explored - 2
    assert all(after >= 0.8 * before for before, after in pairwise(sizes)), "it does not shrink by what comes in"
    assert max(ages) <= 20, "nor is it one of long ago"


def fair_score(lake: Lake) -> FairScore | None:
    """Without the items of the commonest label, which are counted apart."""
    with lake.read() as reader:
        found = score_fair_sample(reader, 0)
    return replace(found, commonest=0) if found else None


def predict_again(pool: SmallPool, probs: np.ndarray) -> None:
    with pool.lake.stage("fixture", version=9, inputs=()) as stage:
        stage.commit([Upsert("predictions", predictions("m2", pool.ids, probs))])


def test_the_fair_sample_counts_what_the_end_model_said_before_people_answered(lake: Lake, tmp_path: Path) -> None:
    pool, classes = filled(lake, tmp_path)
    assert fair_score(lake) is None, "nothing was explored"
    rows = one_round(pool, SelectConfig(project="p", batch=12, budget=24, explore=1.0))
    assert fair_score(lake) == FairScore(0, 0)
    answers = {item: int(classes[pool.ids.index(item)]) for item, _, _ in rows}
    wrong = sorted(answers)[:3]
    label(pool, {item: (said + 1) % 3 if item in wrong else said for item, said in answers.items()})
    assert fair_score(lake) == FairScore(12, 9)
    given = Counter((said + 1) % 3 if item in wrong else said for item, said in answers.items())
    with lake.read() as reader:
        told = score_fair_sample(reader, 0)
    assert told
    assert told.commonest == max(given.values())
    learned = np.eye(len(CLASSES))[classes] * 0.9 + 0.03
    for item in wrong:
        learned[pool.ids.index(item)] = np.eye(len(CLASSES))[(answers[item] + 1) % 3]
    predict_again(pool, learned)
    assert fair_score(lake) == FairScore(12, 9), "the model was asked about what it had learned"
    label(pool, {wrong[1]: (answers[wrong[1]] + 1) % 3})  # the same once more
    assert fair_score(lake) == FairScore(12, 9), "what was said after the first answer counted"
    row = {"item_id": wrong[0], "project": "p", "round": 1, "task_id": "t", "content_hash": "h", "why": "edited"}
    with lake.stage("fixture", version=10, inputs=()) as stage:
        stage.commit([Upsert("asked_before", pa.Table.from_pylist([row]))])
    assert fair_score(lake) == FairScore(11, 9)


def test_what_was_answered_last_is_told_for_itself(lake: Lake, tmp_path: Path) -> None:
    pool, classes = filled(lake, tmp_path)
    asked = [item for item, _, _ in one_round(pool, SelectConfig(project="p", batch=36, budget=36, explore=1.0))]
    answers = {item: int(classes[pool.ids.index(item)]) for item in asked}
    label(pool, {item: (answers[item] + 1) % 3 for item in asked[:20]})
    label(pool, {item: answers[item] for item in asked[20:]})
    assert fair_score(lake) == FairScore(36, 16, None, last=12, last_right=12)


def test_in_a_multi_label_project_the_end_model_is_right_where_the_whole_set_is(lake: Lake, tmp_path: Path) -> None:
    vectors, has = sets(N)
    pool = small_pool(lake, tmp_path, vectors, np.where(has, 0.8, 0.1), multi_label=True)
    rows = one_round(pool, SelectConfig(project="p", batch=12, budget=24, explore=1.0))
    answers = {item: np.flatnonzero(has[pool.ids.index(item)]).tolist() for item, _, _ in rows}
    assert [] in answers.values()
    wrong = next(item for item, classes in answers.items() if classes)
    answers[wrong] = []
    label(pool, answers)
    assert fair_score(lake) == FairScore(12, 11)


def test_the_order_depends_on_ids_and_seed_alone_and_keeps_when_items_are_added() -> None:
    ids = [f"i{number}" for number in range(50)]
    before = [ids[row] for row in exploration_order(ids, 0)]
    more = [*ids, *(f"new{number}" for number in range(50))]
    after = [more[row] for row in exploration_order(more, 0)]
    assert [item for item in after if item in set(ids)] == before
    assert before != [ids[row] for row in exploration_order(ids, 1)]
    assert sorted(before) == sorted(ids)


def test_a_share_that_floating_point_makes_a_little_larger_is_not_rounded_up(lake: Lake, tmp_path: Path) -> None:
    pool, _ = filled(lake, tmp_path)
    settings = SelectConfig(project="p", batch=100, budget=100, explore=0.07, most_per_class=0.28)  # 7.000000000000001
    rows = one_round(pool, settings)
    assert sum(reason == EXPLORED for _, reason, _ in rows) == 7
    picked = [int(item[1:]) % len(CLASSES) for item, reason, _ in rows if reason != EXPLORED]
    assert np.bincount(picked).tolist() == [28, 28, 28]


@pytest.mark.parametrize(("batch", "rounds"), [(1, 7), (6, 3)])
def test_small_batches_explore_the_share_of_all_that_was_selected(
    lake: Lake, tmp_path: Path, batch: int, rounds: int
) -> None:
    pool, _ = filled(lake, tmp_path)
    explored = [0]
    for _ in range(rounds):
        rows = one_round(pool, SelectConfig(project="p", batch=batch, budget=100, explore=0.2))
        explored.append(explored[-1] + sum(reason == EXPLORED for _, reason, _ in rows))
        label(pool, {item: 0 for item, _, _ in rows})
    assert explored == [math.ceil(batch * number / 5) for number in range(rounds + 1)]


def test_a_batch_holds_no_more_of_a_class_or_slice_than_its_quota(lake: Lake, tmp_path: Path) -> None:
    pool, classes = filled(lake, tmp_path)
    by_class = SelectConfig(project="p", batch=12, budget=12, most_per_class=0.34)
    picked = [int(item[1:]) for item, _, _ in one_round(pool, by_class)]
    assert max(np.bincount(classes[picked])) <= 5
    by_slice = SelectConfig(project="q", batch=12, budget=12, slice_by="author", most_per_slice=0.25)
    picked = [int(item[1:]) for item, _, _ in one_round(pool, by_slice)]
    assert sum(row < 60 for row in picked) <= 3
    assert sum(60 <= row < 90 for row in picked) <= 3
    assert sum(row >= 90 for row in picked) >= 6  # without the key there is no limit


def test_with_several_classes_an_item_counts_for_each_that_it_is_thought_to_have(lake: Lake, tmp_path: Path) -> None:
    has = np.random.default_rng(0).random((N, len(CLASSES))) < [0.6, 0.6, 0.8]
    probs = np.where(has, [0.8, 0.7, 0.6], 0.3)  # the last class is had most and is seldom the most probable one
    pool = small_pool(lake, tmp_path, clusters(N)[0], probs, multi_label=True)
    settings = SelectConfig(project="p", batch=12, budget=12, most_per_class=0.5)
    picked = [int(item[1:]) for item, _, _ in one_round(pool, settings)]
    assert has[picked].sum(axis=0).max() <= 6
    assert has[picked].any(axis=0).all()


def test_the_outlook_follows_an_inverse_power_law() -> None:
    truth = {n: 0.9 - 2.0 / n for n in (32, 64, 96, 128)}
    found = outlook(truth, 100)
    assert found is not None
    assert found.gain == pytest.approx(2.0 / 128 - 2.0 / 228, rel=0.05)
    assert found.low <= found.gain <= found.high
    assert found.sentence().startswith("The next 100 labels are worth about 0.7 points of accuracy")


def test_a_flat_or_falling_curve_promises_nothing_and_a_rising_one_no_more_than_all() -> None:
    for scores in ([0.9, 0.9, 0.9, 0.9], [0.9, 0.8, 0.85, 0.8]):
        found = outlook(dict(zip((32, 64, 96, 128), scores, strict=True)))
        assert found is not None
        assert found.gain == 0
    steep = outlook({16: 0.1, 32: 0.5, 48: 0.8, 64: 0.99}, 100_000)
    assert steep is not None
    assert 0 <= steep.gain <= 0.3


def test_the_interval_of_the_outlook_holds_what_then_comes() -> None:
    generator, held = np.random.default_rng(0), 0
    for power in np.resize((0.4, 0.5, 0.7, 1.0), 200):
        truth = {n: 0.95 - 0.8 * n**-power for n in (*range(32, 321, 32), 420)}
        scored = {n: generator.binomial(1000, share) / 1000 for n, share in truth.items() if n <= 320}
        found = outlook(scored, 100)
        assert found is not None
        assert 0 <= found.low <= found.gain <= found.high <= 1 - min(scored[320], 1 - found.gain)
        held += found.low <= truth[420] - truth[320] <= found.high
    assert held >= 150  # between the smallest and the largest of the fits without one point lie 108


def test_too_few_points_give_no_outlook_and_wrong_settings_are_refused() -> None:
    assert outlook({0: 0.5, 32: 0.8, 64: 0.85, 96: 0.86}) is None
    with pytest.raises(SettingsError, match="is 0"):
        outlook({}, 0)
    for odd in (80.0, -0.1, float("nan")):
        with pytest.raises(SettingsError, match=r"with 64 labels is .* from 0 to 1"):
            outlook({32: 0.8, 64: odd, 96: 0.86, 128: 0.87})
