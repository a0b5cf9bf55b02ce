"""Class probabilities from logits, and the loss that every classifier here is fitted with, with its slope."""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


def softmax(logits: Floats) -> npt.NDArray[Any]:
    """Class probabilities [N, C] from their logarithms up to a constant in each row."""
    exp_NC = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exp_NC / exp_NC.sum(axis=1, keepdims=True)


def cross_entropy(logits: Floats, target: Floats, weights: Floats) -> tuple[float, Floats]:
    """Weighted cross-entropy of N items, and its derivative by the logits [N, C].

    Args:
        logits: of the classes [N, C].
        target: soft labels times weights [N, C].
        weights: [N] how much each item counts.
    """
    top_N1 = logits.max(axis=1, keepdims=True)
    exp_NC = np.exp(logits - top_N1)
    sum_N1 = exp_NC.sum(axis=1, keepdims=True)
    loss = float((target * (top_N1 + np.log(sum_N1) - logits)).sum())
    return loss, weights[:, None] * exp_NC / sum_N1 - target
