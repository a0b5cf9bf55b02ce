"""From a dense BERT-family encoder to a routed one: the same weights cut into heads, a shared block and experts.

Nothing is trained here. At full depth and with everything on, the result computes what the parent computes.

How it is done, per layer: neurons that contribute most on calibration text, always, become the shared block; the others
are clustered by their input weights into experts of equal size, so that neurons which fire together skip together;
routers are regressed on the measured contributions of heads and experts.

Shape letters: T tokens, S sequences, D width, H heads, W head width, N neurons, E experts, K neurons of an expert.
"""

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional

from engine.attention import sequence_means
from engine.config import EncoderConfig, RoutedConfig
from engine.encoder import Pack, pack
from engine.errors import OptionError
from engine.routed import RoutedEncoder, RoutedLayer
from engine.router import Router

BUDGETS = (0.2, 0.3, 0.5, 0.75, 1.0)
RIDGE = 1e-3
CLUSTER_ROUNDS = 20
CALIBRATION_TOKENS = 4096


def plan(
    base: EncoderConfig,
    *,
    kept: Sequence[int],
    shared: int,
    experts: int,
    expert_mode: str,
    head_share: float,
    main_budget: float,
    budgets: Sequence[float] = BUDGETS,
) -> RoutedConfig:
    """Shares of heads and experts for each budget.

    At `main_budget`, `head_share` of the heads work and experts get what is left. Below it both shrink in proportion;
    above it both grow in step until everything works.

    Args:
        base: the parent.
        kept: layers of the parent to keep.
        shared: neurons that always work.
        experts: experts per layer.
        expert_mode: "token" or "sequence".
        head_share: share of heads at the main budget, 0 to 1.
        main_budget: share of the parent's layer parameters at which the split is given.
        budgets: all budgets, the last one for everything.

    Raises:
        ModelFileError: the parts do not fit together.
        OptionError: the main budget cannot be met with these parts.
    """
    width, rest = divmod(base.ffn_width - shared, experts)
    if rest or width < 1:
        raise OptionError(
            f"{base.ffn_width} neurons without {shared} shared ones cannot be cut into {experts} equal experts."
        )
    full = (1.0,) * len(budgets)
    config = RoutedConfig(
        base=base,
        kept=tuple(kept),
        shared=shared,
        experts=experts,
        expert_width=width,
        expert_mode=expert_mode,
        budgets=tuple(budgets),
        head_shares=full,
        expert_shares=full,
    )
    nothing, heads_only = config.active_share(0, 0), config.active_share(head_share, 0)
    expert_share = (main_budget - heads_only) / (config.active_share(head_share, 1) - heads_only)
    least = 0.0 if shared else 1 / experts
    if not least < expert_share <= 1:
        raise OptionError(
            f"With {len(kept)} layers, {shared} shared neurons and {head_share:.0%} of the heads, experts would have to "
            f"work at {expert_share:.1%} to meet the budget {main_budget:g}; {least:.1%} to 100% is possible."
        )
    shares = [(1.0, 1.0)] * len(budgets)
    for place, budget in enumerate(budgets[:-1]):
        if budget <= main_budget:
            part = (budget - nothing) / (main_budget - nothing)
            shares[place] = (head_share * part, expert_share * part)
        else:
            part = min(1.0, (budget - main_budget) / (config.active_share(1, 1) - main_budget))
            shares[place] = (head_share + (1 - head_share) * part, expert_share + (1 - expert_share) * part)
    return RoutedConfig(
        base=base,
        kept=config.kept,
        shared=shared,
        experts=experts,
        expert_width=width,
        expert_mode=expert_mode,
        budgets=config.budgets,
        head_shares=tuple(max(1 / base.heads, heads) for heads, _ in shares),
        expert_shares=tuple(max(least, share) for _, share in shares),
    )


@torch.no_grad()
def convert(
    config: RoutedConfig,
    tensors: Mapping[str, torch.Tensor],
    calibration: Sequence[Sequence[int]],
    generator: torch.Generator,
) -> RoutedEncoder:
    """A routed encoder with the weights of a dense one.

    Args:
        config: its shape.
        tensors: the parent's (`weights.encoder_tensors`).
        calibration: token ids of texts like those that will be encoded; a few hundred are enough.
        generator: for the first cluster centres.

    Raises:
        OptionError: there are no calibration texts.
    """
    if not calibration:
        raise OptionError("Conversion needs calibration texts; there are none.")
    with torch.device("meta"):
        model = RoutedEncoder(config)
    model = model.to_empty(device="cpu")
    for layer in model.layers:  # meta tensors have lost their initial values
        for router in (layer.head_router, layer.expert_router):
            router.balance_U.zero_()
            router.thresholds_B.zero_()
    model.tokens.weight.copy_(tensors["embeddings.word_embeddings.weight"])
    # All tokens of a single text are of type 0, so its embedding is a part of each position.
    model.positions.weight.copy_(
        tensors["embeddings.position_embeddings.weight"] + tensors["embeddings.token_type_embeddings.weight"][0]
    )
    model.norm.weight.copy_(tensors["embeddings.LayerNorm.weight"])
    model.norm.bias.copy_(tensors["embeddings.LayerNorm.bias"])
    batch = pack(_sample(calibration))
    x_TD = model.norm(model.tokens(batch.ids_T) + model.positions(batch.positions_T))
    # Layers that are left out still shape the states that later layers are calibrated on.
    places = {source: place for place, source in enumerate(config.kept)}
    for source in range(max(config.kept) + 1):
        if source in places:
            layer = model.layer(places[source])
            _copy_layer(layer, tensors, source)
            x_TD = _fit_layer(layer, x_TD, batch, _feed_forward(tensors, source), generator)
        else:
            spare = RoutedLayer(config)
            _copy_layer(spare, tensors, source)
            x_TD = _everything_on(spare, x_TD, batch)
    model.eval()
    calibrate_thresholds(model, batch)
    return model


@torch.no_grad()
def calibrate_thresholds(model: RoutedEncoder, batch: Pack) -> None:
    """Set every budget's thresholds so that its shares of heads and experts hold on this pack, layer by layer."""
    with model.controlled(1.0):
        for budget in range(len(model.config.budgets)):
            model(batch, budget)


def _sample(calibration: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    chosen: list[Sequence[int]] = []
    tokens = 0
    for ids in calibration:
        if tokens >= CALIBRATION_TOKENS:
            break
        chosen.append(ids)
        tokens += len(ids)
    return sorted(chosen, key=len)


FeedForwardWeights = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Weights of a dense feed-forward part: up [N, D], up's bias [N], down [D, N]."""


def _feed_forward(tensors: Mapping[str, torch.Tensor], source: int) -> FeedForwardWeights:
    prefix = f"encoder.layer.{source}."
    return (
        tensors[f"{prefix}intermediate.dense.weight"],
        tensors[f"{prefix}intermediate.dense.bias"],
        tensors[f"{prefix}output.dense.weight"],
    )


def _copy_layer(layer: RoutedLayer, tensors: Mapping[str, torch.Tensor], source: int) -> None:
    prefix = f"encoder.layer.{source}."
    attention = layer.attention
    heads, width, _ = attention.qkv.shape

    def by_head(name: str) -> torch.Tensor:
        return tensors[f"{prefix}attention.self.{name}"].view(heads, attention.head_width, -1)

    parts = ("query", "key", "value")
    attention.qkv.copy_(torch.cat([by_head(f"{part}.weight").transpose(1, 2) for part in parts], dim=2))
    attention.qkv_bias.copy_(torch.cat([by_head(f"{part}.bias").squeeze(2) for part in parts], dim=1))
    attention.output.copy_(tensors[f"{prefix}attention.output.dense.weight"].t().reshape(heads, -1, width))
    attention.bias.copy_(tensors[f"{prefix}attention.output.dense.bias"])
    for norm, name in ((layer.attention_norm, "attention.output"), (layer.feed_forward_norm, "output")):
        norm.weight.copy_(tensors[f"{prefix}{name}.LayerNorm.weight"])
        norm.bias.copy_(tensors[f"{prefix}{name}.LayerNorm.bias"])
    layer.feed_forward.bias.copy_(tensors[f"{prefix}output.dense.bias"])
    weights = _feed_forward(tensors, source)
    _copy_neurons(layer, weights, torch.arange(len(weights[0])))


def _copy_neurons(layer: RoutedLayer, weights: FeedForwardWeights, order_N: torch.Tensor) -> None:
    """Lay the neurons into the shared block and the experts, in this order."""
    part = layer.feed_forward
    up_ND, bias_N, down_DN = weights
    experts, width, neurons = part.up.shape
    shared = len(order_N) - experts * neurons
    if part.shared_up is not None and part.shared_up_bias is not None and part.shared_down is not None:
        part.shared_up.copy_(up_ND[order_N[:shared]].t())
        part.shared_up_bias.copy_(bias_N[order_N[:shared]])
        part.shared_down.copy_(down_DN[:, order_N[:shared]].t())
    routed = order_N[shared:]
    part.up.copy_(up_ND[routed].view(experts, neurons, width).transpose(1, 2))
    part.up_bias.copy_(bias_N[routed].view(experts, neurons))
    part.down.copy_(down_DN[:, routed].t().reshape(experts, neurons, width))


def _fit_layer(
    layer: RoutedLayer, x_TD: torch.Tensor, batch: Pack, weights: FeedForwardWeights, generator: torch.Generator
) -> torch.Tensor:
    """Choose the layer's shared block and experts and fit its routers; returns its dense output [T, D]."""
    config, runs = layer.config, batch.runs
    _regress(layer.head_router, sequence_means(x_TD, runs), layer.attention.contributions(x_TD, runs))
    on_SH = torch.ones(sum(run.sequences for run in runs), config.base.heads, dtype=torch.bool)
    inner_TD = layer.attention_norm(x_TD + layer.attention(x_TD, on_SH, runs))

    up_ND, bias_N, down_DN = weights
    hidden_TN = functional.gelu(functional.linear(inner_TD, up_ND, bias_N))
    importance_N = hidden_TN.abs().mean(dim=0) * down_DN.norm(dim=0)
    order_N = importance_N.argsort(descending=True)
    shared, routed = order_N[: config.shared], order_N[config.shared :]
    expert_N = balanced_clusters(functional.normalize(up_ND[routed], dim=1), config.experts, generator)
    _copy_neurons(layer, weights, torch.cat([shared, routed[expert_N.argsort(stable=True)]]))

    contributions_TE = layer.feed_forward.contributions(inner_TD)
    if config.expert_mode == "sequence":
        _regress(layer.expert_router, sequence_means(inner_TD, runs), sequence_means(contributions_TE, runs))
    else:
        _regress(layer.expert_router, inner_TD, contributions_TE)
    return _everything_on(layer, x_TD, batch)


def _everything_on(layer: RoutedLayer, x_TD: torch.Tensor, batch: Pack) -> torch.Tensor:
    config = layer.config
    on_SH = torch.ones(sum(run.sequences for run in batch.runs), config.base.heads, dtype=torch.bool)
    x_TD = layer.attention_norm(x_TD + layer.attention(x_TD, on_SH, batch.runs))
    on_TE = torch.ones(len(x_TD), config.experts, dtype=torch.bool)
    return layer.feed_forward_norm(x_TD + layer.feed_forward(x_TD, on_TE))


def balanced_clusters(points_ND: torch.Tensor, clusters: int, generator: torch.Generator) -> torch.Tensor:
    """[N] cluster of each point, all clusters of equal size: k-means with unit vectors, sure points placed first.

    Args:
        points_ND: unit vectors; N is a multiple of the number of clusters.
        clusters: their number.
        generator: for the first centres.
    """
    size = len(points_ND) // clusters
    centres = points_ND[torch.randperm(len(points_ND), generator=generator)[:clusters]]
    assigned_N = torch.zeros(len(points_ND), dtype=torch.long)
    for _ in range(CLUSTER_ROUNDS):
        similarity = points_ND @ centres.t()
        best = similarity.topk(2, dim=1).values
        choices = similarity.argsort(dim=1, descending=True, stable=True).tolist()
        left = [size] * clusters
        for point in (best[:, 1] - best[:, 0]).argsort(stable=True).tolist():
            cluster = next(choice for choice in choices[point] if left[choice])
            left[cluster] -= 1
            assigned_N[point] = cluster
        centres = functional.normalize(
            torch.stack([points_ND[assigned_N == cluster].mean(dim=0) for cluster in range(clusters)]), dim=1
        )
    return assigned_N


def _regress(router: Router, x_RD: torch.Tensor, contributions_RU: torch.Tensor) -> None:
    """Ridge regression of normalised contributions on states, in closed form."""
    target_RU = normalised(contributions_RU)
    inputs = torch.cat([x_RD, torch.ones(len(x_RD), 1)], dim=1).double()
    gram = inputs.t() @ inputs
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    solution = torch.linalg.solve(gram + ridge, inputs.t() @ target_RU.double()).float()
    router.weight.copy_(solution[:-1])
    router.bias.copy_(solution[-1])


def normalised(contributions_RU: torch.Tensor) -> torch.Tensor:
    """Contributions with mean 0 and deviation 1 over all rows and units: what a router estimates."""
    return (contributions_RU - contributions_RU.mean()) / contributions_RU.std().clamp_min(1e-6)
