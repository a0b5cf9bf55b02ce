"""Soft majority: every function's vote counts the same. The plain label model, and the one used when votes are few."""

import numpy as np

from weak_labels.label_models.votes import Probs, VoteMatrix


def soft_majority(votes: VoteMatrix) -> Probs:
    """Share of the cast votes that each class got [N, C]; a row without a vote is all zero, for the caller to fill."""
    counts_NC = votes.counts()
    return counts_NC / np.maximum(counts_NC.sum(axis=1, keepdims=True), 1.0)
