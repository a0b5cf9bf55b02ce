"""Weights in 8 and in 4 bits: what is stored, in which order, and how float weights become it.

Every matrix is symmetric int8 with one scale per output channel; the down projection of the feed-forward part has one
per expert and channel, because each expert's result is added up by itself. The 4-bit build is the small file: groups of
32 weights with one scale each, which become int8 once they are loaded. Query, key and value stay in 8 bits there.

A dense encoder is a routed one in which all heads and neurons are shared, so there is one layout for both.

Shape letters: V vocabulary, P positions, D width, H heads, W head width, F shared neurons, E experts, K neurons of one
expert, B budgets, O output width, I input width, G groups.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch

from engine.errors import OptionError
from engine.model.config import EncoderConfig, RoutedConfig
from engine.model.dense import DenseEncoder
from engine.model.deterministic import MOST_INT8
from engine.model.routed import RoutedEncoder

FOUR_BITS = frozenset({"tokens", "output", "up", "down"})
"""Matrices of a 4-bit build that have 4 bits. With query, key and value the routed encoder chooses other experts: mean
cosine to float32 .845 instead of .946, for a megabyte (500 pairs of STS-B dev)."""
GROUP = 32
"""Weights that share a scale in 4 bits."""
MOST_INT4 = 7
ROWS_AT_ONCE = 64
"""Rows of a float matrix that are quantised together."""
_SHRINKS = tuple(1 - 0.05 * step for step in range(9))
"""A 4-bit scale is the largest weight of the group over 7, times whichever of these loses least."""
WIDEST_HEAD = 256
"""Scores of a wider head could pass 2^31 in the compiled forward."""
MOST_NEURONS = 65_536
"""Sums over more neurons of a block could pass 2^31 in the compiled forward, whose activations go up to 255."""
MOST_ROUTER, WIDEST = 1023, 2048
"""Routers have whole numbers up to 1023, whose products sum up to below 2^31 at widths up to 2048: in 8 bits they chose
other units so often that the mean cosine to float32 fell from .997 to .991 (200 sentences)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """What an int8 forward needs to know of a model's shape, dense or routed.

    Attributes:
        base: sizes of the parent.
        layers: layers that are there.
        shared_heads: heads that always work.
        shared_neurons: F.
        experts: E; 0 in a dense model.
        expert_width: K; 0 in a dense model.
        by_token: experts are chosen by token, not by text.
        quorum: tokens of a text that must want an expert.
        budgets: B; 0 in a dense model.
    """

    base: EncoderConfig
    layers: int
    shared_heads: int
    shared_neurons: int
    experts: int
    expert_width: int
    by_token: bool
    quorum: int
    budgets: int

    @classmethod
    def of(cls, config: EncoderConfig | RoutedConfig) -> Self:
        """The sizes of a model.

        Raises:
            OptionError: it, its heads or a block of its neurons is too wide.
        """
        base = config if isinstance(config, EncoderConfig) else config.base
        if base.head_width > WIDEST_HEAD:
            raise OptionError(f"A head is {base.head_width} wide; int8 computes up to {WIDEST_HEAD}. Use fp32.")
        if base.width > WIDEST:
            raise OptionError(f"The model is {base.width} wide; int8 computes up to {WIDEST}. Use fp32.")
        dense = isinstance(config, EncoderConfig)
        largest = config.ffn_width if dense else max(config.shared_neurons, config.expert_width)
        if largest > MOST_NEURONS:
            raise OptionError(f"A block has {largest} neurons; int8 computes up to {MOST_NEURONS}. Use fp32.")
        if dense:
            return cls(
                base=base,
                layers=base.layers,
                shared_heads=base.heads,
                shared_neurons=base.ffn_width,
                experts=0,
                expert_width=0,
                by_token=True,
                quorum=1,
                budgets=0,
            )
        return cls(
            base=base,
            layers=len(config.kept),
            shared_heads=config.shared_heads,
            shared_neurons=config.shared_neurons,
            experts=config.experts,
            expert_width=config.expert_width,
            by_token=config.expert_mode == "token",
            quorum=config.quorum,
            budgets=len(config.budgets),
        )

    @property
    def routed_heads(self) -> int:
        """Heads that a router may leave out."""
        return self.base.heads - self.shared_heads

    def layout(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Type and shape of every tensor by name, in the order in which `engine.kernels.native` reads them."""
        base, float32 = self.base, torch.float32
        width, neurons = base.width, self.shared_neurons + self.experts * self.expert_width
        found: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}

        def matrix(name: str, rows: int, columns: int, scales: tuple[int, ...], bias: int) -> None:
            found[f"{name}.values"] = (torch.int8, (rows, columns))
            found[f"{name}.scale"] = (float32, scales)
            if bias:
                found[f"{name}.bias"] = (float32, (bias,))

        def router(name: str, units: int) -> None:
            if units:
                matrix(name, units, width, (units,), units)
                found[f"{name}.values"] = (torch.int16, (units, width))
                found[f"{name}.balance"] = (float32, (units,))
                found[f"{name}.thresholds"] = (float32, (self.budgets,))

        def norm(name: str) -> None:
            found[f"{name}.weight"] = found[f"{name}.bias"] = (float32, (width,))

        matrix("tokens", base.vocab, width, (base.vocab,), 0)
        found["positions"] = (float32, (base.positions, width))
        norm("norm")
        for place in range(self.layers):
            layer = f"layers.{place}"
            router(f"{layer}.head_router", self.routed_heads)
            matrix(f"{layer}.qkv", 3 * width, width, (3 * width,), 3 * width)
            matrix(f"{layer}.output", width, width, (width,), width)
            norm(f"{layer}.attention_norm")
            router(f"{layer}.expert_router", self.experts)
            matrix(f"{layer}.up", neurons, width, (neurons,), neurons)
            matrix(f"{layer}.down", width, neurons, (1 + self.experts, width), width)
            norm(f"{layer}.feed_forward_norm")
        return found


@dataclass(frozen=True, slots=True)
class Int8Weights:
    """The weights of an int8 encoder, made when they are asked for.

    Attributes:
        config: of the model.
        sizes: of the model.
        bits: 8 or 4.
        stored: gives the tensors by name as `stored_layout` has them: first those before the layers, then layer by
            layer.
    """

    config: EncoderConfig | RoutedConfig
    sizes: Sizes
    bits: int
    stored: Callable[[], Iterator[dict[str, torch.Tensor]]]

    def parts(self) -> Iterator[dict[str, torch.Tensor]]:
        """The same as `Sizes.layout` has them, 4-bit matrices in 8 bits."""
        # A loop would hold a layer while the next one is made.
        return map(partial(_in_eight_bits, sizes=self.sizes), self.stored())

    def tensors(self) -> dict[str, torch.Tensor]:
        """All parts together."""
        return {name: value for part in self.parts() for name, value in part.items()}


Floats = Callable[[str], torch.Tensor]
"""Float weights by their name in the model's `state_dict`."""
Rows = Callable[[int, int], torch.Tensor]
"""Rows of a float matrix, from the first to the one before the last."""


def quantize(model: DenseEncoder | RoutedEncoder, bits: int = 8) -> Int8Weights:
    """Quantise a float model.

    Args:
        model: the model, left as it is.
        bits: 8, or 4 for matrices that go through 4 bits first.

    Raises:
        OptionError: bits is another number, or a head is too wide.
    """
    state = model.state_dict()
    return quantize_floats(model.config, state.__getitem__, lambda a, b: state["tokens.weight"][a:b], bits)


def quantize_floats(config: EncoderConfig | RoutedConfig, floats: Floats, table: Rows, bits: int) -> Int8Weights:
    """Quantise float weights that are read one by one, so that no two large ones are held together.

    Args:
        config: of the model.
        floats: reads a weight.
        table: reads rows of the embedding table.
        bits: as in `quantize`.

    Raises:
        OptionError: bits is another number, or a head is too wide.
    """
    if bits not in (4, 8):
        raise OptionError(f"bits is {bits}; weights are quantised to 8 or 4.")
    sizes = Sizes.of(config)

    def stored() -> Iterator[dict[str, torch.Tensor]]:
        yield {
            **_stored("tokens", table, sizes.base.vocab, sizes, bits),
            "positions": floats("positions.weight"),
            "norm.weight": floats("norm.weight"),
            "norm.bias": floats("norm.bias"),
        }
        for place in range(sizes.layers):
            yield _layer(f"layers.{place}", sizes, floats, bits)

    return Int8Weights(config, sizes, bits, stored)


def stored_layout(sizes: Sizes, bits: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of every stored tensor: as in `Sizes.layout`, 4-bit matrices as `to_groups` makes them."""
    found: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for name, (dtype, shape) in sizes.layout().items():
        matrix, _, kind = name.rpartition(".")
        if not _has_four_bits(matrix, bits) or kind not in ("values", "scale"):
            found[name] = (dtype, shape)
        elif kind == "values":
            groups = -(-shape[1] // GROUP)
            found[f"{matrix}.nibbles"] = (torch.uint8, (shape[0], groups * GROUP // 2))
            found[f"{matrix}.groups"] = (torch.float16, (shape[0], groups))
    return found


def _has_four_bits(matrix: str, bits: int) -> bool:
    return bits == 4 and matrix.rpartition(".")[2] in FOUR_BITS


def _stored(name: str, rows: Rows, outputs: int, sizes: Sizes, bits: int) -> dict[str, torch.Tensor]:
    """A matrix as it is stored; few rows at a time, so that copies stay small."""
    if not _has_four_bits(name, bits):
        return _integers(name, rows, outputs, sizes)
    made = [
        to_groups(rows(first, min(first + ROWS_AT_ONCE, outputs)).float()) for first in range(0, outputs, ROWS_AT_ONCE)
    ]
    nibbles, groups = (torch.cat(parts) for parts in zip(*made, strict=True))
    return {f"{name}.nibbles": nibbles, f"{name}.groups": groups}


def _in_eight_bits(part: dict[str, torch.Tensor], sizes: Sizes) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for name, value in part.items():
        matrix, _, kind = name.rpartition(".")
        if kind == "nibbles":
            rows = partial(_from_groups, value, part[f"{matrix}.groups"], sum(_spans(matrix, sizes)))
            found |= _integers(matrix, rows, len(value), sizes)
        elif kind != "groups":
            found[name] = value
    return found


def _from_groups(nibbles: torch.Tensor, groups: torch.Tensor, columns: int, first: int, stop: int) -> torch.Tensor:
    return from_groups(nibbles[first:stop], groups[first:stop], columns)


def _spans(matrix: str, sizes: Sizes) -> list[int]:
    """Input columns by scale."""
    return sizes_of_blocks(sizes) if matrix.endswith(".down") else [sizes.base.width]


def _layer(name: str, sizes: Sizes, floats: Floats, bits: int) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for part in ("qkv", "output", "up", "down"):
        # The float matrix is gone when its row reader is.
        rows, outputs, found[f"{name}.{part}.bias"] = _matrix(part, name, sizes, floats)
        found |= _stored(f"{name}.{part}", rows, outputs, sizes, bits)
        del rows
    for part in ("attention_norm", "feed_forward_norm"):
        for kind in ("weight", "bias"):
            found[f"{name}.{part}.{kind}"] = floats(f"{name}.{part}.{kind}")
    for part, units in (("head_router", sizes.routed_heads), ("expert_router", sizes.experts)):
        if units:
            weight_UD = floats(f"{name}.{part}.weight").t()[:units]
            values, found[f"{name}.{part}.scale"] = to_integers(weight_UD, MOST_ROUTER, torch.int16)
            found[f"{name}.{part}.values"] = values.contiguous()
            found[f"{name}.{part}.bias"] = floats(f"{name}.{part}.bias")[:units].contiguous()
            found[f"{name}.{part}.balance"] = floats(f"{name}.{part}.balance_U")
            found[f"{name}.{part}.thresholds"] = floats(f"{name}.{part}.thresholds_B")
    return found


def _matrix(part: str, layer: str, sizes: Sizes, floats: Floats) -> tuple[Rows, int, torch.Tensor]:
    """Query-key-value (rows head by head), output, up or down of a layer: its rows [O, I], O, and its bias [O]."""
    weight_OI, bias_O = (_routed if sizes.budgets else _dense)(part, layer, sizes, floats)
    return lambda a, b: weight_OI[a:b], len(weight_OI), bias_O.float().contiguous()


def _dense(part: str, layer: str, sizes: Sizes, floats: Floats) -> tuple[torch.Tensor, torch.Tensor]:
    module = f"{layer}.attention" if part in ("qkv", "output") else f"{layer}.feed_forward"
    weight_OI, bias_O = floats(f"{module}.{part}.weight").t(), floats(f"{module}.{part}.bias")
    if part != "qkv":
        return weight_OI, bias_O
    by_head = (3, sizes.base.heads, sizes.base.head_width)
    weight_OI = weight_OI.reshape(*by_head, -1).transpose(0, 1).reshape(weight_OI.shape)
    return weight_OI, bias_O.view(by_head).transpose(0, 1).reshape(-1)


def _routed(part: str, layer: str, sizes: Sizes, floats: Floats) -> tuple[torch.Tensor, torch.Tensor]:
    module = f"{layer}.attention" if part in ("qkv", "output") else f"{layer}.feed_forward"
    width = sizes.base.width
    shared, units = floats(f"{module}.shared_{part}"), floats(f"{module}.{part}")
    if part in ("output", "down"):
        return torch.cat([shared, units.view(-1, width)]).t(), floats(f"{module}.bias")
    bias_O = torch.cat([floats(f"{module}.shared_{part}_bias"), floats(f"{module}.{part}_bias").flatten()])
    return torch.cat([shared.t(), units.transpose(1, 2).reshape(-1, width)]), bias_O


def _integers(name: str, rows: Rows, outputs: int, sizes: Sizes) -> dict[str, torch.Tensor]:
    """Values [O, I] int8, and scales [O], for each block of the inputs in a down projection; few rows at a time."""
    spans = _spans(name, sizes)
    values_OI = torch.empty(outputs, sum(spans), dtype=torch.int8)
    scale_SO = torch.empty(len(spans), outputs, dtype=torch.float32)
    for first in range(0, outputs, ROWS_AT_ONCE):
        stop = min(first + ROWS_AT_ONCE, outputs)
        weight_RI = rows(first, stop).float()
        for span, (part, place) in enumerate(
            zip(weight_RI.split(spans, dim=1), values_OI[first:stop].split(spans, dim=1), strict=True)
        ):
            values, scale_SO[span, first:stop] = to_integers(part)
            place.copy_(values)
    return {f"{name}.values": values_OI, f"{name}.scale": scale_SO if name.endswith(".down") else scale_SO[0]}


def sizes_of_blocks(sizes: Sizes) -> list[int]:
    """Input columns of the down projection by block: the shared neurons, then each expert's."""
    return [sizes.shared_neurons, *[sizes.expert_width] * sizes.experts]


def to_integers(
    weight_OI: torch.Tensor, most: int = MOST_INT8, dtype: torch.dtype = torch.int8
) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole numbers from -most to most [O, I] and their scales [O]; a row of zeros has scale 0."""
    largest_O = weight_OI.abs().amax(dim=1) if weight_OI.shape[1] else weight_OI.new_zeros(len(weight_OI))
    scale_O = largest_O / most
    divisor_O1 = torch.where(scale_O > 0, scale_O, torch.ones_like(scale_O)).unsqueeze(1)
    return (weight_OI / divisor_O1).round().clamp(-most, most).to(dtype), scale_O


def to_groups(weight_OI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights in 4 bits.

    Args:
        weight_OI: the weights.

    Returns:
        [O, G * 16] uint8, two weights a byte, the first in the low half, as value + 8; and [O, G] float16 scales.
    """
    rows, columns = weight_OI.shape
    padded_OI = torch.nn.functional.pad(weight_OI, (0, -columns % GROUP))
    groups = padded_OI.reshape(rows, -1, GROUP)
    largest = groups.abs().amax(dim=2, keepdim=True) / MOST_INT4
    best = torch.zeros_like(groups, dtype=torch.int8)
    best_scale, best_loss = torch.zeros_like(largest), torch.full_like(largest, torch.inf)
    for shrink in _SHRINKS:
        scale = (largest * shrink).half().float()
        divisor = torch.where(scale > 0, scale, torch.ones_like(scale))
        values = (groups / divisor).round().clamp(-MOST_INT4, MOST_INT4)
        loss = (values * scale - groups).square().sum(dim=2, keepdim=True)
        better = loss < best_loss
        best = torch.where(better, values.to(torch.int8), best)
        best_scale, best_loss = torch.where(better, scale, best_scale), torch.where(better, loss, best_loss)
    nibbles = (best + 8).to(torch.uint8).reshape(rows, -1)
    return nibbles[:, 0::2] | (nibbles[:, 1::2] << 4), best_scale.squeeze(2).half()


def from_groups(packed: torch.Tensor, scales: torch.Tensor, columns: int) -> torch.Tensor:
    """[O, I] float32: the inverse of `to_groups`. Args: columns is I."""
    nibbles = torch.stack([packed & 15, packed >> 4], dim=2).to(torch.int8) - 8
    weights = nibbles.reshape(len(packed), -1, GROUP).float() * scales.float().unsqueeze(2)
    return weights.reshape(len(packed), -1)[:, :columns]
