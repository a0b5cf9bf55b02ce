"""A head or expert that is off costs no multiplication, forward or backward; a text pays for no other's length."""

import pytest
import torch

from engine.model.attention import RoutedAttention
from engine.model.dense import Pack, pack
from engine.model.deterministic import least_rows, use_least_rows
from engine.model.dispatch import TRAINING_ROWS
from engine.model.experts import RoutedFeedForward
from engine.model.routed import RoutedEncoder
from engine.model.trace import LayerTrace, text_traces
from tests.engine.multiplications import Multiplications
from tests.engine.tiny import tiny_routed, tiny_routed_config, tiny_texts

WIDTH, SHARED, EXPERTS, NEURONS = 32, 16, 4, 12
HEAD_WIDTH, SHARED_HEADS, HEADS = 8, 1, 3
PER_PAIR = 2 * WIDTH * NEURONS
TOKENS = 100


def done(model: RoutedEncoder, batch: Pack, budget: int) -> int:
    with torch.inference_mode(), Multiplications() as counted:
        model(batch, budget)
    return counted.done


def texts_by_length(count: int, seed: int) -> list[list[int]]:
    return sorted(tiny_texts(count, seed=seed), key=len)


@pytest.fixture(scope="module", params=["token", "sequence"])
def model(request: pytest.FixtureRequest) -> RoutedEncoder:
    return tiny_routed(tiny_routed_config(expert_mode=request.param))


@pytest.mark.parametrize("budget", range(4))
def test_the_trace_tells_the_multiplications_that_were_done(model: RoutedEncoder, budget: int) -> None:
    batch, trace = pack(texts_by_length(20, 1)), list[LayerTrace]()
    with torch.inference_mode(), Multiplications() as counted:
        model(batch, budget, trace)
    assert sum(text.multiplications for text in text_traces(model.config, trace, batch)) == counted.done


def test_a_smaller_budget_costs_less(model: RoutedEncoder) -> None:
    batch = pack(texts_by_length(40, 2))
    costs = [done(model, batch, budget) for budget in range(4)]
    assert costs == sorted(set(costs))
    assert costs[0] < 0.6 * costs[3]


def test_higher_thresholds_cost_less_down_to_the_shared_parts() -> None:
    model = tiny_routed()
    batch = pack(texts_by_length(40, 3))
    costs: list[int] = []
    for threshold in (-torch.inf, -0.5, 0.0, 0.5, torch.inf):
        for router in model.routers():
            router.thresholds_B[:] = threshold
        costs.append(done(model, batch, 0))
    assert costs == sorted(set(costs), reverse=True)
    config, tokens = model.config, len(batch.ids_T)
    with torch.inference_mode(), Multiplications() as fixed:
        for place in range(len(config.kept)):
            layer, x_TD = model.layer(place), torch.zeros(tokens, config.base.width)
            layer.attention(x_TD, torch.zeros(40, config.routed_heads, dtype=torch.bool), batch)
            layer.feed_forward(x_TD, torch.zeros(tokens, config.experts, dtype=torch.bool))
            layer.head_router.scores(x_TD[:40])
            layer.expert_router.scores(x_TD)
    assert costs[-1] == fixed.done


def test_a_text_pays_for_no_other_texts_length(model: RoutedEncoder) -> None:
    short, long = tiny_texts(2, seed=4)[0][:3], (tiny_texts(9, seed=5, longest=60)[0] * 30)[:60]
    short = (short * 3)[:3]
    for budget in range(4):
        both = done(model, pack([short, long]), budget)
        assert both == done(model, pack([short]), budget) + done(model, pack([long]), budget)
        assert both < 0.7 * done(model, pack([long, long]), budget)


def feed_forward(seed: int = 0) -> RoutedFeedForward:
    part = RoutedFeedForward(WIDTH, SHARED, EXPERTS, NEURONS)
    fill(part, seed)
    return part


def fill(part: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in part.parameters():
            value.copy_(0.3 * torch.randn(value.shape, generator=generator))


def states(seed: int = 1) -> torch.Tensor:
    return torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))


def some_on(counts: tuple[int, ...]) -> torch.Tensor:
    """Expert e works on the first counts[e] tokens."""
    return torch.arange(TOKENS).unsqueeze(1) < torch.tensor(counts)


SHARED_COST = TOKENS * 2 * WIDTH * SHARED


@pytest.mark.parametrize("counts", [(0, 0, 0, 0), (1, 0, 0, 0), (0, 100, 0, 3), (100, 100, 100, 100)])
def test_an_expert_costs_its_own_rows(counts: tuple[int, ...]) -> None:
    with torch.inference_mode(), Multiplications() as counted:
        feed_forward()(states(), some_on(counts))
    assert counted.done == SHARED_COST + sum(counts) * PER_PAIR


def test_only_experts_with_rows_are_filled_up_to_the_least_rows() -> None:
    assert least_rows() == 1
    use_least_rows(8)
    try:
        with torch.inference_mode(), Multiplications() as counted:
            filled_TD = feed_forward()(states(), some_on((0, 3, 8, 50)))
    finally:
        use_least_rows(1)
    assert counted.done == SHARED_COST + (8 + 8 + 50) * PER_PAIR
    with torch.inference_mode():
        plain_TD = feed_forward()(states(), some_on((0, 3, 8, 50)))
    torch.testing.assert_close(filled_TD, plain_TD, rtol=0, atol=1e-5)


@pytest.mark.parametrize("lower", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("counts", [(0, 0, 0, 0), (5, 0, 0, 0), (0, 100, 0, 64), (100, 100, 100, 100)])
def test_training_costs_the_rows_of_working_experts_in_bfloat16_in_whole_blocks(
    counts: tuple[int, ...], lower: bool
) -> None:
    part, x_TD = feed_forward(), states().requires_grad_(True)
    block = TRAINING_ROWS if lower else 1
    pairs = sum(-(-count // block) * block for count in counts)
    with Multiplications() as forward, torch.autocast("cpu", torch.bfloat16, enabled=lower):
        result_TD = part(x_TD, some_on(counts))
    assert forward.done == SHARED_COST + pairs * PER_PAIR
    with Multiplications() as backward:
        result_TD.sum().backward()
    # Each product has two in its backward: one for its input, one for its weights.
    assert backward.done == 2 * forward.done


def test_an_expert_without_rows_has_exactly_no_gradient() -> None:
    part, x_TD = feed_forward(), states().requires_grad_(True)
    gate_TE = torch.full((TOKENS, EXPERTS), 1.0, requires_grad=True)
    part(x_TD, some_on((0, 30, 0, 100)), gate_TE).square().sum().backward()
    for value in (part.up, part.up_bias, part.down):
        assert value.grad is not None
        assert [bool(grad.any()) for grad in value.grad] == [False, True, False, True]
    assert gate_TE.grad is not None
    assert torch.equal(gate_TE.grad.ne(0), some_on((0, 30, 0, 100)))


def gradients(module: torch.nn.Module, result: torch.Tensor, x_TD: torch.Tensor) -> dict[str, torch.Tensor]:
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(9))
    (result * weights).sum().backward()
    assert x_TD.grad is not None
    found = {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
    return {**found, "x": x_TD.grad}


def test_skipped_experts_give_the_results_and_gradients_of_masked_ones() -> None:
    on_TE = torch.rand(TOKENS, EXPERTS, generator=torch.Generator().manual_seed(3)) < 0.4
    results: list[torch.Tensor] = []
    found: list[dict[str, torch.Tensor]] = []
    costs: list[int] = []
    for masked in (False, True):
        part, x_TD = feed_forward(), states().requires_grad_(True)
        part.masked = masked
        results.append(part(x_TD, on_TE))
        found.append(gradients(part, results[-1], x_TD))
        with torch.inference_mode(), Multiplications() as counted:
            torch.testing.assert_close(part(x_TD, on_TE), results[-1], rtol=0, atol=1e-5)
        costs.append(counted.done)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-5)
    assert found[0].keys() == found[1].keys() > {"up", "up_bias", "down", "shared_up", "bias", "x"}
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-4, atol=1e-4, msg=name)
    assert costs == [SHARED_COST + int(on_TE.sum()) * PER_PAIR, SHARED_COST + on_TE.numel() * PER_PAIR]


def attention() -> RoutedAttention:
    part = RoutedAttention(WIDTH, HEAD_WIDTH, SHARED_HEADS, HEADS)
    fill(part, 5)
    return part


def head_cost(lengths: list[int]) -> int:
    """Multiplications of one head for texts of these lengths."""
    return sum(length * 4 * WIDTH * HEAD_WIDTH + 2 * length**2 * HEAD_WIDTH for length in lengths)


LENGTHS = [2, 5, 5, 5, 9, 17]
HEADS_ON = [[], [0], [0, 2], [], [1], [0, 1, 2]]


def text_heads() -> tuple[Pack, torch.Tensor, torch.Tensor]:
    on_SH = torch.tensor([[head in heads for head in range(HEADS)] for heads in HEADS_ON])
    batch = pack([[1] * length for length in LENGTHS])
    x_TD = torch.randn(sum(LENGTHS), WIDTH, generator=torch.Generator().manual_seed(6))
    return batch, on_SH, x_TD


def test_a_head_costs_the_texts_that_it_works_for() -> None:
    batch, on_SH, x_TD = text_heads()
    with torch.inference_mode(), Multiplications() as counted:
        attention()(x_TD, on_SH, batch)
    working = [length for length, heads in zip(LENGTHS, HEADS_ON, strict=True) for _ in heads]
    assert counted.done == SHARED_HEADS * head_cost(LENGTHS) + head_cost(working)


def test_skipped_heads_give_the_results_and_gradients_of_masked_ones() -> None:
    batch, on_SH, x_TD = text_heads()
    results: list[torch.Tensor] = []
    found: list[dict[str, torch.Tensor]] = []
    for masked in (False, True):
        part, inputs_TD = attention(), x_TD.clone().requires_grad_(True)
        part.masked = masked
        results.append(part(inputs_TD, on_SH, batch))
        found.append(gradients(part, results[-1], inputs_TD))
        with torch.inference_mode(), Multiplications() as counted:
            torch.testing.assert_close(part(x_TD, on_SH, batch), results[-1], rtol=0, atol=1e-5)
        assert (counted.done == (SHARED_HEADS + HEADS) * head_cost(LENGTHS)) == masked
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-5)
    assert found[0].keys() == found[1].keys() > {"qkv", "qkv_bias", "output", "shared_qkv", "bias", "x"}
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-4, atol=1e-4, msg=name)


def test_where_every_head_works_training_computes_them_as_one_product() -> None:
    batch, on_SH, x_TD = text_heads()
    on_SH[:] = True
    found: list[dict[str, torch.Tensor]] = []
    for masked in (False, True):
        part, inputs_TD = attention(), x_TD.clone().requires_grad_(True)
        part.masked = masked
        result = part(inputs_TD, on_SH, batch)
        found.append({"result": result.detach(), **gradients(part, result, inputs_TD)})
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


def test_a_head_that_no_text_wants_has_exactly_no_gradient() -> None:
    batch, on_SH, x_TD = text_heads()
    on_SH[:, 1] = False
    part = attention()
    gate_SH = on_SH.float().requires_grad_(True)
    part(x_TD, on_SH, batch, gate_SH).square().sum().backward()
    for value in (part.qkv, part.qkv_bias, part.output):
        assert value.grad is not None
        assert [bool(grad.any()) for grad in value.grad] == [True, False, True]


def test_without_any_routed_head_or_expert_the_shared_parts_answer() -> None:
    batch, on_SH, x_TD = text_heads()
    with torch.inference_mode():
        none_TD = attention()(x_TD, torch.zeros_like(on_SH), batch)
        part = attention()
        part.masked = True
        torch.testing.assert_close(part(x_TD, torch.zeros_like(on_SH), batch), none_TD, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("heads", "experts"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("training", [False, True])
def test_the_whole_encoder_is_the_same_masked_or_skipping(
    model: RoutedEncoder, heads: bool, experts: bool, training: bool
) -> None:
    batch = pack(texts_by_length(20, 7))
    balance = [router.balance_U.clone() for router in model.routers()]
    model.train(training)
    try:
        for budget in range(4):
            with torch.set_grad_enabled(training):
                skipped_SD = model(batch, budget)
                model.compute_masked(heads=heads, experts=experts)
                masked_SD = model(batch, budget)
                model.compute_masked(heads=False, experts=False)
            torch.testing.assert_close(masked_SD, skipped_SD, rtol=0, atol=1e-5)
            for router, value in zip(model.routers(), balance, strict=True):
                router.balance_U.copy_(value)  # training moves it with each pass
    finally:
        model.eval()


@pytest.mark.parametrize("kind", ["heads", "experts"])
def test_gates_of_working_units_have_the_gradients_of_masked_ones(kind: str) -> None:
    found: list[torch.Tensor] = []
    batch, on, heads_TD = text_heads()
    if kind == "experts":
        on = torch.rand(TOKENS, EXPERTS, generator=torch.Generator().manual_seed(3)) < 0.4
    for masked in (False, True):
        gate = on.float().requires_grad_(True)
        if kind == "heads":
            heads = attention()
            heads.masked = masked
            result = heads(heads_TD, on, batch, gate)
        else:
            experts = feed_forward()
            experts.masked = masked
            result = experts(states(), on, gate)
        (result * torch.randn(result.shape, generator=torch.Generator().manual_seed(9))).sum().backward()
        assert gate.grad is not None
        found.append(gate.grad)
    assert not found[0][~on].any()
    torch.testing.assert_close(found[0][on], found[1][on], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("lower", "tolerance"), [(False, 1e-4), (True, 0.1)], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("lengths", [[7] * 50, [3, 7, 7, 20]], ids=["alike", "mixed"])
def test_the_whole_encoder_has_the_gradients_of_a_masked_one(lengths: list[int], lower: bool, tolerance: float) -> None:
    # Fifty texts are more than the numbers of texts that a head works on, so heads are filled up with whole texts.
    # Without gates: a masked unit that is off tells its router what it would have done, a skipped one cannot.
    batch = pack(
        [(text * 20)[:length] for text, length in zip(tiny_texts(len(lengths), seed=12), lengths, strict=True)]
    )
    found: list[dict[str, torch.Tensor]] = []
    traces: list[list[LayerTrace]] = []
    for masked in (False, True):
        model = tiny_routed().requires_grad_(True)
        model.compute_masked(heads=masked, experts=masked)
        traces.append([])
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            vectors_SD = model(batch, 1, traces[-1])
        weights = torch.randn(vectors_SD.shape, generator=torch.Generator().manual_seed(9))
        (vectors_SD * weights).sum().backward()
        found.append(
            {name: value.grad.to_dense() for name, value in model.named_parameters() if value.grad is not None}
        )
    share = torch.stack([(ours.on_TE == theirs.on_TE).float().mean() for ours, theirs in zip(*traces, strict=True)])
    assert float(share.min()) > (0.98 if lower else 0.9999)  # a score beside its threshold may fall on either side
    assert found[0].keys() == found[1].keys()
    assert {"layers.0.attention.qkv", "layers.0.feed_forward.up", "tokens.weight"} < found[0].keys()
    for name, value in found[0].items():
        other = found[1][name]
        assert float((value - other).norm()) <= tolerance * float(other.norm()) + 1e-6, name


def test_a_training_step_with_skipping_multiplies_less_than_a_masked_one() -> None:
    config = tiny_routed_config(expert_shares=(0.2, 0.25, 0.5, 1.0), expert_mode="sequence")
    model = tiny_routed(config).train().requires_grad_(True)
    batch = pack([(text * 12)[:24] for text in tiny_texts(40, seed=8)])
    costs: list[int] = []
    for masked in (False, True):
        model.compute_masked(heads=masked, experts=masked)
        with Multiplications() as counted:
            model(batch, 0).sum().backward()
        costs.append(counted.done)
    assert costs[0] < 0.75 * costs[1]
