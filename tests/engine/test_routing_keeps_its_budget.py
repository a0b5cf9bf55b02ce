"""Thresholds hold each budget's shares, more budget is more work, and no text's routing depends on another text."""

from itertools import pairwise

import pytest
import torch

from engine.errors import OptionError
from engine.model.dense import pack
from engine.model.routed import RoutedEncoder, with_quorum
from engine.model.router import BALANCE_STEP, CONTROL_RATE, STARVED, Router
from engine.model.trace import LayerTrace, active_fracs
from engine.runtime.loading import encoder_of
from engine.training.convert import calibrate_thresholds
from tests.engine.tiny import shares, tiny_routed, tiny_routed_config, tiny_texts, tiny_tokenizer

WIDTH, UNITS = 8, 5


def router(*, needs_one: bool = False, units: int = UNITS, budgets: int = 3, seed: int = 0) -> Router:
    made = Router(WIDTH, units, budgets, needs_one=needs_one)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        made.weight.copy_(torch.randn(made.weight.shape, generator=generator))
        made.bias.copy_(torch.randn(made.bias.shape, generator=generator))
    return made


def rows(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"expert_mode": "sequence"},
        {"quorum": 2},
        {"shared_heads": 0, "shared_neurons": 0},
        {"head_shares": (0.0, 0.5, 0.75, 1.0), "expert_shares": (0.0, 0.4, 0.7, 1.0)},
    ],
    ids=str,
)
def test_calibrated_thresholds_hold_the_shares(changes: dict[str, object]) -> None:
    config = tiny_routed_config(**changes)
    model, batch = tiny_routed(config), pack(sorted(tiny_texts(300, seed=5), key=len))
    calibrate_thresholds(model, batch, rounds=6)
    for budget, (heads, experts) in enumerate(zip(config.head_shares, config.expert_shares, strict=True)):
        trace: list[LayerTrace] = []
        with torch.inference_mode():
            model(batch, budget, trace)
        found_heads, found_experts = shares(trace)
        # Where nothing is shared, the best unit works for every row, and that is more than a small share asks for.
        assert found_heads == pytest.approx([heads] * 3, abs=0.01 if config.shared_heads else 0.13)
        assert found_experts == pytest.approx([experts] * 3, abs=0.02 if config.shared_neurons else 0.13)


@pytest.mark.parametrize("reserve", [0.06, 0.5])
def test_a_reserve_is_left_of_every_budget_but_the_last(reserve: float) -> None:
    config = tiny_routed_config(quorum=2)
    model, batch = tiny_routed(config), pack(sorted(tiny_texts(300, seed=5), key=len))
    calibrate_thresholds(model, batch, rounds=6, reserve=reserve)
    for budget, wanted in enumerate(zip(config.head_shares, config.expert_shares, strict=True)):
        trace: list[LayerTrace] = []
        with torch.inference_mode():
            model(batch, budget, trace)
        heads, experts = [share if share == 1 else share * (1 - reserve) for share in wanted]
        assert shares(trace)[0] == pytest.approx([heads] * 3, abs=0.01)
        assert shares(trace)[1] == pytest.approx([experts] * 3, abs=0.01)
    assert {part.aim for part in model.routers()} == {1.0}


def test_thresholds_hold_the_share_whatever_the_number_of_rows() -> None:
    made = router(units=4)
    with torch.no_grad():
        made.weight.zero_()
        made.bias[:4] = torch.tensor([3.0, 1.0, -1.0, -3.0])  # units of quite different size
    made.control_rate = 1.0
    for count in (100, 4096, 10_000, 16_384, 20_000, 40_000):
        scores_RU = made.scores(rows(count)) + 0.5 * rows(count, seed=2)[:, :4]
        made.control(scores_RU, 1, 0.5)
        assert float(made.choose(scores_RU, 1).float().mean()) == pytest.approx(0.5, abs=0.02), count


def test_the_controller_finds_the_share_and_follows_when_scores_move() -> None:
    made = router()
    made.control_rate = CONTROL_RATE
    for step in range(120):
        scores_RU = made.scores(rows(200, seed=step)) + 3.0
        made.control(scores_RU, 1, 0.3)
    scores_RU = made.scores(rows(2000, seed=999)) + 3.0
    assert float(made.choose(scores_RU, 1).float().mean()) == pytest.approx(0.3, abs=0.03)
    assert made.thresholds_B[0] == made.thresholds_B[2] == 0  # other budgets stand still


def test_thresholds_stand_still_when_they_are_not_controlled() -> None:
    made = router()
    made.control(made.scores(rows(100)), 1, 0.3)
    assert not made.thresholds_B.any()
    model = tiny_routed()
    before = [part.thresholds_B.clone() for part in model.routers()]
    batch = pack(tiny_texts(10, seed=1))

    def interrupted() -> None:
        with model.controlled(0.5):
            model(batch, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    moved = [part.thresholds_B.clone() for part in model.routers()]
    assert any(not torch.equal(a, b) for a, b in zip(before, moved, strict=True))
    model(batch, 1)
    assert all(torch.equal(part.thresholds_B, value) for part, value in zip(model.routers(), moved, strict=True))


def test_a_share_of_everything_lets_all_work_whatever_they_score() -> None:
    made = router()
    made.control_rate = CONTROL_RATE
    made.control(made.scores(rows(10)), 2, 1.0)
    assert made.choose(torch.full((3, UNITS), -1e30), 2).all()


def test_the_best_unit_works_where_one_is_needed() -> None:
    scores_RU = router().scores(rows(50))
    none, one = router(), router(needs_one=True)
    for made in (none, one):
        made.thresholds_B[:] = torch.inf
    assert not none.choose(scores_RU, 0).any()
    on_RU = one.choose(scores_RU, 0)
    assert on_RU.sum(dim=1).tolist() == [1] * 50
    assert torch.equal(on_RU.float().argmax(dim=1), scores_RU.argmax(dim=1))


def test_encoders_without_shared_parts_need_one_of_each() -> None:
    for shared in (0, 2):
        config = tiny_routed_config(shared_heads=shared, shared_neurons=8 * shared)
        layer = RoutedEncoder(config).layer(0)
        assert layer.head_router.needs_one == layer.expert_router.needs_one == (shared == 0)


def test_unused_columns_are_no_units() -> None:
    made = router()
    assert made.weight.shape[1] == 16
    x_RD = rows(7)
    scores_RU = made.scores(x_RD)
    assert scores_RU.shape == (7, UNITS)
    torch.testing.assert_close(scores_RU, x_RD @ made.weight[:, :UNITS] + made.bias[:UNITS])


def test_a_starved_unit_gets_a_bonus_on_the_choice_and_none_on_the_gate() -> None:
    made = router()
    share = 0.5
    on_RU = torch.zeros(100, UNITS, dtype=torch.bool)
    on_RU[: int(100 * STARVED * share) - 1, 0] = True  # just starved
    on_RU[: int(100 * STARVED * share) + 1, 1] = True  # just not
    on_RU[:90, 2] = True
    made.balance(on_RU, share)
    step = pytest.approx(BALANCE_STEP)
    assert made.balance_U.tolist() == [step, 0, 0, step, step]

    scores_RU = torch.zeros(1, UNITS)
    made.thresholds_B[0] = BALANCE_STEP / 2
    on_RU = made.choose(scores_RU, 0)
    assert on_RU.tolist() == [[True, False, False, True, True]]
    gates: list[torch.Tensor] = []
    for bonus in (0.0, 5.0):
        made.balance_U[:] = bonus
        leaf_RU = scores_RU.clone().requires_grad_(True)
        gate_RU = made.gate(leaf_RU, on_RU, 0)
        gate_RU.sum().backward()
        assert leaf_RU.grad is not None
        gates += [gate_RU.detach(), leaf_RU.grad]
    assert torch.equal(gates[0], gates[2])
    assert torch.equal(gates[1], gates[3])


def test_balance_brings_a_starved_unit_to_work() -> None:
    made = router()
    with torch.no_grad():
        made.weight.zero_()
        made.bias[:UNITS] = torch.tensor([-0.5, 0.5, 0.5, 0.5, 0.5])
    made.thresholds_B[1] = 0.25
    shares_seen: list[float] = []
    for _ in range(500):
        scores_RU = made.scores(rows(20))
        on_RU = made.choose(scores_RU, 1)
        shares_seen.append(float(on_RU[:, 0].float().mean()))
        made.balance(on_RU, 0.8)
    assert shares_seen[0] == 0
    assert shares_seen[-1] == 1
    assert not made.balance_U[1:].any()


@pytest.mark.parametrize("threshold", [-torch.inf, -1.0, 0.3, torch.inf])
def test_the_gate_is_exactly_one_or_zero_and_has_a_gradient(threshold: float) -> None:
    made = router()
    made.thresholds_B[1] = threshold
    scores_RU = made.scores(rows(40)).detach().requires_grad_(True)
    on_RU = made.choose(scores_RU, 1)
    gate_RU = made.gate(scores_RU, on_RU, 1)
    assert torch.equal(gate_RU, on_RU.float())
    gate_RU.sum().backward()
    assert scores_RU.grad is not None
    assert torch.isfinite(scores_RU.grad).all()
    if abs(threshold) < 2:
        assert (scores_RU.grad > 0).all()
        nearest = (scores_RU.detach() - threshold).abs().argmin()
        assert scores_RU.grad.flatten()[nearest] == scores_RU.grad.max()


def test_the_quorum_leaves_out_what_few_tokens_want() -> None:
    batch = pack([[1] * 3, [1] * 4])
    on_TE = torch.tensor(
        [  # experts: wanted by all, by one token, by two, by none
            [1, 1, 1, 0],
            [1, 0, 0, 0],
            [1, 0, 1, 0],
            [0, 1, 1, 0],
            [1, 1, 0, 0],
            [0, 1, 0, 0],
            [0, 1, 0, 0],
        ],
        dtype=torch.bool,
    )
    kept = {
        1: on_TE.int().tolist(),
        2: [[1, 0, 1, 0], [1, 0, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]],
        3: [[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]],
        5: [[0] * 4] * 7,
    }
    for quorum, expected in kept.items():
        assert with_quorum(on_TE, quorum, batch).int().tolist() == expected, quorum


@pytest.mark.parametrize("expert_mode", ["token", "sequence"])
def test_a_text_is_routed_alike_alone_and_among_others(expert_mode: str) -> None:
    model = tiny_routed(tiny_routed_config(quorum=3, expert_mode=expert_mode))
    texts = sorted(tiny_texts(30, seed=6), key=len)
    for budget in range(4):
        together: list[LayerTrace] = []
        with torch.inference_mode():
            model(pack(texts), budget, together)
            for place in (0, 11, 29):
                alone: list[LayerTrace] = []
                model(pack([texts[place]]), budget, alone)
                start = sum(len(ids) for ids in texts[:place])
                rows_of_text = slice(start, start + len(texts[place]))
                for one, all_of_them in zip(alone, together, strict=True):
                    assert torch.equal(one.on_SH[0], all_of_them.on_SH[place])
                    assert torch.equal(one.on_TE, all_of_them.on_TE[rows_of_text])


def test_by_sequence_all_tokens_of_a_text_have_the_same_experts() -> None:
    seen: dict[str, set[int]] = {}
    for mode in ("token", "sequence"):
        trace: list[LayerTrace] = []
        batch = pack(sorted(tiny_texts(30, seed=6), key=len))
        with torch.inference_mode():
            tiny_routed(tiny_routed_config(expert_mode=mode))(batch, 1, trace)
        seen[mode] = {
            len(layer.on_TE[batch.sequences_T == text].unique(dim=0)) for layer in trace for text in range(30)
        }
    assert seen["sequence"] == {1}
    assert max(seen["token"]) > 2


def test_with_every_budget_more_of_the_encoder_works() -> None:
    model, batch = tiny_routed(), pack(sorted(tiny_texts(60, seed=7), key=len))
    means: list[float] = []
    for budget in range(4):
        trace: list[LayerTrace] = []
        with torch.inference_mode():
            model(batch, budget, trace)
        fracs = active_fracs(model.config, trace, batch)
        assert len(fracs) == 60
        means.append(sum(fracs) / 60)
    assert all(less + 0.02 < more for less, more in pairwise(means))


def test_a_budget_that_the_encoder_lacks_is_refused_with_those_it_has() -> None:
    model = tiny_routed()
    for active in (0.31, 0.0, -1.0, 2.0, float("nan")):
        with pytest.raises(OptionError, match=rf"active={active!r}. This encoder has: 0.2, 0.3, 0.5, 1\."):
            encoder_of(model, tiny_tokenizer(), sha256={}, active=active, max_tokens=64, threads=1)


def test_the_shares_of_an_encoder_count_real_parameters() -> None:
    model = tiny_routed(tiny_routed_config(kept=(0, 2), shared_heads=1))
    config = model.config
    layer = model.layer(0)
    dense = {name: value.numel() for name, value in layer.named_parameters()}
    head = sum(dense[f"attention.{name}"] for name in ("qkv", "qkv_bias", "output")) / config.routed_heads
    expert = sum(dense[f"feed_forward.{name}"] for name in ("up", "up_bias", "down")) / config.experts
    assert (config.head_params, config.expert_params) == (head, expert)
    unused = sum((config.base.width + 1) * (16 - units) for units in (config.routed_heads, config.experts))
    fixed = sum(dense.values()) - head * config.routed_heads - expert * config.experts - unused
    assert config.fixed_params == fixed
    assert config.active_params(1.5, 2.5) == 2 * (fixed + 1.5 * head + 2.5 * expert)
