"""The int8 forward in plain torch, dense and routed: the definition of every bit, and what runs without a compiler.

Matrix products are exact integer sums (`engine.model.deterministic.integer_sums`), float steps have one order, so
neither the batch nor the number of threads changes a bit. `engine.kernels.native` computes the same bits ten times
faster.

Inside attention, queries, keys, values and probabilities are whole numbers of 12 bits with one scale per head and text:
8 would cost accuracy, and these products are small. Routers compute in 11 bits (`quantize.MOST_ROUTER`).

Shape letters: T tokens of a pack, S sequences, D width, H heads, W head width, L length of one sequence, E experts,
F shared neurons, K neurons of one expert, U units of a router, C texts of one length.
"""

import math

import torch

from engine.model.config import FIRST
from engine.model.dense import Pack, Run, sequence_firsts
from engine.model.deterministic import (
    exp,
    fold,
    gelu,
    integer_sums,
    layer_norm,
    quantised,
    quantised_rows,
    root,
    single,
)
from engine.model.routed import with_quorum
from engine.model.trace import LayerTrace
from engine.weights.quantize import MOST_ROUTER, Int8Weights, sizes_of_blocks

MOST_INT12 = 2047


class TorchInt8:
    """An int8 encoder in torch.

    Args:
        weights: the model.
    """

    def __init__(self, weights: Int8Weights) -> None:
        self._sizes = weights.sizes
        self._tensors = weights.tensors()

    def forward(self, batch: Pack, budget: int, trace: list[LayerTrace] | None = None) -> torch.Tensor:
        """Unit vectors [S, D] float32 in the order of the pack.

        Args:
            batch: the texts.
            budget: place of the budget in the configuration's list; 0 for a dense model.
            trace: takes one entry per layer of a routed model.
        """
        tensors = self._tensors
        x_TD = tensors["tokens.values"][batch.ids_T].float() * tensors["tokens.scale"][batch.ids_T].unsqueeze(1)
        x_TD = self._norm("norm", x_TD + tensors["positions"][batch.positions_T])
        for place in range(self._sizes.layers):
            x_TD = self._layer(f"layers.{place}", x_TD, batch, budget, trace)
        by_first = self._sizes.base.pooling == FIRST
        pooled_SD = sequence_firsts(x_TD, batch.runs) if by_first else text_means(x_TD, batch.runs)
        return pooled_SD / root(fold(pooled_SD * pooled_SD)).unsqueeze(1)

    def _layer(
        self, name: str, x_TD: torch.Tensor, batch: Pack, budget: int, trace: list[LayerTrace] | None
    ) -> torch.Tensor:
        sizes = self._sizes
        on_SH = x_TD.new_ones(len(batch.lengths_S), sizes.base.heads, dtype=torch.bool)
        if sizes.routed_heads:
            on_SR = self._choose(f"{name}.head_router", text_means(x_TD, batch.runs), budget, sizes.shared_heads == 0)
            on_SH[:, sizes.shared_heads :] = on_SR
        x_TD = self._norm(f"{name}.attention_norm", x_TD + self._attention(name, x_TD, on_SH, batch))
        on_TE = x_TD.new_zeros(len(x_TD), 0, dtype=torch.bool)
        if sizes.experts:
            on_TE = self._experts(f"{name}.expert_router", x_TD, batch, budget)
            if trace is not None:
                trace.append(LayerTrace(on_SH[:, sizes.shared_heads :], on_TE, x_TD))
        return self._norm(f"{name}.feed_forward_norm", x_TD + self._feed_forward(name, x_TD, on_TE))

    def _experts(self, name: str, x_TD: torch.Tensor, batch: Pack, budget: int) -> torch.Tensor:
        """[T, E] bool: the experts of each token."""
        sizes, needs_one = self._sizes, self._sizes.shared_neurons == 0
        if not sizes.by_token:
            on_SE = self._choose(name, text_means(x_TD, batch.runs), budget, needs_one)
            return on_SE[batch.sequences_T]
        on_TE = self._choose(name, x_TD, budget, needs_one)
        return on_TE if budget == sizes.budgets - 1 else with_quorum(on_TE, sizes.quorum, batch)

    def _choose(self, name: str, x_RD: torch.Tensor, budget: int, needs_one: bool) -> torch.Tensor:
        """[R, U] bool: the units of a router that work for each row; with `needs_one` the best one always does."""
        tensors = self._tensors
        q_RD, scale_R1 = quantised(x_RD, x_RD.abs().amax(dim=1, keepdim=True), MOST_ROUTER)
        sums_RU = (q_RD.double() @ tensors[f"{name}.values"].double().t()).float()
        scores_RU = sums_RU * scale_R1 * tensors[f"{name}.scale"] + tensors[f"{name}.bias"]
        wanted_RU = scores_RU + tensors[f"{name}.balance"]
        on_RU = wanted_RU > tensors[f"{name}.thresholds"][budget]
        if needs_one:
            best_RU = wanted_RU == wanted_RU.amax(dim=1, keepdim=True)
            on_RU |= best_RU & (best_RU.cumsum(dim=1) == 1)  # of equal ones the first
        return on_RU

    def _linear(
        self, name: str, q_RI: torch.Tensor, scale_R1: torch.Tensor, outputs: slice = slice(None)
    ) -> torch.Tensor:
        """[R, O] without the bias. Args: outputs are those of the weights' rows that are wanted."""
        values_OI, scale_O = self._tensors[f"{name}.values"], self._tensors[f"{name}.scale"]
        return integer_sums(q_RI, values_OI[outputs]).float() * scale_R1 * scale_O[outputs]

    def _attention(self, name: str, x_TD: torch.Tensor, on_SH: torch.Tensor, batch: Pack) -> torch.Tensor:
        """[T, D] without the residual: all heads of a text that are on, their results one row of whole numbers."""
        sizes, tensors = self._sizes, self._tensors
        width = sizes.base.head_width
        q_TD, scale_T1 = quantised_rows(x_TD)
        mixed_TD = torch.zeros_like(x_TD)
        shared = slice(0, sizes.shared_heads)
        if sizes.shared_heads:
            self._mix(name, shared, q_TD, scale_T1, batch, on_SH[:, 0], mixed_TD)
        for head in range(sizes.shared_heads, sizes.base.heads):
            if bool(on_SH[:, head].any()):
                self._mix(name, slice(head, head + 1), q_TD, scale_T1, batch, on_SH[:, head], mixed_TD)
        q_TD, scale_T1 = quantised_rows(mixed_TD)
        values_OI = tensors[f"{name}.output.values"]
        sum_TD = integer_sums(q_TD[:, : shared.stop * width], values_OI[:, : shared.stop * width])
        for head in range(sizes.shared_heads, sizes.base.heads):
            rows = on_SH[batch.sequences_T, head].nonzero().flatten()
            columns = slice(head * width, (head + 1) * width)
            if len(rows):
                sum_TD[rows] += integer_sums(q_TD[rows, columns], values_OI[:, columns])
        return sum_TD.float() * scale_T1 * tensors[f"{name}.output.scale"] + tensors[f"{name}.output.bias"]

    def _mix(
        self,
        name: str,
        heads: slice,
        q_TD: torch.Tensor,
        scale_T1: torch.Tensor,
        batch: Pack,
        on_S: torch.Tensor,
        mixed_TD: torch.Tensor,
    ) -> None:
        """Put the attention of some heads into `mixed_TD`, for the texts where they work."""
        width, count = self._sizes.base.head_width, heads.stop - heads.start
        outputs = slice(heads.start * 3 * width, heads.stop * 3 * width)
        columns = slice(heads.start * width, heads.stop * width)
        first = 0
        for run in batch.runs:
            on_C = on_S[first : first + run.sequences].nonzero().flatten()
            first += run.sequences
            if not len(on_C):
                continue
            rows_C = (run.start + on_C.unsqueeze(1) * run.length + torch.arange(run.length)).flatten()
            qkv_R = self._linear(f"{name}.qkv", q_TD[rows_C], scale_T1[rows_C], outputs)
            qkv_R = qkv_R + self._tensors[f"{name}.qkv.bias"][outputs]
            qkv_CHL = qkv_R.view(len(on_C), run.length, count, 3 * width).transpose(1, 2)
            mixed_CHLW = _attend(*qkv_CHL.split(width, dim=3))
            mixed_TD[rows_C, columns] = mixed_CHLW.transpose(1, 2).reshape(len(rows_C), -1)

    def _feed_forward(self, name: str, x_TD: torch.Tensor, on_TE: torch.Tensor) -> torch.Tensor:
        """[T, D] without the residual: the shared neurons, then each expert on the tokens that chose it."""
        q_TD, scale_T1 = quantised_rows(x_TD)
        y_TD = self._tensors[f"{name}.down.bias"].expand_as(x_TD).clone()
        start = 0
        for block, neurons in enumerate(sizes_of_blocks(self._sizes)):
            span = slice(start, start + neurons)
            start += neurons
            rows = None if block == 0 else on_TE[:, block - 1].nonzero().flatten()
            if not neurons or (rows is not None and not len(rows)):
                continue
            q_RD, scale_R1 = (q_TD, scale_T1) if rows is None else (q_TD[rows], scale_T1[rows])
            up_RK = self._linear(f"{name}.up", q_RD, scale_R1, span) + self._tensors[f"{name}.up.bias"][span]
            q_RK, scale_R1 = quantised_rows(gelu(up_RK))
            values_DK = self._tensors[f"{name}.down.values"][:, span]
            down_RD = integer_sums(q_RK, values_DK).float() * scale_R1 * self._tensors[f"{name}.down.scale"][block]
            if rows is None:
                y_TD = y_TD + down_RD
            else:
                y_TD[rows] += down_RD
        return y_TD

    def _norm(self, name: str, x_TD: torch.Tensor) -> torch.Tensor:
        tensors = self._tensors
        return layer_norm(x_TD, tensors[f"{name}.weight"], tensors[f"{name}.bias"], self._sizes.base.norm_eps)


def text_means(x_TD: torch.Tensor, runs: tuple[Run, ...]) -> torch.Tensor:
    """[S, D]: mean state of each text, its tokens added up in halves."""
    means = [
        fold(
            x_TD[run.start : run.start + run.sequences * run.length].view(run.sequences, run.length, -1).transpose(1, 2)
        )
        * single(1 / run.length)
        for run in runs
    ]
    return torch.cat(means)


def _attend(q_CHLW: torch.Tensor, k_CHLW: torch.Tensor, v_CHLW: torch.Tensor) -> torch.Tensor:
    """[C, H, L, W]: softmax(q k / sqrt W) v in whole numbers; float64 holds their sums exactly."""
    (q, q_scale), (k, k_scale), (v, v_scale) = (
        quantised(part, part.abs().amax(dim=(2, 3), keepdim=True), MOST_INT12) for part in (q_CHLW, k_CHLW, v_CHLW)
    )
    factor = q_scale * k_scale * single(1 / math.sqrt(q_CHLW.shape[-1]))
    scores_CHLL = (q.double() @ k.double().transpose(2, 3)).float() * factor
    shares_CHLL = (exp(scores_CHLL - scores_CHLL.amax(dim=3, keepdim=True)) * float(MOST_INT12)).round().double()
    total_CHL1 = shares_CHLL.sum(dim=3, keepdim=True).float()
    return (shares_CHLL @ v.double()).float() * (v_scale / total_CHL1)
