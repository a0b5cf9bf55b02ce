"""Conversion cuts a dense model into parts and loses nothing: with everything on, the vectors are the parent's."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import EngineError, OptionError
from engine.model.config import EncoderConfig
from engine.model.dense import pack
from engine.model.deterministic import linear
from engine.model.routed import RoutedEncoder
from engine.model.tokenizer import TextTokenizer
from engine.model.trace import LayerTrace
from engine.training.convert import BUDGETS, balanced_clusters, convert, normalised, plan
from engine.weights.in_memory import dense_encoder
from engine.weights.shipped import read_minilm
from tests.engine.texts import make_texts
from tests.engine.tiny import BASE, tiny_parent, tiny_routed, tiny_routed_config, tiny_tensors, tiny_texts

MINILM_SIZES = EncoderConfig(vocab=30522, width=384, layers=6, heads=12, ffn_width=1536, positions=512, norm_eps=1e-12)


def unseen() -> list[list[int]]:
    return sorted(tiny_texts(60, seed=200, longest=BASE.positions), key=len)


@pytest.mark.parametrize("expert_mode", ["token", "sequence"])
@pytest.mark.parametrize("shared_neurons", [0, 16, 56])
@pytest.mark.parametrize("shared_heads", [0, 2, 3])
def test_with_everything_on_the_vectors_are_the_parents(
    shared_heads: int, shared_neurons: int, expert_mode: str
) -> None:
    config = tiny_routed_config(shared_heads=shared_heads, shared_neurons=shared_neurons, expert_mode=expert_mode)
    model, batch = tiny_routed(config), pack(unseen())
    with torch.inference_mode():
        expected_SD = tiny_parent()(batch)
        assert (model(batch, 3) - expected_SD).abs().max() < 1e-5
        # The others leave something out, so what is compared above is no accident.
        assert (model(batch, 0) - expected_SD).abs().max() > 1e-2


def test_with_everything_on_no_quorum_takes_anything_away() -> None:
    model, batch = tiny_routed(tiny_routed_config(quorum=BASE.positions)), pack(unseen())
    with torch.inference_mode():
        assert (model(batch, 3) - tiny_parent()(batch)).abs().max() < 1e-5


def test_minilm_is_converted_without_loss() -> None:
    files = read_minilm()
    config = plan(
        files.config, kept=range(6), shared_heads=6, shared_neurons=192, experts=14, heads=6.5, main_budget=0.3
    )
    tokenizer = TextTokenizer(files.tokenizer, vocab=files.config.vocab, max_tokens=64)
    ids = [tokens.ids for tokens in tokenizer.encode(make_texts(40, longest=30, seed=11))]
    model = convert(config, files.tensors, ids[:16], torch.Generator().manual_seed(0))
    batch = pack(sorted(ids[16:], key=len))
    with torch.inference_mode():
        assert (model(batch, 3) - dense_encoder(files.config, files.tensors)(batch)).abs().max() < 1e-5


def test_kept_layers_are_those_of_the_parent() -> None:
    model = tiny_routed(tiny_routed_config(kept=(0, 2)))
    shorter = replace(BASE, layers=2)
    tensors = {
        name.replace("layer.2.", "layer.1."): value for name, value in tiny_tensors().items() if "layer.1." not in name
    }
    batch = pack(unseen())
    with torch.inference_mode():
        assert (model(batch, 3) - dense_encoder(shorter, tensors)(batch)).abs().max() < 1e-5


def weights(model: RoutedEncoder) -> dict[str, torch.Tensor]:
    return dict(model.state_dict())


def test_a_seed_fixes_every_bit_and_another_gives_other_experts() -> None:
    config = tiny_routed_config()
    first, again, other = (
        weights(convert(config, tiny_tensors(), tiny_texts(40, seed=1), torch.Generator().manual_seed(seed)))
        for seed in (7, 7, 8)
    )
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["layers.0.feed_forward.up"], other["layers.0.feed_forward.up"])
    assert torch.equal(first["layers.0.attention.qkv"], other["layers.0.attention.qkv"])


def test_any_number_of_threads_gives_the_same_bits() -> None:
    before, found = torch.get_num_threads(), list[bytes]()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            state = convert(
                tiny_routed_config(), tiny_tensors(), tiny_texts(80, seed=100), torch.Generator().manual_seed(0)
            ).state_dict()
            found.append(b"".join(value.numpy().tobytes() for value in state.values()))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    tiny_routed()
    assert torch.equal(torch.rand(1), expected)


def test_heads_that_matter_most_are_shared() -> None:
    tensors = tiny_tensors()
    for layer in range(BASE.layers):  # heads 1 and 3 add next to nothing
        output = tensors[f"encoder.layer.{layer}.attention.output.dense.weight"].view(BASE.width, BASE.heads, -1)
        output[:, [1, 3]] *= 1e-3
    model = convert(tiny_routed_config(), tensors, tiny_texts(40, seed=1), torch.Generator().manual_seed(0))
    for place in range(BASE.layers):
        attention = model.layer(place).attention
        assert attention.output.abs().max() < 1e-2 < attention.shared_output.abs().max()


def test_neurons_that_matter_most_are_shared() -> None:
    tensors = tiny_tensors()
    loud = torch.arange(5, 53, 3)  # 16 neurons
    for layer in range(BASE.layers):
        down = tensors[f"encoder.layer.{layer}.output.dense.weight"]
        quiet = torch.ones(BASE.ffn_width, dtype=torch.bool)
        quiet[loud] = False
        down[:, quiet] *= 1e-3
    model = convert(tiny_routed_config(), tensors, tiny_texts(40, seed=1), torch.Generator().manual_seed(0))
    for place in range(BASE.layers):
        part = model.layer(place).feed_forward
        assert part.down.abs().max() < 1e-2 < part.shared_down.norm(dim=1).min()


@pytest.mark.parametrize("expert_mode", ["token", "sequence"])
def test_routers_estimate_contributions_better_than_the_mean_does(expert_mode: str) -> None:
    model = tiny_routed(tiny_routed_config(expert_mode=expert_mode))
    batch, trace = pack(unseen()), list[LayerTrace]()
    with torch.inference_mode():
        model(batch, 3, trace)
        for place, seen in enumerate(trace):
            layer = model.layer(place)
            target_TE = normalised(layer.feed_forward.contributions(seen.x_TD))
            router = layer.expert_router
            scores_TE = linear(seen.x_TD, router.weight, router.bias)[:, : model.config.experts]
            assert torch.corrcoef(torch.stack([scores_TE.flatten(), target_TE.flatten()]))[0, 1] > 0.3


def test_clusters_are_of_one_size_and_keep_together_what_belongs_together() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.eye(16)[:4]
    group_N = torch.arange(4).repeat(12)
    points_ND = directions[group_N] + 0.05 * torch.randn(48, 16, generator=generator)
    points_ND = points_ND / points_ND.norm(dim=1, keepdim=True)
    found: list[int] = []
    for seed in range(8):  # k-means may end in a poor split from unlucky centres
        cluster_N = balanced_clusters(points_ND, 4, torch.Generator().manual_seed(seed))
        assert cluster_N.bincount().tolist() == [12] * 4
        found.append(sum(len(set(cluster_N[group_N == group].tolist())) == 1 for group in range(4)))
    assert max(found) == 4
    assert np.mean(found) > 2


def test_calibration_texts_are_needed() -> None:
    with pytest.raises(OptionError, match="needs calibration texts"):
        convert(tiny_routed_config(), tiny_tensors(), [], torch.Generator())


PARTS: dict[str, Any] = {
    "kept": range(6),
    "shared_heads": 6,
    "shared_neurons": 192,
    "experts": 14,
    "heads": 6.5,
    "main_budget": 0.3,
}


def test_a_plan_meets_its_budgets() -> None:
    for parts in (PARTS, {**PARTS, "kept": (0, 2, 3, 5), "heads": 9}):
        config = plan(MINILM_SIZES, **parts)
        assert config.budgets == BUDGETS
        shares = list(zip(config.head_shares, config.expert_shares, strict=True))
        assert shares[-1] == (1.0, 1.0)
        least, most = config.active_share(0, 0), config.active_share(1, 1)
        for budget, (heads, experts) in zip(config.budgets[:-1], shares, strict=False):
            assert config.active_share(heads, experts) == pytest.approx(min(max(budget, least), most))
        assert shares == sorted(shares)
        assert config.shared_heads + shares[1][0] * config.routed_heads == pytest.approx(parts["heads"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"experts": 13}, r"1536 .* 192 shared ones cannot be cut into 13 equal experts\. With 197 .* experts of 103"),
        ({"experts": 0}, "experts is 0"),
        ({"experts": -14}, "experts is -14"),
        ({"experts": 1}, "experts is 1; "),
        ({"shared_neurons": 1536}, r"cannot be cut into 14 equal experts\. With 192 .* experts of 96"),
        ({"experts": 1537}, "Have 1536 experts or fewer"),
        ({"shared_neurons": -144}, "shared_neurons is -144; it must be from 0"),
        ({"shared_heads": 12}, "shared_heads is 12 of 12; one at least is routed"),
        ({"shared_heads": -1}, "shared_heads is -1"),
        ({"heads": 5}, "5 heads cannot work on average: 6 of 12 always do"),
        ({"heads": 13}, "13 heads cannot work on average"),
        ({"heads": float("nan")}, "nan heads"),
        ({"heads": 9}, r"With 6 layers, 192 shared neurons and 9 heads,.* to work at -\d.* Keep fewer"),
        ({"kept": (0,)}, r"With 1 layers.* experts would have to work at \d\d\d.* Keep more layers"),
        ({"main_budget": 0.05}, "budget 0.05"),
        ({"main_budget": 2.0}, "budget 2"),
        ({"kept": ()}, r"The layers to keep are \[\]; name some of 0 to 5"),
        ({"kept": (0, 6)}, r"The layers to keep are \[0, 6\]"),
        ({"kept": (-1, 2)}, r"The layers to keep are \[-1, 2\]"),
        ({"kept": (2, 0)}, "ascending"),
        ({"kept": (0, 0)}, "ascending"),
        ({"expert_mode": "word"}, "expert_mode is 'word'; it must be one of sequence, token"),
        ({"quorum": 0}, "quorum is 0; it must be from 1"),
        ({"budgets": (0.5, 0.3, 1.0)}, "must ascend"),
        ({"budgets": (0.3, 0.3, 1.0)}, "must ascend"),
        ({"budgets": ()}, "must ascend"),
        ({"budgets": (0.3, 1.5)}, "one share of 0 to 1 per budget"),
    ],
    ids=str,
)
def test_impossible_shapes_are_refused_in_words(change: dict[str, Any], words: str) -> None:
    with pytest.raises(EngineError, match=words):
        plan(MINILM_SIZES, **{**PARTS, **change})


def test_a_plan_whose_main_budget_is_everything_there_is() -> None:
    parts: dict[str, Any] = {**PARTS, "kept": (0, 2, 3, 5), "heads": 12}
    everything = plan(MINILM_SIZES, **{**parts, "main_budget": 0.5}).active_share(1, 1)
    config = plan(MINILM_SIZES, **{**parts, "main_budget": everything}, budgets=(0.5, 0.9, 1.0))
    assert config.head_shares[1:] == config.expert_shares[1:] == (1.0, 1.0)
