"""Selection strategies by name."""

from active.strategies.base import Pick, Situation, Strategy
from active.strategies.margin import pick_margin
from active.strategies.random import pick_random
from active.strategies.value import pick_value

STRATEGIES: dict[str, Strategy] = {"margin": pick_margin, "random": pick_random, "value": pick_value}

__all__ = ["STRATEGIES", "Pick", "Situation", "Strategy"]
