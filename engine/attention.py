"""Multi-head attention in which only the heads that the router chose for a text are computed.

Keys and values of a head are needed by every token of a text, so heads are chosen per sequence: skipping one saves its
query, key, value, mixing and output products. Routing heads per token would still need all keys and values.

Shape letters: T tokens of a pack, S sequences, D width, H heads, W head width, L length of one sequence, P pairs of a
head and a token, C pairs of a head and a sequence.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from engine.dispatch import Dispatch, dispatch, grouped_linear
from engine.encoder import Run
from engine.products import linear


class RoutedAttention(nn.Module):
    """Self-attention with one slice of the weights per head.

    Args:
        width: D.
        heads: H; they share the width evenly.

    Attributes:
        masked: compute all heads and put a mask on them, instead of skipping; the control of the skipping, and the
            faster way to train where one large product costs less than many small ones.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_width = width // heads
        self.masked = False
        self.qkv = nn.Parameter(torch.empty(heads, width, 3 * self.head_width))
        self.qkv_bias = nn.Parameter(torch.empty(heads, 3 * self.head_width))
        self.output = nn.Parameter(torch.empty(heads, self.head_width, width))
        self.bias = nn.Parameter(torch.empty(width))

    def forward(
        self, x_TD: torch.Tensor, on_SH: torch.Tensor, runs: Sequence[Run], gate_SH: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attention of the chosen heads, added up.

        Args:
            x_TD: states.
            on_SH: bool, the heads of each text.
            runs: the texts.
            gate_SH: factors on the heads' results, for their gradient; None for none.

        Returns:
            [T, D] without the residual.
        """
        if self.masked:
            return self._masked(x_TD, on_SH.float() if gate_SH is None else on_SH * gate_SH, runs)
        sequences_T = token_sequences(runs, x_TD.device)
        units = dispatch(on_SH[sequences_T] if len(on_SH) > 1 else on_SH.expand(x_TD.shape[0], -1))
        qkv_P = grouped_linear(x_TD[units.rows_P], self.qkv, self.qkv_bias, units)
        mixed_PW = self._mix(qkv_P, on_SH, runs)
        if gate_SH is not None:
            gate_P = gate_SH.t()[on_SH.t()].repeat_interleave(_pair_lengths(on_SH, runs))
            mixed_PW = mixed_PW * gate_P.unsqueeze(1).to(mixed_PW.dtype)
        return combine(grouped_linear(mixed_PW, self.output, None, units), units, x_TD, self.bias)

    def contributions(self, x_TD: torch.Tensor, runs: Sequence[Run]) -> torch.Tensor:
        """[S, H] mean length over a text's tokens of what each head would add; computes all of them."""
        heads = len(self.qkv)
        on_SH = torch.ones(sum(run.sequences for run in runs), heads, dtype=torch.bool, device=x_TD.device)
        units = dispatch(torch.ones(x_TD.shape[0], heads, dtype=torch.bool, device=x_TD.device))
        mixed_PW = self._mix(grouped_linear(x_TD[units.rows_P], self.qkv, self.qkv_bias, units), on_SH, runs)
        norms_HT = grouped_linear(mixed_PW, self.output, None, units).norm(dim=1).view(heads, -1)
        return sequence_means(norms_HT.t().contiguous(), runs)

    def _masked(self, x_TD: torch.Tensor, mask_SH: torch.Tensor, runs: Sequence[Run]) -> torch.Tensor:
        heads, width, columns = self.qkv.shape
        qkv_TH = linear(x_TD, self.qkv.transpose(0, 1).reshape(width, -1), self.qkv_bias.flatten())
        mixed: list[torch.Tensor] = []
        first = 0
        for run in runs:
            rows = slice(run.start, run.start + run.sequences * run.length)
            mask_SH1 = mask_SH[first : first + run.sequences].unsqueeze(2)
            qkv = qkv_TH[rows].view(run.sequences, run.length, heads, columns).transpose(1, 2)
            mixed_CLW = _attend(qkv.reshape(-1, run.length, columns), self.head_width)
            mixed_SHLW = mixed_CLW.view(run.sequences, heads, run.length, -1) * mask_SH1.unsqueeze(3).to(mixed_CLW.dtype)
            mixed.append(mixed_SHLW.transpose(1, 2).reshape(run.sequences * run.length, -1))
            first += run.sequences
        return linear(torch.cat(mixed), self.output.view(-1, width), self.bias)

    def _mix(self, qkv_P: torch.Tensor, on_SH: torch.Tensor, runs: Sequence[Run]) -> torch.Tensor:
        """[P, W]: softmax(q k) v within each pair of a head and a sequence."""
        width = self.head_width
        if len(runs) == 1:
            return _attend(qkv_P.view(-1, runs[0].length, 3 * width), width).reshape(-1, width)
        starts_C = _pair_lengths(on_SH, runs).cumsum(0).roll(1)
        starts_C[:1] = 0
        run_S = torch.repeat_interleave(
            torch.arange(len(runs), device=on_SH.device), torch.tensor([r.sequences for r in runs], device=on_SH.device)
        )
        run_C = run_S[on_SH.t().nonzero()[:, 1]]
        pieces: list[torch.Tensor] = []
        places: list[torch.Tensor] = []
        for number, run in enumerate(runs):
            rows_CL = starts_C[run_C == number].unsqueeze(1) + torch.arange(run.length, device=on_SH.device)
            pieces.append(_attend(qkv_P[rows_CL], width).reshape(-1, width))
            places.append(rows_CL.flatten())
        mixed_PW = torch.cat(pieces)
        return torch.empty_like(mixed_PW).index_copy(0, torch.cat(places), mixed_PW)


def combine(y_PD: torch.Tensor, units: Dispatch, like_TD: torch.Tensor, bias_D: torch.Tensor) -> torch.Tensor:
    """[T, D] in the type of y: the bias, and on it the results of all units of each row, in the order of the units."""
    start_TD = bias_D.to(y_PD.dtype).expand(like_TD.shape[0], -1)
    return start_TD.index_add(0, units.rows_P, y_PD)


def token_sequences(runs: Sequence[Run], device: torch.device) -> torch.Tensor:
    """[T] the sequence of each token."""
    lengths = torch.tensor([run.length for run in runs for _ in range(run.sequences)], device=device)
    return torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)


def sequence_means(x_TD: torch.Tensor, runs: Sequence[Run]) -> torch.Tensor:
    """[S, D] float32: mean state of each text."""
    means = [
        x_TD[run.start : run.start + run.sequences * run.length].view(run.sequences, run.length, -1).float().mean(dim=1)
        for run in runs
    ]
    return torch.cat(means) if len(means) > 1 else means[0]


def _pair_lengths(on_SH: torch.Tensor, runs: Sequence[Run]) -> torch.Tensor:
    """[C] tokens of each pair of a head and a sequence, by head and then by sequence."""
    lengths_S = torch.tensor([run.length for run in runs for _ in range(run.sequences)], device=on_SH.device)
    return lengths_S[on_SH.t().nonzero()[:, 1]]


def _attend(qkv_CL: torch.Tensor, width: int) -> torch.Tensor:
    """[C, L, W] from [C, L, 3W]."""
    q_CLW, k_CLW, v_CLW = qkv_CL.split(width, dim=2)
    if torch.is_grad_enabled() and qkv_CL.device.type == "cpu":
        # The fused kernel's backward is ten times slower than these three products on CPU (measured, torch 2.13).
        scores_CLL = torch.bmm(q_CLW, k_CLW.transpose(1, 2)) * width**-0.5
        return torch.bmm(torch.softmax(scores_CLL, dim=-1).to(v_CLW.dtype), v_CLW)
    mixed = functional.scaled_dot_product_attention(q_CLW.unsqueeze(0), k_CLW.unsqueeze(0), v_CLW.unsqueeze(0))
    return mixed.squeeze(0)
