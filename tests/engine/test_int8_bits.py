"""In 8 bits, too, a text has the same bits alone, in any batch and in any order; sums of products are exact."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.errors import OptionError
from engine.kernels.int8 import TorchInt8
from engine.load import load_encoder
from engine.model.dense import pack
from engine.model.deterministic import exp, fold, gelu, integer_sums, quantised_rows
from engine.model.trace import LayerTrace
from engine.weights.quantize import Int8Weights, Sizes, from_groups, quantize, to_groups, to_integers
from tests.engine.texts import make_texts
from tests.engine.tiny import BASE, tiny_parent, tiny_routed, tiny_routed_config, tiny_texts

TEXTS = tiny_texts(40, seed=3, longest=40)
MODELS = {
    "dense": tiny_parent,
    "routed by token": lambda: tiny_routed(tiny_routed_config(quorum=2)),
    "routed by text": lambda: tiny_routed(tiny_routed_config(expert_mode="sequence")),
    "nothing shared": lambda: tiny_routed(tiny_routed_config(shared_heads=0, shared_neurons=0)),
}


@pytest.fixture(scope="module", params=list(MODELS))
def weights(request: pytest.FixtureRequest) -> Int8Weights:
    return quantize(MODELS[request.param]())


def vectors(weights: Int8Weights, texts: list[list[int]], budget: int, trace: list[LayerTrace] | None = None):
    with torch.inference_mode():
        return TorchInt8(weights).forward(pack(texts), budget, trace)


@pytest.mark.parametrize("budget", [0, 1, 3])
def test_any_batch_and_order(weights: Int8Weights, budget: int) -> None:
    alone = torch.cat([vectors(weights, [text], budget) for text in TEXTS])
    generator = np.random.default_rng(0)
    for _ in range(5):
        chosen = generator.permutation(len(TEXTS))[: generator.integers(2, 30)]
        assert torch.equal(vectors(weights, [TEXTS[index] for index in chosen], budget), alone[chosen])


def test_eight_bits_are_close_to_float(weights: Int8Weights) -> None:
    model = next(make() for name, make in MODELS.items() if quantize(make()).config == weights.config)
    with torch.inference_mode():
        exact = model(pack(TEXTS)) if weights.sizes.budgets == 0 else model(pack(TEXTS), 3)
    assert float((exact * vectors(weights, TEXTS, 3)).sum(dim=1).mean()) > 0.995


@pytest.mark.parametrize("width", [7, 384, 1536, 5000])
def test_sums_are_exact_at_their_largest(width: int) -> None:
    x_RI = torch.full((3, width), 127.0)
    x_RI[1] = -127
    values_OI = torch.full((5, width), 127, dtype=torch.int8)
    values_OI[2, ::3] = -126
    expected = (x_RI.numpy().astype(np.int64) @ values_OI.numpy().astype(np.int64).T).astype(np.int32)
    assert np.array_equal(integer_sums(x_RI, values_OI).numpy(), expected)


def test_functions_are_near_the_real_ones() -> None:
    x = torch.linspace(-12, 12, 4001)
    assert float((gelu(x) - torch.nn.functional.gelu(x)).abs().max()) < 1e-4
    below = torch.linspace(-86, 0, 4001)
    assert float((exp(below) / torch.exp(below) - 1).abs().max()) < 1e-6
    assert float(exp(torch.tensor(-1e9))) < 1e-37
    odd = torch.arange(7.0).repeat(2, 1)
    assert fold(odd).tolist() == [21.0, 21.0]


def test_zeros_stay_zeros() -> None:
    whole, scale = quantised_rows(torch.zeros(2, 8))
    assert not whole.any()
    assert not scale.any()
    values, scales = to_integers(torch.zeros(3, 8))
    assert not values.any()
    assert not scales.any()


@pytest.mark.parametrize("columns", [32, 33, 70])
def test_four_bits_come_back_within_half_a_step(columns: int) -> None:
    weight = torch.randn(6, columns, generator=torch.Generator().manual_seed(1))
    packed, scales = to_groups(weight)
    back = from_groups(packed, scales, columns)
    assert packed.dtype == torch.uint8
    assert back.shape == weight.shape
    # A scale may be up to 40% below the one that reaches the largest weight, which is then cut.
    assert float((back - weight).abs().mean()) < float(weight.abs().max()) / 14
    again = from_groups(*to_groups(back), columns)
    assert float((again - back).abs().max()) < 0.05 * float(back.abs().max())


def test_other_bits_are_refused() -> None:
    with pytest.raises(OptionError, match="bits is 5"):
        quantize(tiny_parent(), 5)
    with pytest.raises(OptionError, match="known are: fp32, bf16, int8, int4"):
        load_encoder("dense", precision="int2")


def test_more_neurons_than_a_sum_can_hold_are_refused() -> None:
    with pytest.raises(OptionError, match="A block has 70000 neurons; int8 computes up to 65536"):
        Sizes.of(replace(BASE, ffn_width=70_000))
    with pytest.raises(OptionError, match="A block has 70000 neurons"):
        Sizes.of(tiny_routed_config(replace(BASE, ffn_width=70_064), shared_neurons=70_000))
    with pytest.raises(OptionError, match="A head is 257 wide; int8 computes up to 256"):
        Sizes.of(replace(BASE, width=4 * 257))
    with pytest.raises(OptionError, match="The model is 2052 wide; int8 computes up to 2048"):
        Sizes.of(replace(BASE, width=2052, heads=12))


@pytest.mark.parametrize("name", ["dense", "routed", "shallow"])
def test_the_shipped_encoders_in_eight_bits(name: str) -> None:
    texts = make_texts(24, longest=20, seed=4)
    one, two = (load_encoder(name, max_tokens=64, threads=threads, precision="int8") for threads in (1, 2))
    float32 = load_encoder(name, max_tokens=64, threads=1)
    assert one.encoder_id == two.encoder_id != float32.encoder_id
    found = one.encode(texts)
    assert np.array_equal(two.encode(texts[::-1])[::-1], found)
    # Random words; on sentences the routed encoder has 0.997.
    assert (found * float32.encode(texts)).sum(axis=1).mean() > 0.98


@pytest.mark.parametrize(("name", "least"), [("dense", 0.95), ("routed", 0.85), ("shallow", 0.95)])
def test_the_shipped_encoders_in_four_bits(name: str, least: float) -> None:
    texts = make_texts(12, longest=20, seed=4)
    float32, int4 = (load_encoder(name, threads=1, precision=precision) for precision in ("fp32", "int4"))
    assert int4.encoder_id != float32.encoder_id
    # Random words; on sentences the routed encoder has .946.
    assert (int4.encode(texts) * float32.encode(texts)).sum(axis=1).mean() > least
