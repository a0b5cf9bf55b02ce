"""Suspicion of labels: planted wrong ones come first, nothing is judged by itself, small cases are no fault."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from active.quality.label_errors import suspects, suspicion, suspicion_by_class
from tests.active.pools import CLASSES, clusters, label, sets, small_pool, unit
from tests.active.test_consensus import say
from warehouse import DataError, Lake, SettingsError

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


def test_many_labels_are_judged_in_little_memory() -> None:
    vectors, labels = clusters(3000)
    labels[0] = 1
    suspicion(vectors[:60], labels[:60], len(CLASSES), np.random.default_rng(0))  # imports, which are slow when traced
    tracemalloc.start()
    try:
        found = suspicion(vectors, labels, len(CLASSES), np.random.default_rng(0), rounds=1)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found[0] > 0.9
    assert most < 70e6  # all cosines and their order take 144e6


@pytest.mark.parametrize("few", [1, 2, 4])
def test_the_first_labels_of_a_rare_class_are_not_suspected(few: int) -> None:
    centres = np.eye(5, 16)
    labels = np.append(np.repeat(np.arange(4), 20), [4] * few)
    vectors = unit(centres[labels] + 0.3 * np.random.default_rng(0).standard_normal((len(labels), 16)))
    labels[0] = 1
    found = suspicion(vectors, labels, 5, np.random.default_rng(0))
    assert found[-few:].tolist() == [0.0] * few
    assert found[0] > 0.5


def test_what_is_suspected_has_another_class_that_is_preferred(lake: Lake, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    vectors = unit(generator.standard_normal((N, 16)))
    pool = small_pool(lake, tmp_path / "index", vectors)
    label(pool, {item: int(generator.integers(3)) for item in pool.ids})
    found = suspects(lake.read(), pool.index())
    assert len({one.suspicion > 0.5 for one in found}) == 2
    assert all((one.suspicion > 0.5) == (one.likely != one.labels) for one in found)


def test_suspects_are_the_labels_in_force_with_the_class_that_others_prefer(lake: Lake, tmp_path: Path) -> None:
    vectors, classes = clusters(60)
    pool = small_pool(lake, tmp_path, vectors, test_rows=[1])
    answers = {pool.ids[row]: int(classes[row]) for row in range(0, 60)}
    answers[pool.ids[4]] = (answers[pool.ids[4]] + 1) % 3
    label(pool, answers)
    with lake.read() as reader:
        found = suspects(reader, pool.index())
        assert found == suspects(reader, pool.index())
    assert (found[0].item_id, found[0].labels, found[0].likely) == (pool.ids[4], (answers[pool.ids[4]],), (classes[4],))
    assert len(found) == 59  # the test item is not in the index
    assert [one.suspicion for one in found] == sorted((one.suspicion for one in found), reverse=True)


def planted_sets() -> tuple[np.ndarray, np.ndarray, dict[int, int]]:
    """Vectors, answers, and by item the class whose answer is wrong: half are forgotten, half are one too many."""
    vectors, has = sets(N)
    answers, wrong = has.copy(), dict[int, int]()
    generator = np.random.default_rng(1)
    for row in generator.permutation(N)[:24].tolist():
        of = has[row] if len(wrong) % 2 and has[row].any() else ~has[row]
        if of.any():
            wrong[row] = int(generator.choice(np.flatnonzero(of)))
            answers[row, wrong[row]] ^= True
    return vectors, answers, wrong


def test_with_several_classes_forgotten_and_added_ones_come_first_and_are_named() -> None:
    vectors, answers, wrong = planted_sets()
    found = suspicion_by_class(vectors, answers, np.random.default_rng(0))
    assert found.shape == answers.shape
    first = np.argsort(-found.max(axis=1))[: len(wrong)].tolist()
    hits = [row for row in first if row in wrong]
    assert len(hits) > 0.85 * len(wrong)
    assert [int(found[row].argmax()) for row in hits] == [wrong[row] for row in hits]
    for forgotten in (False, True):
        of_kind = {row for row, number in wrong.items() if answers[row, number] != forgotten}
        assert len(of_kind & set(hits)) > 0.7 * len(of_kind)
    right = [row for row in range(N) if row not in wrong]
    assert (found[right].max(axis=1) > 0.5).mean() < 0.1


def test_a_yes_is_less_suspicious_than_a_forgotten_one_although_most_answers_are_no() -> None:
    generator, kinds = np.random.default_rng(0), np.arange(N) % 8
    vectors = unit(np.eye(16)[kinds] + 0.45 * generator.standard_normal((N, 16)))
    answers, forgotten = kinds[:, None] == np.arange(8), generator.random(N) < 0.1
    answers[forgotten] = False
    own = (np.arange(N), kinds)
    found = suspicion_by_class(vectors, answers, np.random.default_rng(0))
    assert found[own][forgotten].mean() > 1.5 * found[own][~forgotten].mean()
    assert (found[~forgotten].max(axis=1) > 0.5).mean() < 0.15
    as_one_class = [suspicion(vectors, of.astype(np.int64), 2, np.random.default_rng(0)) for of in answers.T]
    plain = np.stack(as_one_class, axis=1)
    assert plain[own][forgotten].mean() < plain[own][~forgotten].mean()


def test_a_class_that_hardly_any_item_has_is_not_judged() -> None:
    vectors, has = sets(60)
    has[:, 0] = np.arange(60) < 4
    has[:, 1] = np.arange(60) >= 4
    found = suspicion_by_class(vectors, has, np.random.default_rng(0))
    assert found[:, :2].max() == 0
    assert found[:, 2].max() > 0
    assert suspicion_by_class(vectors[:0], has[:0], np.random.default_rng(0)).shape == (0, 3)


def test_with_several_classes_a_suspect_names_what_is_in_question(lake: Lake, tmp_path: Path) -> None:
    vectors, answers, wrong = planted_sets()
    pool = small_pool(lake, tmp_path, vectors, multi_label=True)
    say(lake, {(item, "ann"): np.flatnonzero(of).tolist() for item, of in zip(pool.ids, answers, strict=True)})
    with lake.read() as reader:
        found = suspects(reader, pool.index())
        assert found == suspects(reader, pool.index())
    assert len(found) == N
    assert [one.suspicion for one in found] == sorted((one.suspicion for one in found), reverse=True)
    for one in found:
        differs = {*one.labels} ^ {*one.likely}
        assert one.labels == tuple(np.flatnonzero(answers[pool.ids.index(one.item_id)]))
        assert differs == ({one.in_question} if one.suspicion > 0.5 else set())
    worst = found[0]
    assert worst.in_question == wrong[pool.ids.index(worst.item_id)]


def test_without_labels_there_are_no_suspects(lake: Lake, tmp_path: Path) -> None:
    pool = small_pool(lake, tmp_path, clusters(6)[0])
    with lake.read() as reader:
        assert suspects(reader, pool.index()) == []


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match="rounds of the label check is 0"):
        suspicion(np.eye(4, dtype=np.float32), np.arange(4), 4, np.random.default_rng(0), rounds=0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, -1, 1], "int64 from -1 to 1; give class numbers from 0 to 1, of labelled items only"),
        ([0, 1, 2, 1], "from 0 to 2"),
        ([0.0, 1.0, 0.0, 1.0], "float64"),
        (["a", "b", "a", "b"], "Labels are <U1 such as 'a'; give class numbers from 0 to 1"),
        ([0, 1, 1], r"shape \(3,\); give one for each of the 4 vectors"),
    ],
)
def test_labels_that_are_none_are_refused(labels: list[float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        suspicion(np.eye(4, dtype=np.float32), np.array(labels), 2, np.random.default_rng(0))


def test_vectors_and_answers_of_ones_own_are_refused_in_words() -> None:
    seed: Any = 0
    vectors, labels = np.eye(4, dtype=np.float32), np.arange(4)
    with pytest.raises(DataError, match=r"4 of 4 items are not of length 1, items 0, 1, 2, 3\. Divide each"):
        suspicion(vectors * 5, labels, 4, np.random.default_rng(0))
    with pytest.raises(SettingsError, match=r"The generator is 0; give one, such as np\.random\.default_rng"):
        suspicion(vectors, labels, 4, seed)
    has = np.eye(4, dtype=np.int64)  # ~1 is -2
    with pytest.raises(SettingsError, match=r"is int64 of shape \(4, 4\); give a truth value for each item and class"):
        suspicion_by_class(vectors, has, np.random.default_rng(0))  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError, match=r"bool of shape \(3, 4\)"):
        suspicion_by_class(vectors, has[:3] == 1, np.random.default_rng(0))
