"""The routed-sparse encoder: a BERT encoder that decides, from the input, which part of itself to run.

Each layer has a router for its attention heads, asked once per text, and one for its feed-forward experts, asked per
token or per text. The embedding table and the normalisations are the parent's.

Shape letters: T tokens of a pack, S sequences, D width, H heads, E experts.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from engine.attention import RoutedAttention, sequence_means, token_sequences
from engine.config import RoutedConfig
from engine.encoder import Pack, Run
from engine.experts import RoutedFeedForward
from engine.router import Router


@dataclass(frozen=True, slots=True)
class LayerTrace:
    """What one layer decided for a pack.

    Attributes:
        on_SH: bool, heads of each text.
        on_TE: bool, experts of each token.
        x_TD: input of the feed-forward part.
    """

    on_SH: torch.Tensor
    on_TE: torch.Tensor
    x_TD: torch.Tensor


class RoutedLayer(nn.Module):
    """Attention and feed-forward with their routers, each added to its input and normalised after."""

    def __init__(self, config: RoutedConfig) -> None:
        super().__init__()
        base, budgets = config.base, len(config.budgets)
        self.config = config
        self.head_router = Router(base.width, base.heads, budgets, needs_one=True)
        self.attention = RoutedAttention(base.width, base.heads)
        self.attention_norm = nn.LayerNorm(base.width, eps=base.norm_eps)
        self.expert_router = Router(base.width, config.experts, budgets, needs_one=config.shared == 0)
        self.feed_forward = RoutedFeedForward(base.width, config.shared, config.experts, config.expert_width)
        self.feed_forward_norm = nn.LayerNorm(base.width, eps=base.norm_eps)

    def forward(
        self, x_TD: torch.Tensor, runs: Sequence[Run], budget: int, trace: list[LayerTrace] | None
    ) -> torch.Tensor:
        """Args: x_TD states; runs the texts; budget its place in the list; trace takes the decisions. Returns: [T, D]."""
        config = self.config
        on_SH, gate_SH = self._route(self.head_router, sequence_means(x_TD, runs), budget, config.head_shares[budget])
        x_TD = self.attention_norm((x_TD + self.attention(x_TD, on_SH, runs, gate_SH)).float())
        by_token = config.expert_mode == "token"
        routed_RD = x_TD if by_token else sequence_means(x_TD, runs)
        on_TE, gate_TE = self._route(self.expert_router, routed_RD, budget, config.expert_shares[budget])
        if not by_token:
            sequences_T = token_sequences(runs, x_TD.device)
            on_TE = on_TE[sequences_T]
            gate_TE = None if gate_TE is None else gate_TE[sequences_T]
        if trace is not None:
            trace.append(LayerTrace(on_SH, on_TE, x_TD))
        return self.feed_forward_norm((x_TD + self.feed_forward(x_TD, on_TE, gate_TE)).float())

    def _route(
        self, router: Router, x_RD: torch.Tensor, budget: int, share: float
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        scores_RU = router.scores(x_RD)
        router.control(scores_RU, budget, share)
        on_RU = router.choose(scores_RU, budget)
        if not self.training:
            return on_RU, None
        router.balance(on_RU, share)
        return on_RU, router.gate(scores_RU, budget)


class RoutedEncoder(nn.Module):
    """BERT encoder with routed heads and experts, and mean pooling."""

    def __init__(self, config: RoutedConfig) -> None:
        super().__init__()
        self.config = config
        base = config.base
        self.tokens = nn.Embedding(base.vocab, base.width, sparse=True)
        self.positions = nn.Embedding(base.positions, base.width)
        self.norm = nn.LayerNorm(base.width, eps=base.norm_eps)
        self.layers = nn.ModuleList(RoutedLayer(config) for _ in config.kept)

    def layer(self, place: int) -> RoutedLayer:
        """One of the layers."""
        return cast("RoutedLayer", self.layers[place])

    def compute_masked(self, *, heads: bool, experts: bool) -> None:
        """Compute all heads, or all experts, and mask them, instead of skipping; the results are the same."""
        for place in range(len(self.layers)):
            self.layer(place).attention.masked = heads
            self.layer(place).feed_forward.masked = experts

    def routers(self) -> list[Router]:
        """All routers, layer by layer."""
        return [module for module in self.modules() if isinstance(module, Router)]

    @contextmanager
    def controlled(self, rate: float) -> Iterator[None]:
        """Thresholds follow the scores at this rate inside the block and stand still after it."""
        try:
            for router in self.routers():
                router.control_rate = rate
            yield
        finally:
            for router in self.routers():
                router.control_rate = None

    def forward(self, batch: Pack, budget: int, trace: list[LayerTrace] | None = None) -> torch.Tensor:
        """Unit vectors [S, D] float32 in the order of the pack.

        Args:
            batch: the texts.
            budget: place of the budget in `config.budgets`.
            trace: takes one entry per layer.
        """
        x_TD = self.norm(self.tokens(batch.ids_T) + self.positions(batch.positions_T))
        for layer in self.layers:
            x_TD = layer(x_TD, batch.runs, budget, trace)
        means_SD = sequence_means(x_TD, batch.runs)
        return means_SD / means_SD.norm(dim=1, keepdim=True)
