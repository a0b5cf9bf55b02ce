"""Weights in 8 and in 4 bits: what is stored, in which order, and how float weights become it.

Every matrix is symmetric int8 with one scale per output channel; the down projection of the feed-forward part has one
per expert and channel, because each expert's result is added up by itself. The 4-bit build is the small file: groups of
32 weights with one scale each, which become int8 once they are loaded.

A dense encoder is a routed one in which all heads and neurons are shared, so there is one layout for both.

Shape letters: V vocabulary, P positions, D width, H heads, W head width, F shared neurons, E experts, K neurons of one
expert, B budgets, O output width, I input width, G groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, cast

import torch

from engine.arithmetic import MOST_INT8
from engine.config import EncoderConfig, RoutedConfig
from engine.encoder import DenseEncoder, Layer
from engine.errors import OptionError
from engine.routed import RoutedEncoder, RoutedLayer
from engine.router import Router

GROUP = 32
"""Weights that share a scale in 4 bits."""
MOST_INT4 = 7
_SHRINKS = tuple(1 - 0.05 * step for step in range(9))
"""A 4-bit scale is the largest weight of the group over 7, times whichever of these loses least."""
WIDEST_HEAD = 256
"""Scores of a wider head could pass 2^31 in the compiled forward."""
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
            OptionError: it or its heads are too wide.
        """
        base = config if isinstance(config, EncoderConfig) else config.base
        if base.head_width > WIDEST_HEAD:
            raise OptionError(f"A head is {base.head_width} wide; int8 computes up to {WIDEST_HEAD}. Use fp32.")
        if base.width > WIDEST:
            raise OptionError(f"The model is {base.width} wide; int8 computes up to {WIDEST}. Use fp32.")
        if isinstance(config, EncoderConfig):
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
        """Type and shape of every tensor by name, in the order in which `engine.native` reads them."""
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
    """The weights of an int8 encoder: tensors by name, as `Sizes.layout` has them."""

    config: EncoderConfig | RoutedConfig
    sizes: Sizes
    tensors: Mapping[str, torch.Tensor]


def quantize(model: DenseEncoder | RoutedEncoder, bits: int = 8) -> Int8Weights:
    """Quantise a float model.

    Args:
        model: the model, left as it is.
        bits: 8, or 4 for matrices that go through 4 bits first.

    Raises:
        OptionError: bits is another number, or a head is too wide.
    """
    if bits not in (4, 8):
        raise OptionError(f"bits is {bits}; weights are quantised to 8 or 4.")
    sizes = Sizes.of(model.config)
    found: dict[str, torch.Tensor] = {}

    def matrix(name: str, weight_OI: torch.Tensor, bias_O: torch.Tensor | None, *, blocks: bool = False) -> None:
        weight_OI = weight_OI.detach().float()
        if bits == 4:
            weight_OI = from_groups(*to_groups(weight_OI), weight_OI.shape[1])
        spans = sizes_of_blocks(sizes) if blocks else [weight_OI.shape[1]]
        parts = [to_integers(part) for part in weight_OI.split(spans, dim=1)]
        found[f"{name}.values"] = torch.cat([values for values, _ in parts], dim=1)
        found[f"{name}.scale"] = torch.stack([scale for _, scale in parts]) if blocks else parts[0][1]
        if bias_O is not None:
            found[f"{name}.bias"] = bias_O.detach().float().contiguous()

    def router(name: str, module: Router) -> None:
        units = len(module.balance_U)
        weight_UD = module.weight.detach().t()[:units]
        found[f"{name}.values"], found[f"{name}.scale"] = to_integers(weight_UD, MOST_ROUTER, torch.int16)
        found[f"{name}.bias"] = module.bias.detach()[:units].contiguous()
        found[f"{name}.balance"], found[f"{name}.thresholds"] = module.balance_U, module.thresholds_B

    def norm(name: str, module: torch.nn.Module) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (
            cast("torch.nn.LayerNorm", module).weight.detach(),
            cast("torch.nn.LayerNorm", module).bias.detach(),
        )

    matrix("tokens", model.tokens.weight, None)
    found["positions"] = model.positions.weight.detach()
    norm("norm", model.norm)
    for place, module in enumerate(model.layers):
        name = f"layers.{place}"
        layer = cast("Layer | RoutedLayer", module)
        qkv, output, up, down = _matrices(layer, sizes)
        if isinstance(layer, RoutedLayer):
            if sizes.routed_heads:
                router(f"{name}.head_router", layer.head_router)
            router(f"{name}.expert_router", layer.expert_router)
        matrix(f"{name}.qkv", *qkv)
        matrix(f"{name}.output", *output)
        norm(f"{name}.attention_norm", layer.attention_norm)
        matrix(f"{name}.up", *up)
        matrix(f"{name}.down", *down, blocks=True)
        norm(f"{name}.feed_forward_norm", layer.feed_forward_norm)
    return Int8Weights(model.config, sizes, {key: found[key].contiguous() for key in sizes.layout()})


def _matrices(layer: Layer | RoutedLayer, sizes: Sizes) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Query-key-value (rows head by head), output, up and down of a layer as [O, I], each with its bias."""
    attention, feed_forward = layer.attention, layer.feed_forward
    width = sizes.base.width
    if isinstance(layer, Layer):
        attention, feed_forward = layer.attention, layer.feed_forward
        by_head = (3, sizes.base.heads, sizes.base.head_width)
        qkv_OI = attention.qkv.weight.t().reshape(*by_head, width).transpose(0, 1).reshape(3 * width, width)
        qkv_O = attention.qkv.bias.view(by_head).transpose(0, 1).reshape(-1)
        return [
            (qkv_OI, qkv_O),
            (attention.output.weight.t(), attention.output.bias),
            (feed_forward.up.weight.t(), feed_forward.up.bias),
            (feed_forward.down.weight.t(), feed_forward.down.bias),
        ]
    attention, feed_forward = layer.attention, layer.feed_forward
    qkv_OI = torch.cat([attention.shared_qkv.t(), attention.qkv.transpose(1, 2).reshape(-1, width)])
    up_OI = torch.cat([feed_forward.shared_up.t(), feed_forward.up.transpose(1, 2).reshape(-1, width)])
    return [
        (qkv_OI, torch.cat([attention.shared_qkv_bias, attention.qkv_bias.flatten()])),
        (torch.cat([attention.shared_output, attention.output.view(-1, width)]).t(), attention.bias),
        (up_OI, torch.cat([feed_forward.shared_up_bias, feed_forward.up_bias.flatten()])),
        (torch.cat([feed_forward.shared_down, feed_forward.down.view(-1, width)]).t(), feed_forward.bias),
    ]


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
