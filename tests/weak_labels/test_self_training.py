"""Self-training: what two views of the texts make of weak labels, and when they leave them alone."""

from pathlib import Path

import numpy as np
import pytest

from tests.weak_labels.small_lake import CLASSES, ENCODER, build, clouds
from warehouse import Lake
from weak_labels.classifiers.feature_map import FeatureMap
from weak_labels.classifiers.inputs import Sight
from weak_labels.classifiers.linear import EndModel, EndModelConfig, Floats, Ints, Vectors
from weak_labels.classifiers.self_training import self_trained
from weak_labels.end_model.stage import end_model
from weak_labels.label_models import label_model

WORDS = (("profit", "dividend"), ("vessel", "port"), ("wheat", "corn"))


def clear_clouds(n: int, seed: int) -> tuple[Vectors, Ints]:
    """Unit vectors [N, 8] in three clouds that overlap less than those of `clouds`, and their classes."""
    generator = np.random.default_rng(seed)
    truth = generator.choice(3, n, p=[0.5, 0.3, 0.2])
    vectors = np.random.default_rng(7).standard_normal((3, 8))[truth] + 0.6 * generator.standard_normal((n, 8))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), truth


@pytest.fixture(scope="module")
def pool() -> tuple[Vectors, list[str], Ints]:
    """Vectors, texts with one or two of four words of the class, and the classes."""
    vectors, truth = clear_clouds(600, seed=1)
    generator = np.random.default_rng(3)
    texts = [" ".join(generator.choice(WORDS[c], 2)) + f" note {generator.integers(50)}" for c in truth]
    return vectors, texts, truth


def lopsided(truth: Ints) -> tuple[Floats, Floats]:
    """Weak labels that cover 40% of class 0 and 6% of the others, 90% of them right."""
    generator = np.random.default_rng(5)
    weights = (generator.random(len(truth)) < np.where(truth == 0, 0.4, 0.06)).astype(np.float64)
    probs = np.full((len(truth), 3), 0.05)
    said = np.where(generator.random(len(truth)) < 0.9, truth, (truth + 1) % 3)
    probs[np.arange(len(truth)), said] = 0.9
    return probs, weights


def test_items_without_a_vote_are_learned_from(pool: tuple[Vectors, list[str], Ints]) -> None:
    vectors, texts, truth = pool
    probs, weights = lopsided(truth)
    others, true_others = clear_clouds(600, seed=2)
    plain = EndModel.fit_weak(vectors, probs, weights)
    taught = self_trained(vectors, texts, probs, weights)
    trained = EndModel.fit_weak(vectors, taught.probs, taught.weights)
    assert plain is not None
    assert trained is not None
    assert taught.weights[weights == 0].sum() > 300
    np.testing.assert_allclose(taught.probs.sum(axis=1), 1.0)
    before, after = (float((m.predict_proba(others).argmax(axis=1) == true_others).mean()) for m in (plain, trained))
    assert after > before + 0.02


def test_where_the_views_agree_words_beside_the_vectors_tell_more(pool: tuple[Vectors, list[str], Ints]) -> None:
    vectors, texts, truth = pool
    probs, weights = lopsided(truth)
    taught = self_trained(vectors, texts, probs, weights)
    assert taught.words is not None
    sight = Sight(feature_map=FeatureMap.identity(vectors.shape[1]), words=taught.words)
    both = sight.of(vectors, texts)
    np.testing.assert_array_equal(both[:, :8].toarray(), vectors)
    seen, blind = (EndModel.fit_weak(view, taught.probs, taught.weights) for view in (both, vectors))
    assert seen is not None
    assert blind is not None
    others, true_others = clear_clouds(600, seed=2)
    told = [WORDS[c][n % 2] for n, c in enumerate(true_others)]
    with_words = seen.predict_proba(sight.of(others, told)).argmax(axis=1)
    without = blind.predict_proba(others).argmax(axis=1)
    assert (with_words == true_others).mean() > (without == true_others).mean() + 0.02


def test_views_that_disagree_only_balance_the_classes(pool: tuple[Vectors, list[str], Ints]) -> None:
    vectors, texts, truth = pool
    probs, weights = lopsided(truth)
    shuffled = [texts[place] for place in np.random.default_rng(0).permutation(len(texts))]
    taught = self_trained(vectors, shuffled, probs, weights)
    labels, kept = taught.probs, taught.weights
    assert taught.words is None
    np.testing.assert_array_equal(labels, probs)
    assert ((kept > 0) == (weights > 0)).all()
    mass = kept @ probs / kept.sum()
    assert mass.min() > (weights @ probs / weights.sum()).min()


@pytest.mark.parametrize("texts", [[""] * 40, [f"only{n}" for n in range(40)]])
def test_texts_without_common_words_leave_the_labels(texts: list[str]) -> None:
    vectors, truth = clouds(40, seed=1)
    probs, weights = lopsided(truth)
    weights[:3] = 1
    taught = self_trained(vectors, texts, probs, weights)
    assert taught.probs.shape == probs.shape
    assert np.isfinite(taught.weights).all()


def test_nothing_covered_is_left_alone() -> None:
    vectors, _ = clouds(20, seed=1)
    taught = self_trained(vectors, ["a"] * 20, np.full((20, 3), 1 / 3), np.zeros(20))
    assert taught.weights.sum() == 0
    np.testing.assert_allclose(taught.probs, 1 / 3)


def test_the_stage_trains_itself_where_the_settings_say_so(lake: Lake, tmp_path: Path) -> None:
    small = build(lake, tmp_path)
    label_model(lake, small.label_config)
    end_model(lake, small.end_config)
    config = EndModelConfig(classes=CLASSES, encoder_id=ENCODER, self_training=True)
    assert end_model(lake, config).committed
    assert not end_model(lake, config).committed
