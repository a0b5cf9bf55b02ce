"""Multi-head attention in which only shared heads and the heads that the router chose for a text are computed.

Keys and values of a head are needed by every token of a text, so heads are chosen per sequence: skipping one saves its
query, key, value, mixing and output products. Routing heads per token would still need all keys and values.

Shape letters: T tokens of a pack, S sequences, D width, G shared heads, H routed heads, W head width, L length of one
sequence, P pairs of a routed head and a token, C pairs of a head and a sequence.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from engine.model.dense import Pack, Run, attend, run_rows, sequence_means
from engine.model.deterministic import linear
from engine.model.dispatch import Dispatch, combine, dispatch, grouped_linear, pair_gates, pair_rows

TRAINING_COUNTS = 16
"""In training in bfloat16, a head works on one of so many numbers of texts: oneDNN compiles a product for each."""


class RoutedAttention(nn.Module):
    """Self-attention: one block of heads that always work, and one slice of the weights per routed head.

    Args:
        width: D.
        head_width: W.
        shared: G; 0 for none.
        routed: H.

    Attributes:
        masked: compute all heads and put a mask on them, instead of skipping; the control of the skipping, and the
            faster way to train where one large product costs less than many small ones.
    """

    def __init__(self, width: int, head_width: int, shared: int, routed: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.masked = False
        self.shared_qkv = nn.Parameter(torch.empty(width, shared * 3 * head_width))
        self.shared_qkv_bias = nn.Parameter(torch.empty(shared * 3 * head_width))
        self.shared_output = nn.Parameter(torch.empty(shared * head_width, width))
        self.qkv = nn.Parameter(torch.empty(routed, width, 3 * head_width))
        self.qkv_bias = nn.Parameter(torch.empty(routed, 3 * head_width))
        self.output = nn.Parameter(torch.empty(routed, head_width, width))
        self.bias = nn.Parameter(torch.empty(width))

    def forward(
        self, x_TD: torch.Tensor, on_SH: torch.Tensor, batch: Pack, gate_SH: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attention of the shared and the chosen heads, added up.

        Args:
            x_TD: states.
            on_SH: bool, the routed heads of each text.
            batch: the texts.
            gate_SH: factors on the routed heads' results, for their gradient; None for none.

        Returns:
            [T, D] without the residual.
        """
        # In training, one large product costs less than many small ones, and where all heads work none is in vain.
        if self.masked or (torch.is_grad_enabled() and bool(on_SH.all())):
            return self._masked(x_TD, on_SH.float() if gate_SH is None else gate_SH, batch.runs)
        shared_TD = self._together(x_TD, self.shared_qkv, self.shared_qkv_bias, self.shared_output, None, batch.runs)
        if torch.is_grad_enabled():
            return self._training(x_TD, on_SH, on_SH.float() if gate_SH is None else gate_SH, batch.runs, shared_TD)
        units = dispatch(on_SH[batch.sequences_T])
        if not len(units.rows_P):
            return shared_TD
        qkv_P = grouped_linear(pair_rows(x_TD, units), self.qkv, self.qkv_bias, units)
        mixed_PW = self._mix(qkv_P, on_SH, units, batch)
        if gate_SH is not None:
            mixed_PW = mixed_PW * pair_gates(gate_SH[batch.sequences_T], units).to(mixed_PW.dtype)
        return combine(grouped_linear(mixed_PW, self.output, None, units), units, shared_TD)

    def _training(
        self,
        x_TD: torch.Tensor,
        on_SH: torch.Tensor,
        gate_SH: torch.Tensor,
        runs: Sequence[Run],
        shared_TD: torch.Tensor,
    ) -> torch.Tensor:
        """As `forward`, and what fills heads up is whole texts, so that all pairs of a head and a text stand alike."""
        parts: list[torch.Tensor] = []
        first = 0
        for run in runs:
            texts = slice(first, first + run.sequences)
            on_TH, gate_TH = (value_SH[texts].repeat_interleave(run.length, 0) for value_SH in (on_SH, gate_SH))
            units = dispatch(on_TH, run.length * -(-run.sequences // TRAINING_COUNTS))
            first += run.sequences
            if not len(units.rows_P):
                parts.append(run_rows(shared_TD, run))
                continue
            qkv_P = grouped_linear(pair_rows(run_rows(x_TD, run), units), self.qkv, self.qkv_bias, units)
            mixed_CLW = _attend(qkv_P.view(-1, run.length, 3 * self.head_width), self.head_width)
            mixed_PW = mixed_CLW.reshape(-1, self.head_width) * pair_gates(gate_TH, units).to(qkv_P.dtype)
            parts.append(combine(grouped_linear(mixed_PW, self.output, None, units), units, run_rows(shared_TD, run)))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def contributions(self, x_TD: torch.Tensor, batch: Pack) -> torch.Tensor:
        """[S, H] mean length over a text's tokens of what each routed head would add; computes all of them."""
        heads, width = len(self.qkv), self.head_width
        norms_TH = x_TD.new_empty(len(x_TD), heads)
        for head in range(heads):
            qkv_T = linear(x_TD, self.qkv[head], self.qkv_bias[head])
            mixed_TW = torch.cat([_attend_run(qkv_T, run, width) for run in batch.runs])
            norms_TH[:, head] = linear(mixed_TW, self.output[head], None).norm(dim=1)
        return sequence_means(norms_TH, batch.runs)

    def _masked(self, x_TD: torch.Tensor, mask_SH: torch.Tensor, runs: Sequence[Run]) -> torch.Tensor:
        width, shared = len(self.shared_qkv), len(self.shared_output) // self.head_width
        qkv = torch.cat([self.shared_qkv, self.qkv.transpose(0, 1).reshape(width, -1)], dim=1)
        bias = torch.cat([self.shared_qkv_bias, self.qkv_bias.flatten()])
        output = torch.cat([self.shared_output, self.output.view(-1, width)])
        mask_SH = torch.cat([mask_SH.new_ones(len(mask_SH), shared), mask_SH], dim=1)
        return self._together(x_TD, qkv, bias, output, mask_SH, runs)

    def _together(
        self,
        x_TD: torch.Tensor,
        qkv: torch.Tensor,
        qkv_bias: torch.Tensor,
        output: torch.Tensor,
        mask_SH: torch.Tensor | None,
        runs: Sequence[Run],
    ) -> torch.Tensor:
        """Attention of several heads that all texts have, as one product each."""
        heads = len(output) // self.head_width
        if not heads:
            return self.bias.expand(len(x_TD), -1)
        qkv_T = linear(x_TD, qkv, qkv_bias)
        mixed: list[torch.Tensor] = []
        first = 0
        for run in runs:
            qkv_SGLW = run_rows(qkv_T, run).view(run.sequences, run.length, heads, -1).transpose(1, 2)
            mixed_CLW = _attend(qkv_SGLW.reshape(-1, run.length, 3 * self.head_width), self.head_width)
            mixed_SGLW = mixed_CLW.view(run.sequences, heads, run.length, -1)
            if mask_SH is not None:
                mask = mask_SH[first : first + run.sequences, :, None, None]
                mixed_SGLW = mixed_SGLW * mask.to(mixed_SGLW.dtype)
            mixed.append(mixed_SGLW.transpose(1, 2).reshape(run.sequences * run.length, -1))
            first += run.sequences
        return linear(torch.cat(mixed) if len(mixed) > 1 else mixed[0], output, self.bias)

    def _mix(self, qkv_P: torch.Tensor, on_SH: torch.Tensor, units: Dispatch, batch: Pack) -> torch.Tensor:
        """[P, W]: softmax(q k) v within each pair of a routed head and a sequence."""
        width, runs = self.head_width, batch.runs
        if len(runs) == 1 and not units.filled:
            return _attend(qkv_P.view(-1, runs[0].length, 3 * width), width).reshape(-1, width)
        if len(runs) == 1:
            real = (on_SH.sum(dim=0) * runs[0].length).tolist()
            parts = [part[:count] for part, count in zip(qkv_P.split(units.counts), real, strict=True)]
            mixed_CLW = _attend(torch.cat(parts).view(-1, runs[0].length, 3 * width), width)
            mixed = zip(mixed_CLW.reshape(-1, width).split(real), units.counts, strict=True)
            return torch.cat([functional.pad(part, (0, 0, 0, full - len(part))) for part, full in mixed])
        # First pair of each head and sequence, by head and then by sequence.
        run_S = np.repeat(np.arange(len(runs)), [run.sequences for run in runs])
        head_C, sequence_C = np.nonzero(on_SH.cpu().numpy().T)
        lengths_C = batch.lengths_S[sequence_C]
        before_C = np.cumsum(lengths_C) - lengths_C
        first_H = np.searchsorted(head_C, np.arange(len(units.counts)))
        begin_H = np.append(before_C, lengths_C.sum())[first_H]  # pairs before each head without filling ones
        filled_H = np.cumsum(units.counts) - np.asarray(units.counts)
        starts_C = before_C + (filled_H - begin_H)[head_C]
        run_C = run_S[sequence_C]
        mixed_PW = qkv_P.new_zeros(len(qkv_P), width)
        for number, run in enumerate(runs):
            rows_CL = torch.from_numpy(starts_C[run_C == number][:, None] + np.arange(run.length)).to(qkv_P.device)
            mixed_CLW = _attend(qkv_P[rows_CL], width)
            mixed_PW = mixed_PW.index_copy(0, rows_CL.flatten(), mixed_CLW.reshape(-1, width))
        return mixed_PW


def _attend_run(qkv_T: torch.Tensor, run: Run, width: int) -> torch.Tensor:
    return _attend(run_rows(qkv_T, run).view(run.sequences, run.length, 3 * width), width).reshape(-1, width)


def _attend(qkv_CL: torch.Tensor, width: int) -> torch.Tensor:
    """[C, L, W] from [C, L, 3W]."""
    q_CLW, k_CLW, v_CLW = qkv_CL.split(width, dim=2)
    if torch.is_grad_enabled() and qkv_CL.device.type == "cpu":
        # The fused kernel's backward is ten times slower than these three products on CPU (measured, torch 2.13).
        # Scores are kept in the products' precision; softmax computes in float32 inside.
        scores_CLL = torch.bmm(q_CLW * width**-0.5, k_CLW.transpose(1, 2))
        return torch.bmm(torch.softmax(scores_CLL, dim=-1), v_CLW)
    return attend(q_CLW.unsqueeze(0), k_CLW.unsqueeze(0), v_CLW.unsqueeze(0)).squeeze(0)
