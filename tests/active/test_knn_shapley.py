"""KNN-Shapley: each variant equals the definition, by going through all coalitions."""

from itertools import combinations
from math import comb

import numpy as np
import pytest

from active.value.shapley import Variant, knn_shapley
from warehouse import SettingsError

T, V, C, K, NEAR = 6, 4, 3, 2, 0.0


def game(variant: str, coalition: tuple[int, ...], similarity: np.ndarray, hits: np.ndarray) -> float:
    there = [item for item in coalition if np.isfinite(similarity[item])]
    if variant == "threshold":
        voters = [item for item in there if similarity[item] >= NEAR]
    else:
        voters = sorted(there, key=lambda item: -similarity[item])[:K]
    if variant == "hard":
        return sum(hits[item] for item in voters) / K
    return float(np.mean([hits[item] for item in voters])) if voters else 1 / C


def by_definition(variant: str, similarity: np.ndarray, hits: np.ndarray) -> np.ndarray:
    values = np.zeros(T)
    for item in range(T):
        others = [other for other in range(T) if other != item]
        for size in range(T):
            for coalition in combinations(others, size):
                added = game(variant, (*coalition, item), similarity, hits) - game(variant, coalition, similarity, hits)
                values[item] += added / (T * comb(T - 1, size))
    return values


@pytest.mark.parametrize("variant", ["hard", "soft", "threshold"])
def test_values_equal_the_definition_also_with_soft_labels_and_pairs_left_out(variant: Variant) -> None:
    generator = np.random.default_rng(0)
    similarity, labels = generator.standard_normal((V, T)), generator.integers(0, C, T)
    similarity[1, 2] = similarity[3, 0] = -np.inf
    similarity[2] = [-np.inf] * 5 + [0.5]
    targets = generator.dirichlet(np.ones(C), V)
    wanted = np.mean([by_definition(variant, similarity[v], targets[v][labels]) for v in range(V)], axis=0)
    assert knn_shapley(similarity, labels, targets, neighbors=K, variant=variant, near=NEAR) == pytest.approx(wanted)


def test_a_wrong_label_is_worth_least() -> None:
    generator = np.random.default_rng(1)
    truth = np.arange(60) % C
    vectors = np.eye(C)[truth] + 0.3 * generator.standard_normal((60, C))
    labels = truth.copy()
    labels[7] = (labels[7] + 1) % C
    similarity = -np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    np.fill_diagonal(similarity, -np.inf)
    values = knn_shapley(similarity, labels, np.eye(C)[truth])
    assert values.argmin() == 7
    assert values[7] < 0


def test_nothing_to_judge_on_is_worth_nothing_and_wrong_settings_are_refused() -> None:
    assert knn_shapley(np.zeros((0, 3)), np.zeros(3, np.int64), np.zeros((0, 2))).tolist() == [0, 0, 0]
    with pytest.raises(SettingsError, match="is 0"):
        knn_shapley(np.zeros((1, 1)), np.zeros(1, np.int64), np.ones((1, 2)), neighbors=0)
