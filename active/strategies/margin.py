"""Margin sampling: the items whose two most probable classes are closest."""

from active.strategies.base import Pick, Situation, pick_best
from active.value.stage import narrowness


def pick_margin(situation: Situation, batch: int) -> Pick:
    """Items with the smallest margin; the value of a pick is one minus its margin.

    Source: Scheffer, Decomain, Wrobel (2001), Active Hidden Markov Models for Information Extraction.
    """
    return pick_best(situation, batch, narrowness(situation.pool.question))
