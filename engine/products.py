"""Torch's matrix products, with bits for one row that do not depend on how many other rows stand beside it.

They serve training, CUDA, and machines without the compiled layers of `engine.native.float32`.

On one thread, the libraries behind torch give a row the same bits in products of many rows, but products of a few take
other kernels, and how few differs from machine to machine. `stable_rows` measures it on the machine at hand, over every
number of rows that can occur; products of fewer rows are filled up with zeros, larger ones are cut. On CUDA nothing is
measured: all products have one number of rows (`engine.device`).

Shape letters: R rows, I input width, O output width.
"""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache

import torch
from torch.nn import functional

MOST_ROWS = 64
"""Rows of one product at most. 64 reach 95% of the best rate, and the inner states stay in the cache."""
LEAST_ROWS = (2, 4, 8, 16, 32, MOST_ROWS)
"""Candidates for the fewest rows of a product; the last one always holds, because then all products are of one size."""

_local = threading.local()


def least_rows() -> int:
    """Fewest rows of a product in this thread."""
    return getattr(_local, "least_rows", 1)


def most_rows() -> int:
    """Most rows of a product in this thread."""
    return getattr(_local, "most_rows", MOST_ROWS)


def use_least_rows(rows: int, most: int = MOST_ROWS) -> None:
    """Set the fewest and the most rows of a product in this thread.

    What `stable_rows` found, or one number for both, makes bits independent of the batch.
    """
    _local.least_rows, _local.most_rows = rows, most


def must_fix_order(x: torch.Tensor) -> bool:
    """Whether sums over x need an order of our own: CUDA's depends on how many are made at a time, or on chance.

    With gradients or under autocast bits do not matter.
    """
    return x.is_cuda and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cuda")


def lowered(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x in the precision of products with this weight, cast once for all of them; under autocast in training in its."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return x.to(weight.dtype)
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_grad_enabled() else x


@contextmanager
def one_thread() -> Generator[None]:
    """Products of this thread use one core meanwhile: sums over another number of threads are other bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def product(x_RI: torch.Tensor, weight_IO: torch.Tensor, bias_O: torch.Tensor | None, out: torch.Tensor) -> None:
    """out = x W + b, in blocks. Args: out [R, O] takes the result."""
    rows = len(x_RI)
    if rows < least_rows():
        out.copy_(linear(x_RI, weight_IO, bias_O))
    elif rows > most_rows():
        # Blocks of nearly one size, so that none has too few rows.
        size = -(-rows // -(-rows // most_rows()))
        for x_BI, out_BO in zip(x_RI.split(size), out.split(size), strict=True):
            product(x_BI, weight_IO, bias_O, out_BO)
    elif bias_O is None:
        torch.mm(x_RI, weight_IO, out=out)
    else:
        torch.addmm(bias_O, x_RI, weight_IO, out=out)


def linear(x_RI: torch.Tensor, weight_IO: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
    """[R, O] x W + b. With gradients or autocast one product, else as `product` does it."""
    rows = len(x_RI)
    whole = torch.is_grad_enabled() or torch.is_autocast_enabled(x_RI.device.type)
    if not whole and rows > most_rows():
        y_RO = x_RI.new_empty(rows, weight_IO.shape[1])
        product(x_RI, weight_IO, bias_O, y_RO)
        return y_RO
    if not whole and rows < least_rows():
        x_RI = functional.pad(x_RI, (0, 0, 0, least_rows() - rows))
    y_RO = torch.mm(x_RI, weight_IO) if bias_O is None else torch.addmm(bias_O, x_RI, weight_IO)
    return y_RO[:rows]


@cache
def stable_rows(shapes: tuple[tuple[int, int], ...]) -> int:
    """Fewest rows from which on this machine gives a row the same bits in products of any number of rows.

    Call it in a thread that computes on one core. A fifth of a second, once per process.

    Args:
        shapes: (I, O) of every weight matrix in use.
    """
    generator = torch.Generator().manual_seed(0)
    least = LEAST_ROWS[0]
    for inputs, outputs in shapes:
        x_RI = torch.randn(2 * MOST_ROWS, inputs, dtype=torch.float32, generator=generator)
        weight_IO = torch.randn(inputs, outputs, dtype=torch.float32, generator=generator)
        bias_O = torch.randn(outputs, dtype=torch.float32, generator=generator)
        first = torch.addmm(bias_O, x_RI[:MOST_ROWS], weight_IO)
        whole = torch.cat([first, torch.addmm(bias_O, x_RI[MOST_ROWS:], weight_IO)])
        plain = torch.cat([x_RI[:MOST_ROWS] @ weight_IO, x_RI[MOST_ROWS:] @ weight_IO])
        for rows in range(MOST_ROWS, least - 1, -1):
            start = rows * 7 % MOST_ROWS  # a row's bits may not depend on its place either
            span = slice(start, start + rows)
            same = torch.equal(torch.addmm(bias_O, x_RI[span], weight_IO), whole[span])
            if not same or not torch.equal(x_RI[span] @ weight_IO, plain[span]):
                least = min(candidate for candidate in LEAST_ROWS if candidate > rows or candidate == MOST_ROWS)
                break
    return least
