"""Which rows go to which unit (attention head or expert), and the products over them: work that is off is not done.

The dispatcher holds no parameters. Rows of one unit stand together, so that each unit is one product over its own
rows; a unit without rows costs nothing, forward and backward.

Shape letters: R rows, U units, P pairs of a unit and a row that it works on, I input width, O output width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from engine.products import product

@dataclass(frozen=True, slots=True)
class Dispatch:
    """Pairs of a unit and a row, ordered by unit and then by row.

    Attributes:
        rows_P: row of each pair.
        counts: pairs of each unit.
    """

    rows_P: torch.Tensor
    counts: tuple[int, ...]

    def spans(self) -> Iterator[tuple[int, slice]]:
        """Each unit that has rows, and its pairs."""
        start = 0
        for unit, count in enumerate(self.counts):
            if count:
                yield unit, slice(start, start + count)
            start += count


def dispatch(on_RU: torch.Tensor) -> Dispatch:
    """Rows for each unit. Args: on_RU bool, the unit works on the row."""
    rows_P = on_RU.t().nonzero()[:, 1]
    return Dispatch(rows_P, tuple(on_RU.sum(dim=0).tolist()))


def grouped_linear(
    x_PI: torch.Tensor, weight_UIO: torch.Tensor, bias_UO: torch.Tensor | None, units: Dispatch
) -> torch.Tensor:
    """Each pair's row through its unit's linear map, one product per unit that has rows.

    With gradients, under autocast and on a GPU, the products run in the lower precision.

    Args:
        x_PI: inputs of the pairs, in the order of `units`.
        weight_UIO: one matrix per unit.
        bias_UO: one bias per unit, or None.
        units: the pairs.

    Returns:
        [P, O].
    """
    if torch.is_grad_enabled():
        if x_PI.device.type == "cpu":
            # Rows per unit change with every step, and oneDNN compiles a bfloat16 product anew for each shape: a
            # millisecond where the product takes 30 microseconds. So these stay in float32 on CPU.
            x_PI = x_PI.to(weight_UIO.dtype)
        elif torch.is_autocast_enabled(x_PI.device.type):
            dtype = torch.get_autocast_dtype(x_PI.device.type)
            x_PI, weight_UIO = x_PI.to(dtype), weight_UIO.to(dtype)
            bias_UO = None if bias_UO is None else bias_UO.to(dtype)
        return _GroupedLinear.apply(x_PI, weight_UIO, bias_UO, units)  # type: ignore[no-any-return]
    y_PO = x_PI.new_empty(x_PI.shape[0], weight_UIO.shape[2])
    for unit, span in units.spans():
        product(x_PI[span], weight_UIO[unit], None if bias_UO is None else bias_UO[unit], y_PO[span])
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
            product(x_PI[span], weight_UIO[unit], None if bias_UO is None else bias_UO[unit], y_PO[span])
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
