"""A trace tells, for each text, which heads and experts worked, on what share of the parameters, and what it cost."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from engine.model.dense import Pack, pack
from engine.model.routed import RoutedEncoder
from engine.model.trace import LayerTrace, active_fracs, dense_multiplications, text_traces
from engine.protocol import Encoder
from engine.runtime.loading import encoder_of
from engine.runtime.local import LocalEncoder
from tests.engine.multiplications import Multiplications
from tests.engine.texts import make_texts
from tests.engine.tiny import tiny_parent, tiny_routed, tiny_routed_config, tiny_texts, tiny_tokenizer


def client(model: RoutedEncoder, active: float = 0.3) -> LocalEncoder:
    return encoder_of(model, tiny_tokenizer(), sha256={}, active=active, max_tokens=20, threads=1)


def steered(heads: Sequence[Sequence[int]], experts: Sequence[Sequence[int]]) -> RoutedEncoder:
    """A model whose layers use these routed heads and experts for every text at the budgets below the last."""
    model = tiny_routed(tiny_routed_config(kept=tuple(range(len(heads)))))
    for place, (on_heads, on_experts) in enumerate(zip(heads, experts, strict=True)):
        layer = model.layer(place)
        for router, units in ((layer.head_router, on_heads), (layer.expert_router, on_experts)):
            router.weight.data.zero_()
            router.bias.data.fill_(-1.0)
            router.bias.data[list(units)] = 1.0
            router.thresholds_B[:-1] = 0.0
    return model


def test_a_trace_of_known_decisions() -> None:
    config = tiny_routed_config()
    texts = ["oil wheat profit", "", "oil " * 18, "oil " * 300]
    lengths = [5, 2, 20, 20]
    encoding = client(steered([[0], [], [0, 1]], [[2], [0, 1, 3], []])).encode(texts, trace=True)
    assert encoding.tokens.tolist() == lengths
    assert encoding.truncated.tolist() == [False, False, False, True]
    assert encoding.vectors.shape == (4, 32)
    working = (3 * config.fixed_params + 3 * config.head_params + 4 * config.expert_params) / config.parent_layer_params
    assert encoding.active_frac == pytest.approx([working] * 4)
    assert encoding.active_frac.dtype == np.float32
    for length, route in zip(lengths, encoding.routes, strict=True):
        found = json.loads(route)
        assert found.keys() == {"heads", "experts", "multiplications"}
        assert found["heads"] == [[0], [], [0, 1]]
        assert found["experts"] == [[0, 0, length, 0], [length, length, 0, length], [0, 0, 0, 0]]
        heads = 3 * 2 + 3  # shared ones and routed ones of three layers, each of width 8
        by_token = heads * 4 * 32 * 8 + 3 * 2 * 32 * 16 + 4 * 2 * 32 * 12
        attention = heads * 2 * length * length * 8
        # Both routers compute 16 columns; that for heads is asked once per text, that for experts for each token.
        routers = 3 * 32 * 16 * (1 + length)
        assert found["multiplications"] == length * by_token + attention + routers


def test_a_trace_counts_tokens_of_each_expert() -> None:
    model = tiny_routed()
    batch, trace = pack(sorted(tiny_texts(20, seed=3), key=len)), list[LayerTrace]()
    with torch.inference_mode():
        model(batch, 1, trace)
    for text, found in enumerate(text_traces(model.config, trace, batch)):
        rows = [row for row, owner in enumerate(batch.sequences_T.tolist()) if owner == text]
        for place, layer in enumerate(trace):
            assert list(found.experts[place]) == [sum(bool(layer.on_TE[r, e]) for r in rows) for e in range(4)]
            assert list(found.heads[place]) == [h for h in range(2) if layer.on_SH[text, h]]


def slow_active_frac(model: RoutedEncoder, layers: Sequence[LayerTrace], batch: Pack, text: int) -> float:
    """Token by token, over the tensors of the model themselves."""
    config = model.config
    rows = [row for row, owner in enumerate(batch.sequences_T.tolist()) if owner == text]
    working = 0.0
    for place, seen in enumerate(layers):
        layer = model.layer(place)
        for row in rows:
            for name, value in layer.named_parameters():
                kind, part = name.split(".")
                if kind.endswith("router"):
                    units = config.routed_heads if kind == "head_router" else config.experts
                    working += value[..., :units].numel()
                elif kind == "attention" and part in ("qkv", "qkv_bias", "output"):
                    working += sum(v.numel() for v, on in zip(value, seen.on_SH[text], strict=True) if on)
                elif kind == "feed_forward" and part in ("up", "up_bias", "down"):
                    working += sum(v.numel() for v, on in zip(value, seen.on_TE[row], strict=True) if on)
                else:
                    working += value.numel()
    dense = sum(value.numel() for value in tiny_parent().layers.parameters())
    return working / len(rows) / dense


@pytest.mark.parametrize("expert_mode", ["token", "sequence"])
def test_active_shares_agree_with_a_count_over_the_models_tensors(expert_mode: str) -> None:
    model = tiny_routed(tiny_routed_config(expert_mode=expert_mode, kept=(0, 2)))
    batch = pack([[1, 2], [3, 4, 5], [6, 7, 8], [9] * 11])
    for budget in range(4):
        trace: list[LayerTrace] = []
        with torch.inference_mode():
            model(batch, budget, trace)
        expected = [slow_active_frac(model, trace, batch, text) for text in range(4)]
        assert active_fracs(model.config, trace, batch) == pytest.approx(expected)


@pytest.mark.parametrize("length", [2, 17])
def test_multiplications_of_the_parent_are_those_that_it_does(length: int) -> None:
    with torch.inference_mode(), Multiplications() as counted:
        tiny_parent()(pack([[1] * length]))
    assert dense_multiplications(tiny_routed_config(kept=(1,)), length) == counted.done


def test_traces_stand_in_the_order_of_the_texts() -> None:
    encoder = client(tiny_routed())
    texts = make_texts(60, longest=18, seed=8)
    together = encoder.encode(texts, trace=True)
    assert len(set(together.routes)) > 20
    for place in range(0, 60, 7):
        alone = encoder.encode([texts[place]], trace=True)
        assert alone.routes[0] == together.routes[place]
        assert alone.active_frac[0] == together.active_frac[place]
        assert alone.tokens[0] == together.tokens[place]


def test_tracing_changes_no_bit_and_embed_traces() -> None:
    encoder = client(tiny_routed())
    texts = make_texts(60, longest=18, seed=9)
    traced = encoder.encode(texts, trace=True)
    assert np.array_equal(encoder.encode(texts), traced.vectors)
    assert encoder.embed(texts).routes == traced.routes


def test_a_dense_encoder_has_no_routes_and_works_in_full(encoder: Encoder) -> None:
    encoding = encoder.encode(["oil", ""], trace=True)
    assert encoding.routes == ["", ""]
    assert encoding.active_frac.tolist() == [1.0, 1.0]


def test_the_shipped_encoder_works_at_about_its_budget(routed: Encoder) -> None:
    texts = [
        "A man is playing a guitar on stage.",
        "The central bank raised interest rates by a quarter point on Tuesday, and analysts expect more this year.",
        "Shares of the company fell 3.5% after it reported a quarterly loss.",
        "Two dogs run through the snow.",
        "How do I reset my password?",
        "The committee has not yet decided whether the bridge will be closed for repairs during the summer months.",
    ]
    encoding = routed.encode(texts, trace=True)
    assert float(encoding.active_frac.mean()) == pytest.approx(0.3, abs=0.04)
    assert encoding.active_frac.std() > 0
    for route in encoding.routes:
        found = json.loads(route)
        assert len(found["heads"]) == len(found["experts"]) > 1
        assert found["multiplications"] > 0
