"""The gain of a label: equal to the doubt before less the doubt after, also while a batch is picked lazily."""

import numpy as np
import pytest

from active.value import information_gain as module
from active.value.information_gain import Information, openness
from tests.active.pools import clusters

N, CLASSES, RIDGE = 70, 3, 0.1


def given(labelled: np.ndarray, seed: int = 0) -> tuple[Information, np.ndarray, np.ndarray, np.ndarray]:
    vectors, _ = clusters(N)
    generator = np.random.default_rng(seed)
    opened, target = openness(generator.dirichlet(np.ones(CLASSES), N)), generator.random(N)
    found = Information(vectors, opened, target, labelled, classes=CLASSES, ridge=RIDGE)
    return found, np.hstack([vectors, np.ones((N, 1))]).astype(np.float64), opened, target


def doubt(rows: np.ndarray, opened: np.ndarray, target: np.ndarray, labelled: list[int]) -> float:
    told = opened * (1 - 1 / CLASSES)
    precision = RIDGE * np.eye(rows.shape[1]) + (rows[labelled].T * told[labelled]) @ rows[labelled]
    return float(np.einsum("nd,nd->n", rows @ np.linalg.inv(precision), rows) @ target)


def test_a_gain_is_the_doubt_before_less_the_doubt_after() -> None:
    labelled = [3, 9]
    found, rows, opened, target = given(np.array(labelled))
    before = doubt(rows, opened, target, labelled)
    after = np.array([doubt(rows, opened, target, [*labelled, row]) for row in range(N)])
    assert found.doubt == pytest.approx(before, rel=1e-4)
    assert found.gains == pytest.approx(before - after, rel=2e-2, abs=1e-3 * before)


def test_settling_equals_starting_with_one_more_label() -> None:
    found, *_ = given(np.array([3]))
    for row in (10, 20, 30):
        found.settle(row)
    again, *_ = given(np.array([3, 10, 20, 30]))
    assert found.doubt == pytest.approx(again.doubt, rel=1e-4)
    assert found.gains == pytest.approx(again.gains, rel=2e-2, abs=1e-4 * again.doubt)


@pytest.mark.parametrize("weight", [None, np.random.default_rng(5).uniform(0.1, 1.0, N)])
def test_lazy_gains_pick_what_full_ones_pick(weight: np.ndarray | None, monkeypatch: pytest.MonkeyPatch) -> None:
    picked: list[list[int]] = []
    for front in (N, 4):
        monkeypatch.setattr(module, "FRONT", front)
        found, *_ = given(np.empty(0, np.int64))
        allowed, rows = np.ones(N, np.bool_), []
        for _ in range(25):
            row = found.best(allowed, weight)
            assert row == (found.gains * (1.0 if weight is None else weight) * allowed).argmax()
            found.settle(row)
            allowed[row] = False
            rows.append(row)
        picked.append(rows)
    assert picked[0] == picked[1]


def test_a_certain_item_tells_nothing_and_copies_of_it_neither() -> None:
    vectors, _ = clusters(N)
    opened = np.ones(N)
    opened[5] = 0.0
    found = Information(vectors, opened, np.ones(N), np.empty(0, np.int64), classes=CLASSES, ridge=RIDGE)
    assert found.gains[5] == 0
    assert (found.gains[:5] > 0).all()


def test_openness_is_one_where_all_classes_are_equal_and_zero_where_one_is_certain() -> None:
    assert openness(np.array([[1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, 0.0]])) == pytest.approx([1, 0])
    assert openness(np.ones((2, 1))).tolist() == [0, 0]


@pytest.mark.parametrize("front", [2048, 200])
def test_gains_stay_right_over_a_large_batch(front: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of a gain after hundreds of labels is a small part of what was taken from it."""
    monkeypatch.setattr(module, "FRONT", front)
    generator = np.random.default_rng(0)
    count, dimension = 1500, 192
    centres = generator.standard_normal((40, dimension))
    vectors = centres[generator.integers(40, size=count)] + 0.6 * generator.standard_normal((count, dimension))
    vectors *= (1.0 + np.arange(dimension)) ** -0.7  # a falling spectrum, as that of texts
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    opened = openness(generator.dirichlet(np.full(5, 0.3), count))
    found = Information(vectors, opened, opened, np.empty(0, np.int64), classes=5, ridge=0.02)
    allowed, picked = np.ones(count, np.bool_), []
    for _ in range(400):
        picked.append(found.best(allowed))
        allowed[picked[-1]] = False
        found.settle(picked[-1])
    row = found.best(allowed)
    rows, told = np.hstack([vectors, np.ones((count, 1))]).astype(np.float64), opened * (1 - 1 / 5)
    inverse = np.linalg.inv(0.02 * np.eye(dimension + 1) + (rows[picked].T * told[picked]) @ rows[picked])
    both = inverse @ (rows.T * opened) @ rows @ inverse
    spread, settled = (np.einsum("nd,de,ne->n", rows, matrix, rows) for matrix in (inverse, both))
    gains = np.where(allowed, told * settled / (1 + told * spread), 0.0)
    assert gains[row] > 0.99 * gains.max()
    assert found.gains[row] == pytest.approx(gains[row], rel=0.02)
