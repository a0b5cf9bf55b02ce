"""Margin sampling: the items whose two most probable classes are closest."""

import numpy as np

from active.graph import Floats, Rows
from active.strategies.base import Pick, Situation, pick_by


def pick_margin(situation: Situation, batch: int) -> Pick:
    """Items with the smallest margin; the value of a pick is one minus its margin.

    Source: Scheffer, Decomain, Wrobel (2001), Active Hidden Markov Models for Information Extraction.
    """
    best_two = np.partition(situation.pool.predicted, -2, axis=1)[:, -2:]
    unsure = np.clip(1.0 - (best_two[:, 1] - best_two[:, 0]), 0.0, 1.0)

    def scores(picked: Rows) -> Floats:
        return unsure

    return pick_by(situation, batch, scores)
