"""How a distillation trains, and what it tells while it works."""

import math
from dataclasses import dataclass

from engine.errors import OptionError


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How to train.

    Attributes:
        steps: optimiser steps in all.
        tokens: tokens of a step, about.
        rate: peak learning rate.
        warmup: steps until the peak.
        decay_frac: share of the steps, at the end, over which the rate falls to nothing.
        pair_weight: weight of the similarity loss.
        state_weight: weight of the loss on token states.
        state_steps: first steps that have a loss on token states; these need the parent at every step.
        router_weight: weight of the routers' regression on contributions.
        budgets: how often each budget is trained, by its place in the model's list; adds up to 1.
        seed: fixes everything random.
        bf16: products in bfloat16, or in float32; None for what the checkpoint was begun with, or else for bfloat16
            where the device has instructions for it. Without them a step takes twice as long, or more.
    """

    steps: int
    tokens: int = 4096
    rate: float = 5e-4
    warmup: int = 100
    decay_frac: float = 0.6
    pair_weight: float = 5.0
    state_weight: float = 0.5
    state_steps: int = 0
    router_weight: float = 0.1
    budgets: tuple[float, ...] = (0.05, 0.8, 0.1, 0.05)
    seed: int = 0
    bf16: bool | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.tokens < 64 or not 0 < self.rate < 1:
            raise OptionError(
                f"steps {self.steps}, tokens {self.tokens}, rate {self.rate}: one of them is out of range."
            )
        if self.seed < 0 or self.warmup < 0 or self.state_steps < 0:
            raise OptionError(
                f"seed {self.seed}, warmup {self.warmup}, state_steps {self.state_steps}: none may be below 0."
            )
        if not math.isclose(sum(self.budgets), 1.0) or min(self.budgets) < 0:
            raise OptionError(f"The budgets' frequencies {list(self.budgets)} must add up to 1.")

    def rate_at(self, step: int) -> float:
        """Learning rate of one step: linear warm-up, a plateau, linear decay."""
        left = (self.steps - step) / max(1.0, self.steps * self.decay_frac)
        return self.rate * min(1.0, (step + 1) / max(1, self.warmup), left)


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run tells while it works.

    `cosine` is the mean over held-out texts at the main budget; `done` counts the steps since the run was started or
    went on, `seconds` the time that they took.
    """

    step: int
    steps: int
    texts: int
    tokens_per_s: float
    loss: float
    cosine: float
    seconds: float
    done: int
