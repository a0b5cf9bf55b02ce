"""Float arithmetic with one result everywhere: every sum has a fixed order, every function is a fixed list of steps.

An int8 forward is exact integer sums with a little float arithmetic between them. Here that arithmetic is defined, in
single IEEE operations on float32 (no fused ones, nothing from a mathematical library), so that `engine/native` can do
the same steps and get the same bits, whatever the vector instructions.

Shape letters: N numbers that are summed, R rows, I input width, O output width.
"""

import torch

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
