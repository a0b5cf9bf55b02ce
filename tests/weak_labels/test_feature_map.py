"""What the end model sees of vectors: what is around them, and directions in which items differ."""

import numpy as np
import numpy.typing as npt
import pytest

from warehouse import SettingsError, numeric
from weak_labels.classifiers import feature_map
from weak_labels.classifiers.feature_map import FeatureMap
from weak_labels.classifiers.inputs import Sight
from weak_labels.classifiers.linear import EndModel

Vectors = npt.NDArray[np.float32]


def unit(vectors: npt.NDArray[np.float64]) -> Vectors:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def groups(items: int, seed: int, noise: float = 1.0) -> tuple[Vectors, npt.NDArray[np.int64]]:
    """Unit vectors in 64 dimensions around a common direction, six groups of them, and the group of each."""
    centers = np.random.default_rng(7).standard_normal((6, 64))
    generator = np.random.default_rng(seed)
    group = generator.integers(0, 6, items)
    return unit(2.0 + centers[group] + noise * 2.0 * generator.standard_normal((items, 64))), group


def test_few_labels_are_worth_more() -> None:
    vectors, group = groups(1_500, seed=0)
    unseen, truth = groups(1_000, seed=1)
    seen_by = FeatureMap.fit(vectors)
    right = {name: list[float]() for name in ("vectors", "seen")}
    for seed in range(5):
        labelled = np.random.default_rng(seed).permutation(len(vectors))[:24]
        for name, some, others in (("vectors", vectors, unseen), ("seen", seen_by.of(vectors), seen_by.of(unseen))):
            model = EndModel.fit_gold(None, some[labelled], group[labelled], 6)
            right[name].append(float((model.predict_proba(others).argmax(axis=1) == truth).mean()))
    assert np.mean(right["seen"]) > np.mean(right["vectors"]) + 0.1


def test_each_half_is_worth_something(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, group = groups(1_500, seed=0)

    def apart() -> float:
        """Distance between the groups' means, in standard deviations within the groups."""
        seen = FeatureMap.fit(vectors).of(vectors)
        means = np.stack([seen[group == number].mean(axis=0) for number in range(6)])
        return float(np.sqrt(((means - means.mean(axis=0)) ** 2).sum() / ((seen - means[group]) ** 2).sum()))

    both = apart()
    for name in ("AROUND", "PRIOR_POWER"):
        with monkeypatch.context() as without:
            without.setattr(feature_map, name, 0.0)
            assert apart() < 0.9 * both


def test_lengths_stay_what_they_are() -> None:
    vectors, _ = groups(500, seed=0)
    seen = FeatureMap.fit(vectors).of(vectors)
    assert ((seen - seen.mean(axis=0)) ** 2).sum(axis=1).mean() == pytest.approx(1.0, abs=1e-4)
    assert (seen.mean(axis=0) ** 2).sum() > 0.1  # by which people's labels may move a class as a whole
    assert seen.dtype == np.float32


def test_a_text_is_seen_as_the_item_of_the_same_vector_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_map, "CHUNK", 100)
    vectors, _ = groups(250, seed=0)
    seen_by = FeatureMap.fit(vectors)
    assert np.allclose(seen_by.of(vectors[[170, 3]]), seen_by.of(vectors)[[170, 3]], atol=1e-5)


def test_one_core_and_several_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_map, "CHUNK", 100)
    vectors, _ = groups(450, seed=0)
    seen_by, found = FeatureMap.fit(vectors), list[bytes]()
    for cores in (1, 3):
        monkeypatch.setattr(numeric, "cores", lambda cores=cores: cores)
        found.append(seen_by.of(vectors).tobytes())
    assert found[0] == found[1]


def test_an_item_and_its_doubles_are_not_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_map, "PRIOR_POWER", 0.0)  # no direction is stretched more than another
    pair = np.eye(2, 8, dtype=np.float32)
    seen = FeatureMap.fit(pair[[0, 0, 0, 1]]).of(pair[:1])[0]
    assert seen[1] / seen[0] == pytest.approx(feature_map.AROUND / (1 - feature_map.AROUND), rel=1e-4)


def test_an_item_that_stands_for_all_is_seen_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_map, "PRIOR_POWER", 0.0)
    monkeypatch.setattr(feature_map, "LANDMARKS", 1)
    first = FeatureMap.fit(np.eye(2, 8, dtype=np.float32)).of(np.eye(1, 8, dtype=np.float32))[0]
    assert first[0] > 1.0
    assert np.allclose(first[1:], 0.0, atol=1e-6)


@pytest.mark.parametrize("items", [0, 1, 3])
def test_vectors_that_do_not_differ_are_left_as_they_are(items: int) -> None:
    vectors = np.tile(unit(np.ones((1, 16))), (items, 1))
    other = unit(np.arange(32.0).reshape(2, 16))
    assert np.array_equal(FeatureMap.fit(vectors).of(other), other)


def test_many_items_are_stood_for_by_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_map, "LANDMARKS", 50)
    monkeypatch.setattr(feature_map, "MOST_ROWS", 200)
    vectors, _ = groups(999, seed=0)
    seen_by = FeatureMap.fit(vectors)
    assert len(seen_by.landmarks_LD) == 50
    assert np.isfinite(seen_by.of(vectors)).all()


def test_vectors_that_are_not_of_length_1_are_refused() -> None:
    """Their cosines were taken for what they are not, and the predictions came out wrong in silence."""
    vectors, _ = groups(20, seed=0)
    seen_by = FeatureMap.fit(vectors)
    sight = Sight(feature_map=seen_by, as_they_are=True)
    long, broken = vectors.copy(), vectors.copy()
    long[3] *= 9.0
    broken[3, 2] = np.nan
    for ask in (FeatureMap.fit, seen_by.of, lambda given: sight.of(given, [])):
        with pytest.raises(SettingsError, match=r"1 of 20 items are not of length 1, the first is item 3 .* with 9\. "):
            ask(long)
        with pytest.raises(SettingsError, match="Vectors of 1 of 20 items are not finite"):
            ask(broken)
    assert np.array_equal(sight.of(vectors.tolist(), []), sight.of(vectors.astype(np.float64), []))
    half = vectors.astype(np.float16)
    half[5] = 0.0
    assert seen_by.of(half).shape == vectors.shape


def test_one_vector_among_zeros_is_left_as_it_is() -> None:
    vectors = np.zeros((5, 64), np.float32)
    vectors[2] = groups(1, seed=0)[0]
    np.testing.assert_array_equal(FeatureMap.fit(vectors).of(vectors), vectors)
