"""The sparse feed-forward part: a shared block of neurons that always work, and experts that work where chosen.

Together they hold the parent's neurons, so with every expert on the result is the parent's.

Shape letters: T tokens, D width, F neurons of the shared block, E experts, K neurons of one expert, P pairs of an
expert and a token.
"""

import torch
from torch import nn
from torch.nn import functional

from engine.model.deterministic import linear
from engine.model.dispatch import combine, dispatch, grouped_linear, pair_gates, pair_rows


class RoutedFeedForward(nn.Module):
    """Two linear maps with a GELU between them, cut into a shared block and experts.

    Args:
        width: D.
        shared: F; 0 for no shared block.
        experts: E.
        expert_width: K.

    Attributes:
        masked: compute all experts and put a mask on them, instead of skipping; the control of the skipping.
    """

    def __init__(self, width: int, shared: int, experts: int, expert_width: int) -> None:
        super().__init__()
        self.masked = False
        self.shared_up = nn.Parameter(torch.empty(width, shared))
        self.shared_up_bias = nn.Parameter(torch.empty(shared))
        self.shared_down = nn.Parameter(torch.empty(shared, width))
        self.up = nn.Parameter(torch.empty(experts, width, expert_width))
        self.up_bias = nn.Parameter(torch.empty(experts, expert_width))
        self.down = nn.Parameter(torch.empty(experts, expert_width, width))
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, x_TD: torch.Tensor, on_TE: torch.Tensor, gate_TE: torch.Tensor | None = None) -> torch.Tensor:
        """Results of the shared block and of each token's experts, added up.

        Args:
            x_TD: states.
            on_TE: bool, the experts of each token.
            gate_TE: factors on the experts' results, for their gradient; None for none.

        Returns:
            [T, D] without the residual.
        """
        return self.routed(x_TD, on_TE, gate_TE, self.shared(x_TD))

    def shared(self, x_TD: torch.Tensor) -> torch.Tensor:
        """[T, D] result of the shared block."""
        hidden_TF = functional.gelu(linear(x_TD, self.shared_up, self.shared_up_bias))
        return linear(hidden_TF, self.shared_down, self.bias)

    def routed(
        self, x_TD: torch.Tensor, on_TE: torch.Tensor, gate_TE: torch.Tensor | None, shared_TD: torch.Tensor
    ) -> torch.Tensor:
        """[T, D] results of each token's experts, added to those of the shared block; arguments as in `forward`."""
        if self.masked:
            return shared_TD + self._masked(x_TD, on_TE, gate_TE)
        units = dispatch(on_TE)
        if not len(units.rows_P):
            return shared_TD
        if gate_TE is None and torch.is_grad_enabled():
            gate_TE = on_TE.float()
        hidden_PK = functional.gelu(grouped_linear(pair_rows(x_TD, units), self.up, self.up_bias, units))
        if gate_TE is not None:
            hidden_PK = hidden_PK * pair_gates(gate_TE, units).to(hidden_PK.dtype)
        return combine(grouped_linear(hidden_PK, self.down, None, units), units, shared_TD)

    def _masked(self, x_TD: torch.Tensor, on_TE: torch.Tensor, gate_TE: torch.Tensor | None) -> torch.Tensor:
        experts, width, neurons = self.up.shape
        hidden_TN = functional.gelu(linear(x_TD, self.up.transpose(0, 1).reshape(width, -1), self.up_bias.flatten()))
        mask_TE = on_TE.float() if gate_TE is None else gate_TE
        hidden_TN = (hidden_TN.view(-1, experts, neurons) * mask_TE.unsqueeze(2).to(hidden_TN.dtype)).flatten(1)
        return linear(hidden_TN, self.down.view(-1, width), None)

    def contributions(self, x_TD: torch.Tensor) -> torch.Tensor:
        """[T, E] length of what each expert would add for each token; computes all of them."""
        hidden_ETK = functional.gelu(
            torch.baddbmm(self.up_bias.unsqueeze(1), x_TD.expand(len(self.up), -1, -1), self.up)
        )
        return torch.bmm(hidden_ETK, self.down).norm(dim=2).t()
