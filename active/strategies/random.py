"""Random selection: the rival that every other strategy must beat."""

from active.strategies.base import Pick, Situation, pick_best


def pick_random(situation: Situation, batch: int) -> Pick:
    """Items drawn evenly; the value of a pick is its draw and says nothing about the item."""
    return pick_best(situation, batch, situation.generator.random(len(situation.pool)))
