"""Entropy sampling: the items whose class probabilities say least."""

import numpy as np

from active.strategies.base import Pick, Situation, entropy, pick_best


def pick_entropy(situation: Situation, batch: int) -> Pick:
    """Items with the largest entropy; the value of a pick is its entropy over that of an even split.

    Source: Shannon (1948); as a query strategy Settles (2009), Active Learning Literature Survey, section 3.1.
    """
    return pick_best(situation, batch, np.clip(entropy(situation.pool.question), 0.0, 1.0))
