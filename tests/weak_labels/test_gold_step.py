"""The gold step: bad weak labels are left behind, good ones kept, and few gold labels say nothing against either."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from weak_labels.classifiers import gold_update
from weak_labels.classifiers.gold_update import Judged, judge, learn
from weak_labels.classifiers.linear import EndModel, Floats, Ints, Vectors

CLASSES = 3


def clouds(n: int, seed: int) -> tuple[Vectors, Ints]:
    """Unit vectors [N, 64] of three classes, mostly noise as those of texts are, and their classes [N]."""
    generator = np.random.default_rng(seed)
    classes = generator.integers(CLASSES, size=n)
    vectors = np.eye(64)[classes] + 0.3 * generator.normal(size=(n, 64))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), classes


def taught(probs: Floats, vectors: Vectors) -> EndModel:
    weak = EndModel.fit_weak(vectors, probs, np.ones(len(vectors)))
    assert weak is not None
    return weak


def right(model: EndModel, vectors: Vectors, truth: Ints) -> float:
    return float((model.predict_proba(vectors).argmax(axis=1) == truth).mean())


def test_weak_labels_that_are_mostly_wrong_are_left_for_peoples() -> None:
    vectors, truth = clouds(900, seed=1)
    others, true_others = clouds(600, seed=2)
    weak = taught(0.9 * np.eye(CLASSES)[(truth + 1) % CLASSES] + 0.1 / CLASSES, vectors)
    seen, labels = vectors[:30], truth[:30]
    alone = right(EndModel.fit_gold(None, seen, labels, CLASSES), others, true_others)
    held = right(EndModel.fit_gold(weak, seen, labels, CLASSES), others, true_others)
    assert held < alone - 0.2, "else there is nothing to mend"
    assert judge([weak], seen, labels, CLASSES).of_weak < 0.05
    model = learn([weak], seen, labels, CLASSES)
    assert right(model, others, true_others) > alone - 0.01
    from_lists = learn([weak], seen.tolist(), labels.tolist(), CLASSES)  # type: ignore[arg-type]
    assert from_lists.weights_DC.tobytes() == model.weights_DC.tobytes()


def test_weak_labels_that_are_mostly_right_are_kept() -> None:
    vectors, truth = clouds(900, seed=1)
    weak = taught(0.9 * np.eye(CLASSES)[truth] + 0.1 / CLASSES, vectors)
    assert judge([weak], vectors[:12], truth[:12], CLASSES).of_weak > 0.8


@pytest.mark.parametrize("others", [0, 1])
def test_nothing_is_said_against_them_while_one_class_alone_has_labels(others: int) -> None:
    vectors, truth = clouds(900, seed=1)
    weak = taught(np.eye(CLASSES)[(truth + 1) % CLASSES], vectors)
    rows = np.concatenate([np.flatnonzero(truth == c)[: others if c else 10] for c in range(CLASSES)])
    seen, labels = vectors[rows], truth[rows]
    assert judge([weak], seen, labels, CLASSES).of_weak == 1.0
    held = EndModel.fit_gold(weak, seen, labels, CLASSES)
    assert learn([weak], seen, labels, CLASSES).weights_DC.tobytes() == held.weights_DC.tobytes()


def test_labels_of_classes_that_they_did_not_teach_say_nothing_against_them() -> None:
    vectors, truth = clouds(900, seed=1)
    weak = taught(np.eye(CLASSES)[1 - truth[truth < 2]], vectors[truth < 2])
    for classes, belief in (([0, 2], 1.0), ([0, 1], pytest.approx(0.0, abs=0.1))):
        rows = np.flatnonzero(np.isin(truth, classes))[:30]
        assert judge([weak], vectors[rows], truth[rows], CLASSES).of_weak == belief


@pytest.mark.parametrize(("labels", "judged"), [(14, False), (15, True)])
def test_a_class_that_few_labels_lack_may_be_common_and_is_waited_for(labels: int, judged: bool) -> None:
    vectors, truth = clouds(900, seed=1)
    weak = taught(np.eye(CLASSES)[(truth + 1) % CLASSES], vectors)
    rows = np.flatnonzero(truth < 2)[:labels]
    assert (judge([weak], vectors[rows], truth[rows], CLASSES).of_weak < 1.0) == judged


def with_a_rare_class(few: int) -> tuple[EndModel, Vectors, Ints, Ints]:
    """What weak labels teach that know the rare one of six classes and take two others for their neighbours.

    Returns:
        the model, vectors [N, 128], their classes [N], and rows of which 24 are of each class, but `few` of the rare.
    """
    generator = np.random.default_rng(4)
    truth = generator.choice(6, size=2000, p=[0.198] * 5 + [0.01])
    vectors = 0.35 * generator.normal(size=(6, 128))[truth] + generator.normal(size=(2000, 128))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    said = np.where(np.isin(truth, [0, 2]), truth + 1, truth)
    said = np.where(generator.random(2000) < 0.15, generator.integers(6, size=2000), said)
    rows = np.concatenate([np.flatnonzero(truth == c)[: 24 if c < 5 else few] for c in range(6)])
    return taught(0.7 * np.eye(6)[said] + 0.3 / 6, vectors), vectors, truth, rows


@pytest.mark.parametrize("few", [0, 1, 4])
def test_a_class_with_few_labels_or_none_does_not_keep_the_others_from_telling(few: int) -> None:
    weak, vectors, truth, rows = with_a_rare_class(few)
    seen, labels = vectors[rows], truth[rows]
    held = right(EndModel.fit_gold(weak, seen, labels, 6), vectors, truth)
    alone = right(EndModel.fit_gold(None, seen, labels, 6), vectors, truth)
    assert held < alone - 0.04, "else there is nothing to mend"
    assert right(learn([weak], seen, labels, 6), vectors, truth) > alone - 0.01


def test_one_label_of_a_class_says_nothing_of_weak_labels() -> None:
    # No model of the other labels can foretell it, so it would speak for weak labels however bad they are.
    weak, vectors, truth, rows = with_a_rare_class(1)
    without = judge([weak], vectors[rows[:-1]], truth[rows[:-1]], 6)
    assert judge([weak], vectors[rows], truth[rows], 6).of_weak == pytest.approx(without.of_weak, abs=0.01)


def test_every_class_counts_the_same_in_what_they_are_judged_by() -> None:
    # Labels selected from a class that functions take for another: a model of these alone, which says it of nearly
    # everything, foretells most of them best.
    vectors, truth = clouds(900, seed=3)
    said = np.where(truth == 0, 1, truth)
    weak = taught(0.9 * np.eye(CLASSES)[said] + 0.1 / CLASSES, vectors)
    rows = np.concatenate([np.flatnonzero(truth == c)[: 4 if c else 60] for c in range(CLASSES)])
    others, true_others = clouds(600, seed=4)
    alone = EndModel.fit_gold(None, vectors[rows], truth[rows], CLASSES)
    model = learn([weak], vectors[rows], truth[rows], CLASSES)
    assert judge([weak], vectors[rows], truth[rows], CLASSES).of_weak > 0.9
    assert right(model, others, true_others) > right(alone, others, true_others)


def two_views(informed: int, *, wrong: bool = False) -> tuple[list[EndModel], Vectors, Ints, tuple[slice, slice]]:
    """What weak labels teach in two views, of which one tells the classes and one is noise."""
    seen, truth = clouds(900, seed=6)
    noise, _ = clouds(900, seed=7)
    features = np.concatenate([noise, seen] if informed else [seen, noise], axis=1)
    views = (slice(0, 64), slice(64, 128))
    probs = 0.6 * np.eye(CLASSES)[(truth + 1) % CLASSES if wrong else truth] + 0.4 / CLASSES
    return [taught(probs, features[:, view]) for view in views], features, truth, views


@pytest.mark.parametrize("informed", [0, 1])
def test_the_view_that_foretells_gold_labels_is_the_one_that_is_believed(informed: int) -> None:
    weak, features, truth, views = two_views(informed)
    judged = judge(weak, features[:40], truth[:40], CLASSES, views=views)
    assert judged.shares[informed] > 0.9
    assert judged.of_weak == pytest.approx(sum(judged.shares[:2]))
    model = learn(weak, features[:40], truth[:40], CLASSES, views=views)
    assert right(model, features[40:], truth[40:]) > 0.9
    wrong = judge(two_views(informed, wrong=True)[0], features[:40], truth[:40], CLASSES, views=views)
    assert wrong.of_weak < 0.1 or not informed, "gold labels alone see the second view, where there is one"


def test_before_gold_labels_tell_the_first_view_weighs_more() -> None:
    weak, features, truth, views = two_views(0)
    model = learn(weak, features[:2], truth[:2], CLASSES, views=views)
    moved = [
        EndModel.fit_gold(of, features[:2, view], truth[:2], CLASSES) for of, view in zip(weak, views, strict=True)
    ]
    np.testing.assert_allclose(model.weights_DC[:64] / moved[0].weights_DC, 0.731, atol=0.001)
    np.testing.assert_allclose(model.weights_DC[64:] / moved[1].weights_DC, 0.269, atol=0.001)
    logits = sum(
        share * np.log(of.predict_proba(features[:, view]))
        for share, of, view in zip((0.731, 0.269), moved, views, strict=True)
    )
    np.testing.assert_allclose(
        model.predict_proba(features), np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), atol=0.001
    )


def partly_guessed(truth: Ints, seed: int) -> Ints:
    """Classes of which two in five are guesses."""
    noise = np.random.default_rng(seed)
    return np.where(noise.random(len(truth)) < 0.4, noise.integers(CLASSES, size=len(truth)), truth)


def test_labels_that_contradict_each_other_are_held_more_firmly_where_they_stand_alone() -> None:
    vectors, truth = clouds(1200, seed=5)
    seen, labels, others = vectors[:200], partly_guessed(truth, seed=0)[:200], slice(200, None)
    assert judge([], seen, labels, CLASSES) == Judged(ridge=1.0)
    plain = EndModel.fit_gold(None, seen, labels, CLASSES)
    model = learn([], seen, labels, CLASSES)
    assert right(model, vectors[others], truth[others]) > right(plain, vectors[others], truth[others]) + 0.02


def test_sixty_labels_or_more_may_say_so_and_only_on_evidence() -> None:
    vectors, truth = clouds(1200, seed=5)
    labels = partly_guessed(truth, seed=2)
    assert judge([], vectors[:60], labels[:60], CLASSES) == Judged(ridge=0.3)
    assert judge([], vectors[:59], labels[:59], CLASSES) == Judged()
    a_little_better = partly_guessed(truth, seed=1)[:60]  # a ridge of 0.3, by less than the prior asks for
    assert judge([], vectors[:60], a_little_better, CLASSES) == Judged()


def test_labels_that_agree_are_not_and_labels_of_one_class_say_nothing() -> None:
    vectors, truth = clouds(200, seed=5)
    assert judge([], vectors, truth, CLASSES) == Judged()
    assert judge([], vectors, np.zeros(200, np.int64), CLASSES) == Judged()


@pytest.mark.parametrize("labels", [[], np.array([]), np.array([0.0, 1.0]), [0, 1]])
@pytest.mark.parametrize("kind", ["without weak labels", "with weak labels"])
def test_no_labels_at_all_and_labels_in_any_form_are_learned_from(kind: str, labels: Any) -> None:
    vectors, truth = clouds(30, seed=1)
    weak = [taught(np.eye(CLASSES)[truth], vectors)] if kind == "with weak labels" else []
    expected = EndModel.fit_gold(weak[0] if weak else None, vectors[: len(labels)], labels, CLASSES)
    model = learn(weak, vectors[: len(labels)], labels, CLASSES)
    np.testing.assert_array_equal(model.weights_DC, expected.weights_DC)


@pytest.mark.parametrize("labels", [0, 9])
def test_a_few_weak_labels_that_taught_no_class_are_not_judged_by_labels_of_one(labels: int) -> None:
    vectors, truth = clouds(900, seed=1)
    weak = EndModel.fit_weak(vectors[:2], np.array([[0.4, 0.3, 0.3], [0.3, 0.4, 0.3]]), np.ones(2))
    assert weak is not None
    assert not weak.taught_C.any()
    rows = np.flatnonzero(truth == 0)[:labels]
    assert judge([weak], vectors[rows], truth[rows], CLASSES).of_weak == 1.0
    model = learn([weak], vectors[rows], truth[rows], CLASSES)
    assert np.isfinite(model.weights_DC).all()


def test_weak_labels_that_taught_no_class_are_judged_by_labels_of_any_two() -> None:
    vectors, truth = clouds(900, seed=1)
    weak = EndModel.fit_weak(vectors[:2], np.array([[0.4, 0.3, 0.3], [0.3, 0.4, 0.3]]), np.ones(2))
    assert weak is not None
    assert judge([weak], vectors[:40], truth[:40], CLASSES).of_weak < 1.0


def test_labels_judge_in_the_space_that_they_span_as_in_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, truth = clouds(900, seed=1)
    weak = taught(0.6 * np.eye(CLASSES)[(truth + (vectors[:, 5] > 0)) % CLASSES] + 0.4 / CLASSES, vectors)
    judged = judge([weak], vectors[:80], truth[:80], CLASSES)
    assert 0.01 < judged.of_weak < 0.99, "else nothing is compared"
    with monkeypatch.context() as patched:
        judging = list[int]()
        patched.setattr(gold_update, "_in_their_space", lambda weak, seen: judging.append(len(seen)) or (weak, seen))
        whole = judge([weak], vectors[:80], truth[:80], CLASSES)
        judge([weak], vectors, truth, CLASSES)
    assert judging == [80, 80, 300, 300], "more would take longer and decide no better"
    assert judged.of_weak == pytest.approx(whole.of_weak, abs=1e-3)
    for seen in (vectors[:80].astype(np.float32), csr_matrix(vectors[:80]), np.pad(vectors[:80], ((0, 0), (0, 200)))):
        wide = replace(weak, weights_DC=np.pad(weak.weights_DC, ((0, seen.shape[1] - 64), (0, 0))))
        assert judge([wide], seen, truth[:80], CLASSES).of_weak == pytest.approx(judged.of_weak, abs=1e-3)
