"""Which rows go to which unit (attention head or expert), and the products over them: work that is off is not done.

The dispatcher holds no parameters. Rows of one unit stand together, so that each unit is one product over its own
rows; a unit without rows costs nothing, forward and backward.

Shape letters: R rows, U units, P pairs of a unit and a row that it works on, I input width, O output width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from engine.model.deterministic import least_rows, lowered, most_rows, must_fix_order, product

TRAINING_ROWS = 64
"""In training in bfloat16, rows of a unit are filled up to a multiple of this: oneDNN compiles a product anew for each
shape, two milliseconds where the product takes a tenth of one."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Pairs of a unit and a row, ordered by unit and then by row.

    Attributes:
        rows_P: row of each pair; R, one past the last row, where a pair only fills up.
        counts: pairs of each unit.
        filled: some pairs only fill up.
        by_row: with gradients, the places in P of the pairs that do not fill up, row by row, and where in this list
            each row begins.
    """

    rows_P: torch.Tensor
    counts: tuple[int, ...]
    filled: bool
    by_row: tuple[torch.Tensor, torch.Tensor] | None

    def spans(self) -> Iterator[tuple[int, slice]]:
        """Each unit that has rows, and its pairs."""
        start = 0
        for unit, count in enumerate(self.counts):
            if count:
                yield unit, slice(start, start + count)
            start += count


def dispatch(on_RU: torch.Tensor, training_rows: int = TRAINING_ROWS) -> Dispatch:
    """Rows for each unit that has any, filled up to what the products of this thread need.

    Args:
        on_RU: bool, the unit works on the row.
        training_rows: with gradients in bfloat16, rows of a unit are filled up to a multiple of this.
    """
    # NumPy takes a fifth of torch's time for arrays of this size.
    on = on_RU.cpu().numpy()
    unit_P, rows_P = np.nonzero(on.T)
    counts_U = on.sum(axis=0)
    training = torch.is_grad_enabled()
    if training:
        multiple = training_rows if torch.is_autocast_enabled(on_RU.device.type) else 1
        full_U = -(-counts_U // multiple) * multiple
    elif least_rows() == most_rows():  # all products have one number of rows
        full_U = -(-counts_U // least_rows()) * least_rows()
    else:
        full_U = np.where(counts_U > 0, np.maximum(counts_U, least_rows()), 0)
    missing_U = full_U - counts_U
    before_U = np.cumsum(missing_U) - missing_U
    places_Q = np.arange(len(rows_P)) + before_U[unit_P]
    by_row = None
    if training:
        starts_R = np.cumsum(on.sum(axis=1))
        starts_R = np.concatenate([[0], starts_R[:-1]])
        by_row_Q = places_Q[np.argsort(rows_P, kind="stable")]
        by_row = torch.from_numpy(by_row_Q).to(on_RU.device), torch.from_numpy(starts_R).to(on_RU.device)
    filled = bool(missing_U.any())
    if filled:
        whole_P = np.full(int(full_U.sum()), len(on), np.int64)
        whole_P[places_Q] = rows_P
        rows_P = whole_P
    return Dispatch(torch.from_numpy(rows_P).to(on_RU.device), tuple(full_U.tolist()), filled, by_row)


def pair_rows(x_RD: torch.Tensor, units: Dispatch) -> torch.Tensor:
    """[P, D] the row of each pair; the last row where a pair only fills up."""
    return _PairRows.apply(x_RD, units) if torch.is_grad_enabled() else _rows(x_RD, units)  # type: ignore[no-any-return]


def pair_gates(gate_RU: torch.Tensor, units: Dispatch) -> torch.Tensor:
    """[P, 1] the gate of each pair; 0 where a pair only fills up, so that it adds nothing to any gradient."""
    rows, width = gate_RU.shape
    counts_U = torch.tensor(units.counts, device=gate_RU.device)
    unit_P = torch.repeat_interleave(torch.arange(width, device=gate_RU.device), counts_U)
    cells_P = (units.rows_P * width + unit_P).clamp_max(rows * width)
    return functional.pad(gate_RU.flatten(), (0, 1)).index_select(0, cells_P).unsqueeze(1)


def combine(y_PD: torch.Tensor, units: Dispatch, start_RD: torch.Tensor) -> torch.Tensor:
    """[R, D]: `start` and on it the results of all units of each row, in the order of the units.

    float32 without gradients. With them, the inputs of y must have been multiplied by `pair_gates`: a pair that only
    fills up gets the gradient of the last row.
    """
    if torch.is_grad_enabled():
        return start_RD + _SumPairs.apply(y_PD, units)
    rows, width = start_RD.shape
    sums_RD = torch.zeros(rows + units.filled, width, dtype=torch.float32, device=start_RD.device)
    if must_fix_order(start_RD):  # by unit: a unit's rows are distinct, but for those that only fill up
        for _, span in units.spans():
            sums_RD.index_add_(0, units.rows_P[span], y_PD[span].float())
        return start_RD + sums_RD[:rows]
    return start_RD + sums_RD.index_add(0, units.rows_P, y_PD.float())[:rows]


def _rows(x_RD: torch.Tensor, units: Dispatch) -> torch.Tensor:
    rows_P = units.rows_P.clamp_max(len(x_RD) - 1) if units.filled else units.rows_P
    return x_RD.index_select(0, rows_P)


def _sums(y_PD: torch.Tensor, units: Dispatch) -> torch.Tensor:
    """[R, D]: over the pairs of each row."""
    # 11,000 rows of bfloat16 in 0.9 ms on one core; cast to float32 and added by `index_add`, 6 ms.
    assert units.by_row is not None
    by_row_Q, starts_R = units.by_row
    return torch.embedding_bag(y_PD, by_row_Q, starts_R)[0]


class _PairRows(torch.autograd.Function):
    """`pair_rows`; its backward adds up the pairs of each row."""

    @staticmethod
    def forward(ctx: Any, x_RD: torch.Tensor, units: Dispatch) -> torch.Tensor:
        ctx.units = units
        return _rows(x_RD, units)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        return _sums(grads[0], ctx.units), None


class _SumPairs(torch.autograd.Function):
    """Sums over the pairs of each row; its backward takes the row of each pair."""

    @staticmethod
    def forward(ctx: Any, y_PD: torch.Tensor, units: Dispatch) -> torch.Tensor:
        ctx.units = units
        return _sums(y_PD, units)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        return _rows(grads[0], ctx.units), None


def grouped_linear(
    x_PI: torch.Tensor, weight_UIO: torch.Tensor, bias_UO: torch.Tensor | None, units: Dispatch
) -> torch.Tensor:
    """Each pair's row through its unit's linear map, one product per unit that has rows.

    With gradients and under autocast, the products run in the lower precision.

    Args:
        x_PI: inputs of the pairs, in the order of `units`.
        weight_UIO: one matrix per unit.
        bias_UO: one bias per unit, or None.
        units: the pairs.

    Returns:
        [P, O].
    """
    if torch.is_grad_enabled():
        bias_UO = None if bias_UO is None else lowered(bias_UO, weight_UIO)
        x_PI, weight_UIO = lowered(x_PI, weight_UIO), lowered(weight_UIO, weight_UIO)
        return _GroupedLinear.apply(x_PI, weight_UIO, bias_UO, units)  # type: ignore[no-any-return]
    y_PO = x_PI.new_empty(x_PI.shape[0], weight_UIO.shape[2])
    biases = [None] * len(units.counts) if bias_UO is None else bias_UO.unbind()
    parts = zip(x_PI.split(units.counts), weight_UIO.unbind(), biases, y_PO.split(units.counts), strict=True)
    for x_BI, weight_IO, bias_O, y_BO in parts:
        if len(x_BI):
            product(x_BI, weight_IO, bias_O, y_BO)
    return y_PO


class _GroupedLinear(torch.autograd.Function):
    """`grouped_linear` with a backward that leaves units without rows alone as well."""

    @staticmethod
    def forward(
        ctx: Any, x_PI: torch.Tensor, weight_UIO: torch.Tensor, bias_UO: torch.Tensor | None, units: Dispatch
    ) -> torch.Tensor:
        ctx.save_for_backward(x_PI, weight_UIO)
        ctx.units, ctx.has_bias = units, bias_UO is not None
        y_PO = x_PI.new_empty(x_PI.shape[0], weight_UIO.shape[2])
        for unit, span in units.spans():
            if bias_UO is None:
                torch.mm(x_PI[span], weight_UIO[unit], out=y_PO[span])
            else:
                torch.addmm(bias_UO[unit], x_PI[span], weight_UIO[unit], out=y_PO[span])
        return y_PO

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        x_PI, weight_UIO = ctx.saved_tensors
        (dy_PO,) = grads
        dx_PI = torch.empty_like(x_PI)
        dweight_UIO = torch.zeros_like(weight_UIO)
        dbias_UO = dy_PO.new_zeros(weight_UIO.shape[0], weight_UIO.shape[2]) if ctx.has_bias else None
        for unit, span in ctx.units.spans():
            torch.mm(dy_PO[span], weight_UIO[unit].t(), out=dx_PI[span])
            torch.mm(x_PI[span].t(), dy_PO[span], out=dweight_UIO[unit])
            if dbias_UO is not None:
                dbias_UO[unit] = dy_PO[span].sum(dim=0)
        return dx_PI, dweight_UIO, dbias_UO, None
