"""Float arithmetic with one result everywhere: every sum has a fixed order, every function is a fixed list of steps.

An int8 forward is exact integer sums with a little float arithmetic between them. Here that arithmetic is defined, in
single IEEE operations on float32 (no fused ones, nothing from a mathematical library), so that `engine/kernels/native`
can do the same steps and get the same bits, whatever the vector instructions.

Shape letters: N numbers that are summed, R rows, I input width, O output width.
"""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache

import torch
from torch.nn import functional

EXP_FLOOR = -87.0
LOG2E = 1.44269502162933349609375
LN2_HIGH, LN2_LOW = 0.693145751953125, 1.42860676533018704503775e-06
"""ln 2 in two parts: the product of the first with a whole number up to 2^9 is exact."""
EXP = (0.008291716687381268, 0.04191502928733826, 0.1666766256093979, 0.49998900294303894, 0.9999996423721313, 1.0)
"""exp on [-ln 2 / 2, ln 2 / 2], highest power first: least squares fit of the relative error, largest 1.6e-7."""
GELU_EDGE = 4.5
GELU = (
    -1.6540128641717722e-12,
    1.9529319827960023e-10,
    -1.0285830853717925e-08,
    3.216686081941589e-07,
    -6.731901976309018e-06,
    0.00010108399874297902,
    -0.0011396822519600391,
    0.009884112514555454,
    -0.06641189008951187,
    0.3989217281341553,
)
"""(Phi(x) - 1/2) / x as a polynomial in x^2 up to 4.5^2, highest power first; GELU is off by 5e-5 at most."""
MOST_INT8 = 127
TINY = 1e-30
EXACT_TERMS = 1024
"""Products of two int8 numbers that float32 adds up without rounding: 1024 * 127 * 127 < 2^24."""


def fold(x_N: torch.Tensor) -> torch.Tensor:
    """Sum over the last dimension: the second half is added to the first, until one number is left.

    Args:
        x_N: [..., N] float32.

    Returns:
        [...].
    """
    count = x_N.shape[-1]
    while count > 1:
        half = (count + 1) // 2
        summed = x_N[..., : count - half] + x_N[..., half:count]
        x_N = summed if 2 * half == count else torch.cat([summed, x_N[..., half - 1 : half]], dim=-1)
        count = half
    return x_N[..., 0]


def exp(x: torch.Tensor) -> torch.Tensor:
    """e to the x for x <= 0, as float32; below -87 it is e to the -87."""
    x = x.clamp_min(EXP_FLOOR)
    power = (x * LOG2E).round()
    rest = x - power * LN2_HIGH
    rest = rest - power * LN2_LOW
    value = torch.full_like(rest, EXP[0])
    for factor in EXP[1:]:
        value = value * rest + factor
    return value * ((power.int() + 127) << 23).view(torch.float32)


def gelu(x: torch.Tensor) -> torch.Tensor:
    """x Phi(x), with Phi from a polynomial."""
    inner = x.clamp(-GELU_EDGE, GELU_EDGE)
    square = inner * inner
    value = torch.full_like(square, GELU[0])
    for factor in GELU[1:]:
        value = value * square + factor
    return x * (inner * value + 0.5)


def root(x: torch.Tensor) -> torch.Tensor:
    """The square root, correctly rounded: torch's own of float32 (from MKL) is now and then off in the last bit;
    float64 has so many more that its last one does not matter."""
    return x.double().sqrt().float()


def layer_norm(x_RI: torch.Tensor, weight_I: torch.Tensor, bias_I: torch.Tensor, eps: float) -> torch.Tensor:
    """[R, I]: each row at mean 0 and deviation 1, times the weight, plus the bias."""
    part = single(1 / x_RI.shape[-1])
    centred_RI = x_RI - (fold(x_RI) * part).unsqueeze(-1)
    variance_R = fold(centred_RI * centred_RI) * part
    factor_R = torch.ones_like(variance_R) / root(variance_R + single(eps))
    return centred_RI * factor_R.unsqueeze(-1) * weight_I + bias_I


def quantised(x: torch.Tensor, largest: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole numbers from -most to most, and what one of them is worth.

    Args:
        x: float32.
        largest: the largest size of a number in x, of a shape that x is spread over; below `TINY` all is 0.
        most: the whole number that it becomes.

    Returns:
        The whole numbers as float32, and the scale in the shape of `largest`.
    """
    factor = torch.where(largest > TINY, torch.full_like(largest, most) / largest, torch.zeros_like(largest))
    return (x * factor).round(), largest * single(1 / most)


def quantised_rows(x_RI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[R, I] whole numbers from -127 to 127 as float32, and [R, 1] what one is worth in each row."""
    return quantised(x_RI, x_RI.abs().amax(dim=-1, keepdim=True), MOST_INT8)


def integer_sums(x_RI: torch.Tensor, values_OI: torch.Tensor) -> torch.Tensor:
    """[R, O] int32: the exact integer product.

    Float products of whole numbers are exact while their sums stay below 2^24, in any order and with fused operations,
    so any matrix library gives these sums. `torch._int_mm` would too, but without VNNI it is a plain loop (100 times
    slower than float32, measured).

    Args:
        x_RI: whole numbers from -127 to 127 as float32.
        values_OI: int8.
    """
    sums_RO = torch.zeros(len(x_RI), len(values_OI), dtype=torch.int32)
    for x_RB, values_OB in zip(x_RI.split(EXACT_TERMS, dim=1), values_OI.split(EXACT_TERMS, dim=1), strict=True):
        sums_RO += (x_RB @ values_OB.float().t()).int()
    return sums_RO


def single(value: float) -> float:
    """The float32 next to a number."""
    return float(torch.tensor(value, dtype=torch.float32))


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
