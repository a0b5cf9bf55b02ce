"""Whatever shape an encoder of our own may have, it is written, read and streamed, and computes alike in every way."""

from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engine.kernels.int8 import TorchInt8
from engine.kernels.native import int8_forward
from engine.kernels.native.float32 import float_forward
from engine.model.config import EXPERT_MODES, FIRST, MEAN, EncoderConfig, RoutedConfig
from engine.model.dense import pack
from engine.weights.in_memory import load_stored_model, stored_int8
from engine.weights.quantized_file import quantize_encoder, read_quantized
from engine.weights.routed_file import write_routed
from engine.weights.safetensors_file import TensorFile
from engine.weights.streamed import streamed_stored
from tests.engine.stored import read_at_once
from tests.engine.tiny import tiny_routed, tiny_texts, tiny_tokenizer


@st.composite
def shapes(draw: st.DrawFn) -> RoutedConfig:
    """Any legal configuration of a tiny encoder."""
    heads, head_width = draw(st.integers(1, 4)), draw(st.sampled_from([1, 3, 8]))
    experts, width = draw(st.integers(2, 5)), draw(st.integers(1, 9))
    shared_heads, shared_neurons = draw(st.integers(0, heads - 1)), draw(st.sampled_from([0, 1, 16]))
    layers = draw(st.integers(1, 3))
    kept = draw(st.sets(st.integers(0, layers - 1), min_size=1))
    budgets = draw(st.integers(1, 4))
    shares = st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), min_size=budgets - 1, max_size=budgets - 1).map(sorted)
    base = EncoderConfig(
        vocab=100,
        width=heads * head_width,
        layers=layers,
        heads=heads,
        ffn_width=shared_neurons + experts * width,
        positions=80,
        norm_eps=1e-12,
        pooling=draw(st.sampled_from([MEAN, FIRST])),
    )
    return RoutedConfig(
        base=base,
        kept=tuple(sorted(kept)),
        shared_heads=shared_heads,
        shared_neurons=shared_neurons,
        experts=experts,
        expert_width=width,
        expert_mode=draw(st.sampled_from(EXPERT_MODES)),
        quorum=draw(st.integers(1, 3)),
        budgets=(*(0.1, 0.2, 0.3)[: budgets - 1], 1.0),
        head_shares=(*draw(shares), 1.0),
        expert_shares=(*draw(shares), 1.0),
    )


@settings(
    deadline=None,
    max_examples=30,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(config=shapes())
def test_it_comes_back_from_its_file_and_computes_alike(tmp_path: Path, config: RoutedConfig) -> None:
    path, small = tmp_path / "mine.safetensors", tmp_path / "small.safetensors"
    write_routed(path, tiny_routed(config), tiny_tokenizer())
    expected = read_at_once(path)
    batch = pack(sorted(tiny_texts(5, seed=2), key=len))
    with TensorFile(path) as file, torch.inference_mode():
        model, tokenizer = load_stored_model(file)
        assert (model.config, tokenizer) == (config, tiny_tokenizer())
        state = model.state_dict()
        assert all(torch.equal(state[name], value) for name, value in expected.state_dict().items())

        whole = sum(value.nbytes for value in state.values())
        streamed = streamed_stored(file, whole - state["tokens.weight"].nbytes // 2)
        assert streamed is not None
        forwards = [float_forward(one)[0] for one in (expected, model, streamed[0])]
        for budget in range(len(config.budgets)):
            one, *others = [forward(batch, budget, None) for forward in forwards]
            torch.testing.assert_close(one.norm(dim=1), torch.ones(5))
            assert all(torch.equal(one, other) for other in others)

        for bits in (8, 4):
            weights, _ = stored_int8(file, bits)
            quantize_encoder(str(path), bits, small)
            with TensorFile(small) as quantised:
                found, _ = read_quantized(quantised)
                forwards = [TorchInt8(weights).forward, TorchInt8(found).forward, int8_forward(weights)[0]]
            for budget in range(len(config.budgets)):
                one, *others = [forward(batch, budget, None) for forward in forwards]
                assert all(torch.equal(one, other) for other in others)
