"""Scores of predictions, figures by name: of one class per item, and of sets of classes in a multi-label project."""

from typing import Any

import numpy as np

from weak_labels.calibration import Floats, calibration_error, error_by_chance
from weak_labels.classifiers.linear import Bools, Ints

Figures = list[tuple[str, float, dict[str, Any]]]
"""Name and value of each figure, and what stands beside it as JSON values."""


def score_classes(true: Ints, probs: Floats) -> Figures:
    """How right predicted classes are.

    - accuracy: share of items whose most probable class is the right one; `confusion` counts [true, predicted];
    - macro_f1: mean of the classes' F1; a class that neither occurs nor is predicted is left out;
    - calibration_error: see `weak_labels.calibration`; `by_chance` is what it would be of a model that is exactly as
      often right as it says.

    Args:
        true: class ids of the items [N]; N is 1 or more.
        probs: class probabilities [N, C].
    """
    said, classes = probs.argmax(axis=1), probs.shape[1]
    confusion_CC = np.zeros((classes, classes), np.int64)
    np.add.at(confusion_CC, (true, said), 1)
    seen_C = confusion_CC.sum(axis=0) + confusion_CC.sum(axis=1)
    f1_C = 2.0 * np.diag(confusion_CC) / np.maximum(seen_C, 1)
    return [
        ("accuracy", float((true == said).mean()), {"confusion": confusion_CC.tolist()}),
        ("macro_f1", float(f1_C[seen_C > 0].mean()), {}),
        ("calibration_error", calibration_error(probs, true), {"by_chance": error_by_chance(probs)}),
    ]


def score_sets(true: Bools, probs: Floats) -> Figures:
    """How right predicted sets of classes are, item by item and class by class.

    - accuracy: share of items whose set is exactly right; `by_class` counts for each class the items that have it and
      are given it, have it and are not given it, and are given it and have it not;
    - micro_f1: F1 over all pairs of item and class; 1 where no class occurs and none is predicted;
    - macro_f1: mean of the classes' F1; a class that neither occurs nor is predicted is left out;
    - calibration_error: of the yes or no about each pair, and `by_chance` as in `score_classes`.

    Args:
        true: sets of the items [N, C]; N is 1 or more.
        probs: probability of each class [N, C]; from 1/2 on the item is given it.
    """
    said = probs >= 0.5
    hit, missed, wrong = ((a & b).sum(axis=0) for a, b in ((true, said), (true, ~said), (~true, said)))
    counted = 2 * hit + missed + wrong
    seen = counted > 0
    f1 = 2 * hit / np.maximum(counted, 1)
    by_class = [[int(n) for n in counts] for counts in zip(hit, missed, wrong, strict=True)]
    yes_no = np.stack([1 - probs, probs], axis=-1).reshape(-1, 2)
    return [
        ("accuracy", float((true == said).all(axis=1).mean()), {"by_class": by_class}),
        ("micro_f1", float(2 * hit.sum() / counted.sum()) if counted.sum() else 1.0, {}),
        ("macro_f1", float(f1[seen].mean()) if seen.any() else 1.0, {}),
        (
            "calibration_error",
            calibration_error(yes_no, true.reshape(-1).astype(np.int64)),
            {"by_chance": error_by_chance(yes_no)},
        ),
    ]
