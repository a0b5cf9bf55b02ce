"""Matrix products whose bits for one row do not depend on how many other rows stand beside it.

On one thread, the libraries behind torch give a row the same bits in a product of any number of rows but one: a single
row takes another kernel. So a single row is computed beside a copy of itself. `rows_are_independent` proves it for the
machine at hand before an encoder is used.

Shape letters: R rows, I input width, O output width.
"""

import torch

MIN_ROWS = 2


def product(x_RI: torch.Tensor, weight_IO: torch.Tensor, bias_O: torch.Tensor | None, out: torch.Tensor) -> None:
    """out = x W + b. Args: out [R, O] takes the result."""
    if x_RI.shape[0] < MIN_ROWS:
        out.copy_(linear(x_RI, weight_IO, bias_O))
    elif bias_O is None:
        torch.mm(x_RI, weight_IO, out=out)
    else:
        torch.addmm(bias_O, x_RI, weight_IO, out=out)


def linear(x_RI: torch.Tensor, weight_IO: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
    """[R, O] x W + b; autocast and gradients work as in `torch.nn.Linear`."""
    rows = x_RI.shape[0]
    if rows < MIN_ROWS:
        x_RI = x_RI.expand(MIN_ROWS, -1)
    y_RO = torch.mm(x_RI, weight_IO) if bias_O is None else torch.addmm(bias_O, x_RI, weight_IO)
    return y_RO[:rows]
