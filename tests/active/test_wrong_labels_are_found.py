"""Suspicion of labels: planted wrong ones come first, nothing is judged by itself, small cases are no fault."""

from pathlib import Path

import numpy as np
import pytest

from active.quality import suspects, suspicion
from tests.active.pools import CLASSES, clusters, label, small_pool
from warehouse import Lake, SettingsError

N = 240


def planted(share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    vectors, classes = clusters(N)
    generator = np.random.default_rng(1)
    wrong = generator.random(N) < share
    labels = classes.copy()
    labels[wrong] = (labels[wrong] + generator.integers(1, len(CLASSES), wrong.sum())) % len(CLASSES)
    return vectors, labels, wrong


def test_wrong_labels_come_first_and_are_more_probably_wrong_than_right() -> None:
    vectors, labels, wrong = planted(0.1)
    found = suspicion(vectors, labels, len(CLASSES), np.random.default_rng(0))
    assert ((found >= 0) & (found <= 1)).all()
    first = np.argsort(-found)[: wrong.sum()]
    assert wrong[first].mean() > 0.9
    assert found[wrong].mean() > 0.5 > 0.2 > found[~wrong].mean()


def test_the_second_round_finds_more() -> None:
    vectors, labels, wrong = planted(0.3)
    hits = [
        wrong[np.argsort(-suspicion(vectors, labels, 3, np.random.default_rng(0), rounds=rounds))[: wrong.sum()]].mean()
        for rounds in (1, 2)
    ]
    assert hits[1] >= hits[0]


def test_a_label_is_never_judged_by_itself() -> None:
    vectors, classes = clusters(60)
    labels = classes.copy()
    labels[0] = (labels[0] + 1) % 3
    assert suspicion(vectors, labels, 3, np.random.default_rng(0))[0] > 0.5
    copies = np.vstack([vectors, np.repeat(vectors[:1], 3, axis=0)])
    agreed = np.concatenate([labels, np.repeat(labels[:1], 3)])  # three copies say the same: then it is their word
    assert (
        suspicion(copies, agreed, 3, np.random.default_rng(0))[0]
        < suspicion(vectors, labels, 3, np.random.default_rng(0))[0]
    )


def test_equal_seeds_give_equal_figures() -> None:
    vectors, labels, _ = planted(0.1)
    one, two = (suspicion(vectors, labels, 3, np.random.default_rng(5)) for _ in range(2))
    assert one.tolist() == two.tolist()


@pytest.mark.parametrize("labels", [[], [0], [0, 1, 0], [2, 2, 2, 2, 2, 2]])
def test_where_nothing_can_be_compared_nothing_is_suspected(labels: list[int]) -> None:
    vectors, _ = clusters(max(1, len(labels)))
    found = suspicion(vectors[: len(labels)], np.array(labels, np.int64), 3, np.random.default_rng(0))
    assert found.tolist() == [0.0] * len(labels)


def test_classes_with_one_label_and_copies_are_no_fault() -> None:
    vectors, _ = clusters(6)
    found = suspicion(np.vstack([vectors] * 2), np.array([0] * 11 + [2]), 3, np.random.default_rng(0))
    assert np.isfinite(found).all()


def test_suspects_are_the_labels_in_force_with_the_class_that_others_prefer(lake: Lake, tmp_path: Path) -> None:
    vectors, classes = clusters(60)
    pool = small_pool(lake, tmp_path, vectors, test_rows=[1])
    answers = {pool.ids[row]: int(classes[row]) for row in range(0, 60)}
    answers[pool.ids[4]] = (answers[pool.ids[4]] + 1) % 3
    label(pool, answers)
    with lake.read() as reader:
        found = suspects(reader, pool.index())
        assert found == suspects(reader, pool.index())
    assert (found[0].item_id, found[0].label, found[0].likely) == (pool.ids[4], answers[pool.ids[4]], classes[4])
    assert len(found) == 59  # the test item is not in the index
    assert [one.suspicion for one in found] == sorted((one.suspicion for one in found), reverse=True)


def test_without_labels_there_are_no_suspects(lake: Lake, tmp_path: Path) -> None:
    pool = small_pool(lake, tmp_path, clusters(6)[0])
    with lake.read() as reader:
        assert suspects(reader, pool.index()) == []


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match="rounds of the label check is 0"):
        suspicion(np.eye(4, dtype=np.float32), np.arange(4), 4, np.random.default_rng(0), rounds=0)
