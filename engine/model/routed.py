"""The routed-sparse encoder: a BERT encoder that decides, from the input, which part of itself to run.

Each layer has a router for its attention heads, asked once per text, and one for its feed-forward experts, asked per
token or per text. The embedding table and the normalisations are the parent's.

Shape letters: T tokens of a pack, S sequences, D width, H heads, E experts.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn

from engine.model.attention import RoutedAttention
from engine.model.config import RoutedConfig
from engine.model.dense import Pack, pooled, sequence_means, table
from engine.model.deterministic import lowered
from engine.model.experts import RoutedFeedForward
from engine.model.router import Router
from engine.model.trace import LayerTrace


class RoutedLayer(nn.Module):
    """Attention and feed-forward with their routers, each added to its input and normalised after."""

    def __init__(self, config: RoutedConfig) -> None:
        super().__init__()
        base, budgets = config.base, len(config.budgets)
        self.config = config
        self.head_router = Router(base.width, config.routed_heads, budgets, needs_one=config.shared_heads == 0)
        self.attention = RoutedAttention(base.width, base.head_width, config.shared_heads, config.routed_heads)
        self.attention_norm = nn.LayerNorm(base.width, eps=base.norm_eps)
        self.expert_router = Router(base.width, config.experts, budgets, needs_one=config.shared_neurons == 0)
        self.feed_forward = RoutedFeedForward(base.width, config.shared_neurons, config.experts, config.expert_width)
        self.feed_forward_norm = nn.LayerNorm(base.width, eps=base.norm_eps)

    def forward(self, x_TD: torch.Tensor, batch: Pack, budget: int, trace: list[LayerTrace] | None) -> torch.Tensor:
        """[T, D]; arguments as in `RoutedEncoder.forward`, x_TD are the states."""
        config, everything = self.config, budget == len(self.config.budgets) - 1
        means_SD = sequence_means(x_TD, batch.runs)
        scores_SH = self._scores(self.head_router, means_SD, budget, config.head_shares[budget])
        on_SH = self.head_router.choose(scores_SH, budget)
        gate_SH = self._gate(self.head_router, scores_SH, on_SH, budget, config.head_shares[budget])
        lower_TD = lowered(x_TD, self.attention.bias)
        x_TD = self.attention_norm((x_TD + self.attention(lower_TD, on_SH, batch, gate_SH)).float())

        by_token = config.expert_mode == "token"
        routed_RD = x_TD if by_token else sequence_means(x_TD, batch.runs)
        scores_RE = self._scores(self.expert_router, routed_RD, budget, config.expert_shares[budget])
        on_RE = self.expert_router.choose(scores_RE, budget)
        if by_token and not everything:
            on_RE = with_quorum(on_RE, config.quorum, batch)
        gate_RE = self._gate(self.expert_router, scores_RE, on_RE, budget, config.expert_shares[budget])
        if not by_token:
            on_RE = on_RE[batch.sequences_T]
            gate_RE = None if gate_RE is None else gate_RE[batch.sequences_T]
        if trace is not None:
            trace.append(LayerTrace(on_SH, on_RE, x_TD))
        lower_TD = lowered(x_TD, self.feed_forward.bias)
        return self.feed_forward_norm((x_TD + self.feed_forward(lower_TD, on_RE, gate_RE)).float())

    def _scores(self, router: Router, x_RD: torch.Tensor, budget: int, share: float) -> torch.Tensor:
        scores_RU = router.scores(x_RD)
        router.control(scores_RU, budget, share)
        return scores_RU

    def _gate(
        self, router: Router, scores_RU: torch.Tensor, on_RU: torch.Tensor, budget: int, share: float
    ) -> torch.Tensor | None:
        if not self.training:
            return None
        router.balance(on_RU, share)
        return router.gate(scores_RU, on_RU, budget)


def with_quorum(on_TE: torch.Tensor, quorum: int, batch: Pack) -> torch.Tensor:
    """Leave an expert out of a text in which fewer than `quorum` tokens want it.

    Loading an expert's weights costs a short text as much as using them, so an expert that one token wants is not worth
    it: with a quorum of 2, a text of 16 tokens loads 7 of 14 experts instead of 10, and keeps 90% of the choices.
    """
    if quorum < 2:
        return on_TE
    counts_SE = torch.zeros(len(batch.lengths_S), on_TE.shape[1], dtype=torch.float32, device=on_TE.device)
    counts_SE.index_add_(0, batch.sequences_T, on_TE.float())
    return on_TE & (counts_SE >= quorum)[batch.sequences_T]


class RoutedEncoder(nn.Module):
    """BERT encoder with routed heads and experts, and its parent's pooling."""

    def __init__(self, config: RoutedConfig) -> None:
        super().__init__()
        self.config = config
        base = config.base
        self.tokens = table(base.vocab, base.width, sparse=True)
        self.positions = table(base.positions, base.width)
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
    def controlled(self, rate: float | None) -> Generator[None]:
        """Inside the block thresholds follow the scores at this rate, or stand still at None; after it, as before."""
        before = [router.control_rate for router in self.routers()]
        try:
            for router in self.routers():
                router.control_rate = rate
            yield
        finally:
            for router, was in zip(self.routers(), before, strict=True):
                router.control_rate = was

    def states(self, batch: Pack, budget: int, trace: list[LayerTrace] | None = None) -> torch.Tensor:
        """[T, D]: the last layer's state of each token; arguments as in `forward`."""
        x_TD = self.norm(self.tokens(batch.ids_T) + self.positions(batch.positions_T))
        for layer in self.layers:
            x_TD = layer(x_TD, batch, budget, trace)
        return x_TD

    def forward(self, batch: Pack, budget: int, trace: list[LayerTrace] | None = None) -> torch.Tensor:
        """Unit vectors [S, D] float32 in the order of the pack.

        Args:
            batch: the texts.
            budget: place of the budget in `config.budgets`.
            trace: takes one entry per layer.
        """
        return pooled(self.states(batch, budget, trace), batch.runs, self.config.base.pooling)

    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of every weight matrix."""
        matrices = [value for value in self.parameters() if value.dim() > 1]
        shapes = {(int(value.shape[-2]), int(value.shape[-1])) for value in matrices if value.numel()}
        tables = {tuple(self.tokens.weight.shape), tuple(self.positions.weight.shape)}
        return tuple(sorted(shapes - tables))
