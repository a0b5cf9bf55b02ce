"""Soft majority: every function's vote counts the same. The plain label model, and the one used when votes are few."""

import numpy as np
import numpy.typing as npt

Votes = npt.NDArray[np.int64]
Probs = npt.NDArray[np.float64]


def soft_majority(votes_NL: Votes, classes: int) -> Probs:
    """Share of the cast votes that each class got.

    Args:
        votes_NL: class ids [N, L]; -1 abstains.
        classes: number of classes C.

    Returns:
        Probabilities [N, C]; a row without a vote is all zero, for the caller to fill.
    """
    counts_NC = np.stack([(votes_NL == c).sum(axis=1) for c in range(classes)], axis=1).astype(np.float64)
    return counts_NC / np.maximum(counts_NC.sum(axis=1, keepdims=True), 1.0)
