"""Counts the multiplications that torch really does, by watching every operation."""

from math import prod
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

_MATRIX = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}
"""Matrix products, and where their first factor stands among the arguments."""
_ATTENTION = ("scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu")


class Multiplications(TorchDispatchMode):
    """Multiplications of matrix products and attention inside a `with` block.

    Attributes:
        done: how many.
        rows: (rows, inputs, outputs) of every product of two matrices.
    """

    def __init__(self) -> None:
        super().__init__()
        self.done = 0
        self.rows: list[tuple[int, int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _MATRIX:
            left, right = args[_MATRIX[name] :][:2]
            self.done += prod(left.shape) * right.shape[-1]
            self.rows.append((left.shape[-2], left.shape[-1], right.shape[-1]))
        elif name in _ATTENTION:
            batch, heads, length, width = args[0].shape
            self.done += 2 * batch * heads * length**2 * width
        else:
            others = ("matmul", "linear", "einsum", "dot", "mv", "_scaled", "convolution")
            assert not name.startswith(others), f"{name} multiplies and is not counted"
        return func(*args, **(kwargs or {}))
