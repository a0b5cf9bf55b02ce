"""From a dense BERT-family encoder to a routed one: the same weights cut into heads, a shared block and experts.

Nothing is trained here. At full depth and with everything on, the result computes what the parent computes.

How it is done, per layer: heads and neurons that contribute most on calibration text become the shared parts; the other
neurons are clustered by their input weights into experts of equal size, so that neurons which fire together skip
together; routers are regressed on the measured contributions of heads and experts.

Shape letters: T tokens, S sequences, D width, H heads, W head width, N neurons, E experts, K neurons of an expert.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch.nn import functional

from engine.errors import OptionError
from engine.model.attention import RoutedAttention
from engine.model.config import EncoderConfig, RoutedConfig
from engine.model.dense import Pack, pack, sequence_means
from engine.model.deterministic import one_thread
from engine.model.families import TYPES
from engine.model.routed import RoutedEncoder, RoutedLayer
from engine.model.router import Router
from engine.model.trace import LayerTrace
from engine.weights.in_memory import BEFORE_LAYERS

BUDGETS = (0.2, 0.3, 0.5, 1.0)
RIDGE = 1e-3
EXPERTS_PER_HEADS = 0.38
"""Share of experts that work, as a part of the share of routed heads: what the shipped encoder has."""
CLUSTER_ROUNDS = 20
CALIBRATION_TOKENS = 4096
RESERVE = 0.06
"""Part of each budget's shares of heads and experts that a trained encoder leaves unused: text of other kinds wants
more than the text that it was trained on."""


def plan(
    base: EncoderConfig,
    *,
    kept: Sequence[int],
    shared_heads: int | None,
    shared_neurons: int | None,
    experts: int,
    heads: float | None,
    main_budget: float,
    expert_mode: str = "token",
    quorum: int = 2,
    budgets: Sequence[float] = BUDGETS,
) -> RoutedConfig:
    """Shares of routed heads and experts for each budget.

    At `main_budget`, `heads` heads of a layer work on average and experts get what is left. Below it both shrink in
    proportion; above it both grow in step until everything works.

    Args:
        base: the parent.
        kept: layers of the parent to keep.
        shared_heads: heads of a layer that always work; half of them when None.
        shared_neurons: neurons of a layer that always work; an eighth of them, about, when None.
        experts: experts per layer.
        heads: heads of a layer, shared ones included, that work on average at the main budget; None divides the budget
            so that the share of experts is `EXPERTS_PER_HEADS` of that of routed heads.
        main_budget: share of the parent's layer parameters at which the split is given.
        expert_mode: "token" or "sequence".
        quorum: tokens of a text that must want an expert.
        budgets: all budgets, the last one for everything.

    Raises:
        ModelFileError: the parts do not fit together.
        OptionError: the main budget cannot be met with these parts.
    """
    if experts < 2:
        raise OptionError(f"experts is {experts}; 2 or more are needed.")
    if shared_heads is None:
        shared_heads = base.heads // 2
    if shared_neurons is None:
        shared_neurons = _shared_near(base.ffn_width // 8, base.ffn_width, experts)
    width, rest = divmod(base.ffn_width - shared_neurons, experts)
    if rest or width < 1:
        raise OptionError(
            f"{base.ffn_width} neurons without {shared_neurons} shared ones cannot be cut into {experts} equal experts."
            f"{_fitting(base.ffn_width, shared_neurons, experts)}"
        )
    full = (1.0,) * len(budgets)
    config = RoutedConfig(
        base=base,
        kept=tuple(kept),
        shared_heads=shared_heads,
        shared_neurons=shared_neurons,
        experts=experts,
        expert_width=width,
        expert_mode=expert_mode,
        quorum=quorum,
        budgets=tuple(budgets),
        head_shares=full,
        expert_shares=full,
    )
    nothing = config.active_share(0, 0)
    if heads is None:
        whole = config.active_share(1, 0) - nothing + EXPERTS_PER_HEADS * (config.active_share(0, 1) - nothing)
        head_share = min(1.0, max(0.0, main_budget - nothing) / whole)
        heads = round(shared_heads + head_share * config.routed_heads, 2)
    else:
        head_share = (heads - shared_heads) / config.routed_heads
    if not 0 <= head_share <= 1:
        raise OptionError(f"{heads} heads cannot work on average: {shared_heads} of {base.heads} always do.")
    heads_only = config.active_share(head_share, 0)
    expert_share = (main_budget - heads_only) / (config.active_share(head_share, 1) - heads_only)
    if not 0 < expert_share <= 1:
        way_out = "Keep more layers" if expert_share > 1 else "Keep fewer layers, or fewer heads and shared neurons"
        raise OptionError(
            f"With {len(kept)} layers, {shared_neurons} shared neurons and {heads} heads, experts would have to work "
            f"at {expert_share:.1%} to meet the budget {main_budget:g}. {way_out}."
        )
    shares = [(1.0, 1.0)] * len(budgets)
    for place, budget in enumerate(budgets[:-1]):
        if budget <= main_budget:
            part = max(0.0, (budget - nothing) / (main_budget - nothing))
            shares[place] = (head_share * part, expert_share * part)
        else:
            room = config.active_share(1, 1) - main_budget
            part = min(1.0, (budget - main_budget) / room) if room > 1e-9 else 1.0
            shares[place] = (head_share + (1 - head_share) * part, expert_share + (1 - expert_share) * part)
    return replace(
        config,
        head_shares=tuple(heads for heads, _ in shares),
        expert_shares=tuple(share for _, share in shares),
    )


def _fitting(neurons: int, shared: int, experts: int) -> str:
    """Numbers that would do; where all neurons were to be shared, an eighth of them is, as in the shipped encoder."""
    if experts > neurons:
        return f" Have {neurons} experts or fewer."
    fit = _shared_near(shared if 0 <= shared < neurons else neurons // 8, neurons, experts)
    return f" With {fit} shared ones they can, into experts of {(neurons - fit) // experts}."


def _shared_near(aim: int, neurons: int, experts: int) -> int:
    """Shared neurons, about as many as are aimed at, that leave the others to be cut into equal experts."""
    return neurons - experts * min(neurons // experts, max(1, round((neurons - aim) / experts)))


@one_thread()
@torch.no_grad()
def convert(
    config: RoutedConfig,
    tensors: Mapping[str, torch.Tensor],
    calibration: Sequence[Sequence[int]],
    generator: torch.Generator,
) -> RoutedEncoder:
    """A routed encoder with the weights of a dense one; the same bits for the same generator, however many cores.

    Args:
        config: its shape.
        tensors: the parent's (`weights.encoder_tensors`); layers that are left out may be missing.
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
    for router in model.routers():  # meta tensors have lost their initial values
        router.balance_U.zero_()
        router.thresholds_B.zero_()
    for name, stored in BEFORE_LAYERS.items():
        model.get_parameter(name).copy_(tensors[stored])
    model.positions.weight += tensors[TYPES][0]
    batch = pack(_sample(calibration))
    x_TD = model.norm(model.tokens(batch.ids_T) + model.positions(batch.positions_T))
    # Layers that are left out still shape the states that later layers are calibrated on.
    places = {source: place for place, source in enumerate(config.kept)}
    for source in range(max(config.kept) + 1):
        if source in places:
            layer = model.layer(places[source])
            _copy_layer(layer, tensors, source)
            x_TD = _fit_layer(layer, x_TD, batch, tensors, source, generator)
        elif f"encoder.layer.{source}.intermediate.dense.bias" in tensors:
            spare = RoutedLayer(config)
            _copy_layer(spare, tensors, source)
            x_TD = _everything_on(spare, x_TD, batch)
    model.eval()
    calibrate_thresholds(model, batch)
    return model


@torch.no_grad()
def calibrate_thresholds(model: RoutedEncoder, batch: Pack, rounds: int = 3, *, reserve: float = 0.0) -> None:
    """Set every budget's thresholds so that its shares of heads and experts hold on these texts, layer by layer.

    Args:
        model: the encoder, whose thresholds are set.
        batch: texts like those that will be encoded.
        rounds: the quorum takes choices away, so the share of experts that is aimed at is raised that often by what
            was missed.
        reserve: part of the shares that is left, 0 to 1; not where everything works.
    """
    for budget, share in enumerate(model.config.expert_shares):
        wanted = share * (1 - reserve)
        for router in model.routers():
            router.aim = 1 - reserve
        for _ in range(rounds if share < 1 else 1):
            trace: list[LayerTrace] = []
            with model.controlled(1.0):
                model(batch, budget, trace)
            for place, layer in enumerate(trace):
                found = float(layer.on_TE.float().mean())
                model.layer(place).expert_router.aim *= wanted / found if found else 1.0
        for router in model.routers():
            router.aim = 1.0


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
    """The parent's layer, its heads and neurons in their own order."""
    prefix = f"encoder.layer.{source}."
    _copy_heads(layer.attention, tensors, source, torch.arange(layer.config.base.heads))
    for norm, name in ((layer.attention_norm, "attention.output"), (layer.feed_forward_norm, "output")):
        norm.weight.copy_(tensors[f"{prefix}{name}.LayerNorm.weight"])
        norm.bias.copy_(tensors[f"{prefix}{name}.LayerNorm.bias"])
    layer.feed_forward.bias.copy_(tensors[f"{prefix}output.dense.bias"])
    weights = _feed_forward(tensors, source)
    _copy_neurons(layer, weights, torch.arange(len(weights[0])))


def _copy_heads(part: RoutedAttention, tensors: Mapping[str, torch.Tensor], source: int, order_H: torch.Tensor) -> None:
    """Lay the heads into the shared block and the routed heads, in this order."""
    prefix = f"encoder.layer.{source}.attention."
    width, heads = len(part.bias), len(order_H)
    shared = heads - len(part.qkv)

    def by_head(name: str) -> torch.Tensor:
        return tensors[f"{prefix}self.{name}"].view(heads, part.head_width, -1)[order_H]

    parts = ("query", "key", "value")
    qkv = torch.cat([by_head(f"{name}.weight").transpose(1, 2) for name in parts], dim=2)
    bias = torch.cat([by_head(f"{name}.bias").squeeze(2) for name in parts], dim=1)
    output = tensors[f"{prefix}output.dense.weight"].t().reshape(heads, -1, width)[order_H]
    part.shared_qkv.copy_(qkv[:shared].transpose(0, 1).reshape(width, -1))
    part.shared_qkv_bias.copy_(bias[:shared].flatten())
    part.shared_output.copy_(output[:shared].reshape(-1, width))
    part.qkv.copy_(qkv[shared:])
    part.qkv_bias.copy_(bias[shared:])
    part.output.copy_(output[shared:])
    part.bias.copy_(tensors[f"{prefix}output.dense.bias"])


def _copy_neurons(layer: RoutedLayer, weights: FeedForwardWeights, order_N: torch.Tensor) -> None:
    """Lay the neurons into the shared block and the experts, in this order."""
    part = layer.feed_forward
    up_ND, bias_N, down_DN = weights
    experts, width, neurons = part.up.shape
    shared = len(order_N) - experts * neurons
    part.shared_up.copy_(up_ND[order_N[:shared]].t())
    part.shared_up_bias.copy_(bias_N[order_N[:shared]])
    part.shared_down.copy_(down_DN[:, order_N[:shared]].t())
    routed = order_N[shared:]
    part.up.copy_(up_ND[routed].view(experts, neurons, width).transpose(1, 2))
    part.up_bias.copy_(bias_N[routed].view(experts, neurons))
    part.down.copy_(down_DN[:, routed].t().reshape(experts, neurons, width))


def _fit_layer(
    layer: RoutedLayer,
    x_TD: torch.Tensor,
    batch: Pack,
    tensors: Mapping[str, torch.Tensor],
    source: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Choose the layer's shared parts and experts and fit its routers; returns its dense output [T, D]."""
    config, runs = layer.config, batch.runs
    base = config.base
    every = RoutedAttention(base.width, base.head_width, 0, base.heads)
    _copy_heads(every, tensors, source, torch.arange(base.heads))
    contributions_SH = every.contributions(x_TD, batch)
    order_H = contributions_SH.mean(dim=0).argsort(descending=True)
    _copy_heads(layer.attention, tensors, source, order_H)
    _regress(layer.head_router, sequence_means(x_TD, runs), contributions_SH[:, order_H[config.shared_heads :]])
    on_SH = torch.ones(len(contributions_SH), config.routed_heads, dtype=torch.bool)
    inner_TD = layer.attention_norm(x_TD + layer.attention(x_TD, on_SH, batch))

    weights = up_ND, bias_N, down_DN = _feed_forward(tensors, source)
    hidden_TN = functional.gelu(functional.linear(inner_TD, up_ND, bias_N))
    importance_N = hidden_TN.abs().mean(dim=0) * down_DN.norm(dim=0)
    order_N = importance_N.argsort(descending=True)
    shared, routed = order_N[: config.shared_neurons], order_N[config.shared_neurons :]
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
    on_SH = torch.ones(len(batch.lengths_S), config.routed_heads, dtype=torch.bool)
    x_TD = layer.attention_norm(x_TD + layer.attention(x_TD, on_SH, batch))
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
    units = contributions_RU.shape[1]
    router.weight.zero_()[:, :units] = solution[:-1]
    router.bias.zero_()[:units] = solution[-1]


def normalised(contributions_RU: torch.Tensor) -> torch.Tensor:
    """Contributions with mean 0 and deviation 1 over all rows and units: what a router estimates."""
    return (contributions_RU - contributions_RU.mean()) / contributions_RU.std().clamp_min(1e-6)
