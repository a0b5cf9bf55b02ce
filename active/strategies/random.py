"""Random selection: the rival that every other strategy must beat."""

from active.graph import Floats, Rows
from active.strategies.base import Pick, Situation, pick_by


def pick_random(situation: Situation, batch: int) -> Pick:
    """Items drawn evenly; the value of a pick is its draw and means nothing."""
    draws = situation.generator.random(len(situation.pool))

    def scores(picked: Rows) -> Floats:
        return draws

    return pick_by(situation, batch, scores)
