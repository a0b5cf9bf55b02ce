"""How sure a classifier may be: a temperature that makes its probabilities as sure as it is right, and the error left.

A temperature divides the logits of all classes, so it changes no answer, only how sure each one is. It is chosen on
answers about items that the classifier did not learn from.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from weak_labels.losses import softmax

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]

LEAST_GOLD = 60
"""Gold labels below which what is chosen by them would follow chance more than the classifier."""
FOLDS = 5
BINS = 15
WIDEST = 10.0
"""Temperatures lie between this and its inverse."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """A temperature, the gold labels it rests on, and the calibration error on them, held out, without and with one.

    With one means: each fold of the labels is cooled by the temperature that the others choose.
    """

    temperature: float = 1.0
    labels: int = 0
    error_before: float | None = None
    error_after: float | None = None


def calibrate(
    class_ids: Ints, classes: int, held_out: Callable[[Ints, Ints], Floats], copy_of: Ints | None = None
) -> Calibration:
    """Choose a temperature by cross-validation over gold labels; 1 where there are too few.

    Args:
        class_ids: gold labels [N].
        classes: number of classes C.
        held_out: given rows to learn from and other rows, the probabilities [M, C] of the others.
        copy_of: see `folds`; a model knows the copies of what it learned from by heart, and would be thought surer.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599
    """
    n = len(class_ids)
    probs_NC = cross_validated(class_ids, classes, held_out, copy_of=copy_of)
    if probs_NC is None:
        return Calibration(labels=n)
    fold_N, cooled_NC = folds(class_ids, copy_of), np.empty_like(probs_NC)
    for fold in np.unique(fold_N):
        others_N = fold_N == fold
        by_rest = temperature(probs_NC[~others_N], class_ids[~others_N])
        cooled_NC[others_N] = cooled(probs_NC[others_N], by_rest)
    return Calibration(
        temperature=temperature(probs_NC, class_ids),
        labels=n,
        error_before=calibration_error(probs_NC, class_ids),
        error_after=calibration_error(cooled_NC, class_ids),
    )


def cross_validated(
    class_ids: Ints,
    classes: int,
    held_out: Callable[[Ints, Ints], Floats],
    *,
    least: int = LEAST_GOLD,
    copy_of: Ints | None = None,
) -> npt.NDArray[np.float64] | None:
    """Probabilities [N, C] of labelled items, each by a model that did not see it; None where there are too few.

    Args:
        class_ids: gold labels [N].
        classes: number of classes C.
        held_out: given rows to learn from and other rows, the probabilities [M, C] of the others.
        least: labels that are enough; of copies one counts.
        copy_of: see `folds`.
    """
    n = len(class_ids)
    if (n if copy_of is None else len(np.unique(copy_of))) < least or len(np.unique(class_ids)) < 2:
        return None
    fold_N = folds(class_ids, copy_of)
    probs_NC = np.zeros((n, classes))
    for fold in np.unique(fold_N):
        others = np.flatnonzero(fold_N == fold)
        probs_NC[others] = held_out(np.flatnonzero(fold_N != fold), others)
    return probs_NC


def folds(class_ids: Ints, copy_of: Ints | None = None) -> Ints:
    """The fold of each label [N], each class spread over the folds.

    Args:
        class_ids: labels [N].
        copy_of: for each labelled item the place of the first one that is equal to it [N], its own where it is that
            one; copies are in one fold. None where no two are equal.
    """
    if copy_of is not None:
        firsts = np.flatnonzero(copy_of == np.arange(len(copy_of)))
        fold_N = np.zeros(len(class_ids), np.int64)
        fold_N[firsts] = folds(class_ids[firsts])
        return fold_N[copy_of]
    fold_N = np.empty(len(class_ids), np.int64)
    fold_N[np.argsort(class_ids, kind="stable")] = np.arange(len(class_ids)) % FOLDS
    return fold_N


def temperature(probs: Floats, class_ids: Ints) -> float:
    """The temperature under which probabilities [N, C] give the true classes [N] the highest likelihood."""
    from scipy.optimize import minimize_scalar  # takes a third of a second to import

    rows = np.arange(len(class_ids))

    def loss(log_temperature: float) -> float:
        said = cooled(probs, float(np.exp(log_temperature)))[rows, class_ids]
        return -float(np.log(np.maximum(said, 1e-300)).sum())

    bound = float(np.log(WIDEST))
    found: Any = minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def cooled(probs: Floats, temperature: float) -> Floats:
    """Probabilities [N, C] at another temperature."""
    return softmax(np.log(np.maximum(probs.astype(np.float64), 1e-300)) / temperature)


def calibration_error(probs: Floats, class_ids: Ints) -> float:
    """Expected calibration error of probabilities [N, C], 0 to 1, to four digits.

    Items are put into 15 bins of equal width by the probability of the answer; the error is the mean distance of the
    share of right answers from the mean probability, a bin weighing as its items do.
    """
    confidence_N = probs.max(axis=1).astype(np.float64)
    right_N = (probs.argmax(axis=1) == class_ids).astype(np.float64)
    gap_B = np.bincount(_bins(confidence_N), right_N - confidence_N, minlength=BINS)
    return round(float(np.abs(gap_B).sum()) / len(class_ids), 4)


def error_by_chance(probs: Floats) -> float:
    """The calibration error that is expected of a model with these probabilities [N, C] which is exactly as often right
    as it says: not 0, since few items in a bin are right more or less often than that.

    A bin's deviation is taken for a normal one, and is no larger than if its items did not make up for each other.

    Source: Roelofs et al. 2022, Mitigating Bias in Calibration Error Estimation, https://arxiv.org/abs/2012.08668
    """
    confidence_N = np.minimum(probs.max(axis=1).astype(np.float64), 1.0)  # rounding may leave it above
    variance_B = np.bincount(_bins(confidence_N), confidence_N * (1 - confidence_N), minlength=BINS)
    return round(float(np.minimum(np.sqrt(2 / np.pi * variance_B), 2 * variance_B).sum()) / len(probs), 4)


def _bins(confidence_N: Floats) -> Ints:
    return np.minimum((confidence_N * BINS).astype(np.int64), BINS - 1)
