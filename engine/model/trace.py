"""What a routed encoder did for each text: which heads and experts worked, and what that cost.

Shape letters: S sequences, T tokens, H routed heads, E experts.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from engine.model.config import RoutedConfig
from engine.model.dense import Pack
from engine.model.router import router_columns


@dataclass(frozen=True, slots=True)
class LayerTrace:
    """What one layer decided for a pack.

    Attributes:
        on_SH: bool, routed heads of each text.
        on_TE: bool, experts of each token.
        x_TD: input of the feed-forward part.
    """

    on_SH: torch.Tensor
    on_TE: torch.Tensor
    x_TD: torch.Tensor


Forward = Callable[[Pack, int, list[LayerTrace] | None], torch.Tensor]
"""Called with a pack, the place of the budget, and a list that takes the traces; unit vectors [S, D]."""


@dataclass(frozen=True, slots=True)
class TextTrace:
    """The way of one text through the encoder.

    Attributes:
        heads: by layer, the routed heads that worked; the shared heads always do.
        experts: by layer, on how many tokens each expert worked; the shared neurons work on all.
        active_frac: layer parameters that worked for a token on average, as a share of the dense parent's.
        multiplications: multiplications of the layers, products with weights and attention scores.
    """

    heads: tuple[tuple[int, ...], ...]
    experts: tuple[tuple[int, ...], ...]
    active_frac: float
    multiplications: int

    def to_json(self) -> str:
        """Heads, experts and multiplications as JSON."""
        parts = {"heads": self.heads, "experts": self.experts, "multiplications": self.multiplications}
        return json.dumps(parts, separators=(",", ":"))


def active_fracs(config: RoutedConfig, layers: Sequence[LayerTrace], batch: Pack) -> list[float]:
    """Share of the parent's layer parameters that worked for each of S texts, mean over its tokens."""
    lengths_S = torch.from_numpy(batch.lengths_S)
    params_S = torch.full((len(lengths_S),), float(len(config.kept) * config.fixed_params), dtype=torch.float64)
    for layer in layers:
        experts_S = _by_text(layer.on_TE.sum(dim=1, keepdim=True), batch).squeeze(1) / lengths_S
        params_S += layer.on_SH.sum(dim=1).double().cpu() * config.head_params + experts_S * config.expert_params
    return (params_S / config.parent_layer_params).tolist()


def text_traces(config: RoutedConfig, layers: Sequence[LayerTrace], batch: Pack) -> list[TextTrace]:
    """The trace of each of S texts."""
    base, lengths = config.base, batch.lengths_S.tolist()
    counts = [_by_text(layer.on_TE, batch).long().tolist() for layer in layers]
    heads = [[tuple(on.nonzero().flatten().tolist()) for on in layer.on_SH.cpu()] for layer in layers]
    head_router, expert_router = (base.width * router_columns(units) for units in (config.routed_heads, config.experts))
    shared = config.shared_heads * 4 * base.width * base.head_width + 2 * base.width * config.shared_neurons
    traces: list[TextTrace] = []
    for text, (length, active) in enumerate(zip(lengths, active_fracs(config, layers, batch), strict=True)):
        multiplications = 0
        for layer in range(len(layers)):
            working = len(heads[layer][text])
            multiplications += length * (shared + working * 4 * base.width * base.head_width)
            multiplications += head_router + expert_router * (length if config.expert_mode == "token" else 1)
            multiplications += (config.shared_heads + working) * 2 * length**2 * base.head_width
            multiplications += sum(counts[layer][text]) * 2 * base.width * config.expert_width
        traces.append(
            TextTrace(
                tuple(layer[text] for layer in heads),
                tuple(tuple(layer[text]) for layer in counts),
                active,
                multiplications,
            )
        )
    return traces


def dense_multiplications(config: RoutedConfig, length: int) -> int:
    """Multiplications of the dense parent's layers for a text of `length` tokens."""
    base = config.base
    by_token = 4 * base.width**2 + 2 * base.width * base.ffn_width
    return base.layers * (length * by_token + 2 * length**2 * base.width)


def _by_text(values_TE: torch.Tensor, batch: Pack) -> torch.Tensor:
    """[S, E] sums over the tokens of each text."""
    values_TE = values_TE.cpu().double()
    sums_SE = torch.zeros(len(batch.lengths_S), values_TE.shape[1], dtype=torch.float64)
    return sums_SE.index_add_(0, batch.sequences_T.cpu(), values_TE)
