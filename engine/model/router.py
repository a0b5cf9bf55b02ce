"""The router: from a state, one score per unit (attention head or expert), and the threshold that turns scores into a
choice.

Scores are normalised per layer: they estimate the size of each unit's contribution, with mean 0 and deviation 1 over
the layer, so thresholds of different layers compare. One threshold per budget is stored. In training a controller holds
each threshold at the quantile of recent scores that gives the budget's share on average: inputs with more large
contributions use more units, easier ones fewer. A unit that is hardly ever chosen gets a bonus on the choice, never on
the gate, so balance does not pull at the weights.

Shape letters: R rows (tokens or sequences), D width, U units, B budgets.
"""

import torch
from torch import nn

from engine.model.deterministic import linear

COLUMNS = 16
"""Weights have columns in multiples of this, the last ones unused: narrow products have other bits at odd rows."""
CONTROL_RATE = 0.1
"""Share of the way that a threshold moves to the quantile of each training step."""
CONTROL_SAMPLE = 16384
"""Scores of which the quantile is taken in a training step."""
BALANCE_STEP = 2e-3
STARVED = 0.3
"""A unit is starved when it works for less than this part of the share that the budget allows."""


class Router(nn.Module):
    """Scores units for rows and chooses those above the budget's threshold.

    Source: norm regression and dynamic thresholds from Szatkowski et al. 2024, D2DMoE (arXiv:2310.04361); balance by a
    bias on the choice from Wang et al. 2024, auxiliary-loss-free load balancing (arXiv:2408.15664).

    Args:
        width: D.
        units: U.
        budgets: B.
        needs_one: the best unit works for every row, whatever it scores.

    Attributes:
        control_rate: share of the way that thresholds move with each forward pass; None when they stand still.
        aim: factor on the share that the controller aims at.
    """

    thresholds_B: torch.Tensor
    balance_U: torch.Tensor

    def __init__(self, width: int, units: int, budgets: int, *, needs_one: bool) -> None:
        super().__init__()
        self.needs_one = needs_one
        self.control_rate: float | None = None
        self.aim = 1.0
        columns = router_columns(units)
        self.weight = nn.Parameter(torch.zeros(width, columns))
        self.bias = nn.Parameter(torch.zeros(columns))
        self.register_buffer("balance_U", torch.zeros(units))
        self.register_buffer("thresholds_B", torch.zeros(budgets))

    def scores(self, x_RD: torch.Tensor) -> torch.Tensor:
        """[R, U] float32: estimated contribution of each unit, in deviations from the layer's mean."""
        with torch.autocast(x_RD.device.type, enabled=False):
            return linear(x_RD.float(), self.weight, self.bias)[:, : len(self.balance_U)]

    def choose(self, scores_RU: torch.Tensor, budget: int) -> torch.Tensor:
        """[R, U] bool: the units that work. Args: budget is the place of the budget in the model's list."""
        wanted_RU = scores_RU.detach() + self.balance_U
        on_RU = wanted_RU > self.thresholds_B[budget]
        return on_RU.scatter_(1, wanted_RU.argmax(dim=1, keepdim=True), True) if self.needs_one else on_RU

    def gate(self, scores_RU: torch.Tensor, on_RU: torch.Tensor, budget: int) -> torch.Tensor:
        """[R, U]: exactly 1 where the unit works and 0 elsewhere, with the gradient of a sigmoid around the threshold
        (straight-through)."""
        soft_RU = torch.sigmoid(scores_RU - self.thresholds_B[budget])
        return on_RU + (soft_RU - soft_RU.detach())

    @torch.no_grad()
    def control(self, scores_RU: torch.Tensor, budget: int, share: float) -> None:
        """Move the budget's threshold toward the one that lets `share` of the units work on average.

        Args:
            scores_RU: scores of one step.
            budget: place of the budget.
            share: wanted share of units, 0 to 1; at 1 all units work whatever they score.
        """
        if self.control_rate is None:
            return
        if share >= 1:
            self.thresholds_B[budget] = -torch.inf
            return
        wanted = (scores_RU.detach() + self.balance_U)[:: max(1, scores_RU.numel() // CONTROL_SAMPLE)].flatten()
        target = wanted.quantile(max(0.0, 1 - share * self.aim))
        self.thresholds_B[budget] += self.control_rate * (target - self.thresholds_B[budget])

    @torch.no_grad()
    def balance(self, on_RU: torch.Tensor, share: float) -> None:
        """Raise the bonus of units that are starved in one step. Args: on_RU the choice; share wanted on average."""
        self.balance_U += BALANCE_STEP * (on_RU.float().mean(dim=0) < STARVED * share)


def router_columns(units: int) -> int:
    """Columns of a router's weights for so many units."""
    return -(-units // COLUMNS) * COLUMNS
