"""At every budget the routed encoder gives a text the same bits in any batch, because a row of a product keeps its bits
whatever stands beside it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from engine.load import load_encoder
from engine.model.deterministic import LEAST_ROWS, MOST_ROWS, least_rows, linear, product, stable_rows, use_least_rows
from engine.model.dispatch import dispatch, grouped_linear
from tests.engine.multiplications import Multiplications
from tests.engine.texts import make_texts

TEXTS = [*make_texts(160, longest=24, seed=21), *make_texts(40, longest=80, seed=22)]


@pytest.mark.parametrize("active", [0.2, 0.3, 0.5, 1.0])
def test_any_batch_order_and_number_of_threads_at_every_budget(active: float) -> None:
    one, two, three = (load_encoder("routed", active=active, max_tokens=64, threads=n) for n in (1, 2, 3))
    assert one.encoder_id == two.encoder_id == three.encoder_id
    expected = two.encode(TEXTS)
    generator = np.random.default_rng(int(active * 10))
    for number in range(12):
        chosen = generator.permutation(len(TEXTS))[: generator.integers(1, 60)]
        encoder = (one, two, three)[number % 3]
        texts = [TEXTS[index] for index in chosen]
        vectors = encoder.encode(texts, trace=True).vectors if number % 2 else encoder.encode(texts)
        assert np.array_equal(vectors, expected[chosen])
    for index in (0, 50, 170):
        assert np.array_equal(one.encode([TEXTS[index]])[0], expected[index])


def test_budgets_give_different_vectors_and_ids() -> None:
    encoders = [load_encoder("routed", active=active, max_tokens=64, threads=1) for active in (0.2, 0.3, 0.5, 1.0)]
    assert len({encoder.encoder_id for encoder in encoders}) == 4
    vectors = [encoder.encode(["oil"]).tobytes() for encoder in encoders]
    assert len(set(vectors[:3])) == 3
    assert vectors[3] == vectors[2], "a third of the parent's layer parameters is all that it has"
    assert load_encoder("routed", max_tokens=64, threads=1).encoder_id == encoders[1].encoder_id


SHAPES = ((32, 48), (48, 32), (96, 16), (384, 96), (32, 384))


@pytest.fixture
def least() -> Iterator[int]:
    """What `stable_rows` found, in force in this thread, which the engine's tests keep at one core."""
    assert torch.get_num_threads() == 1
    found = stable_rows(SHAPES)
    use_least_rows(found)
    yield found
    use_least_rows(1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_row_keeps_its_bits_in_products_of_every_size(least: int, shape: tuple[int, int]) -> None:
    assert least in LEAST_ROWS
    generator = torch.Generator().manual_seed(4)
    x_RI = torch.randn(2 * MOST_ROWS + 40, shape[0], generator=generator)
    weight_IO = torch.randn(shape, generator=generator)
    bias_O = torch.randn(shape[1], generator=generator)
    with torch.inference_mode():
        for bias in (bias_O, None):
            alone_RO = torch.cat([linear(x_RI[row : row + 1], weight_IO, bias) for row in range(len(x_RI))])
            exact_RO = x_RI.double() @ weight_IO.double() + (0 if bias is None else bias.double())
            assert (alone_RO - exact_RO).abs().max() < 1e-3
            for rows in range(1, len(x_RI) + 1):
                start = (len(x_RI) - rows) // 2
                part = slice(start, start + rows)
                assert torch.equal(linear(x_RI[part], weight_IO, bias), alone_RO[part]), rows
                out_RO = torch.empty(rows, shape[1])
                product(x_RI[part], weight_IO, bias, out_RO)
                assert torch.equal(out_RO, alone_RO[part]), rows


def test_a_row_keeps_its_bits_in_its_experts_whatever_other_rows_they_have(least: int) -> None:
    generator = torch.Generator().manual_seed(5)
    x_RI = torch.randn(100, 32, generator=generator)
    weight_UIO = torch.randn(3, 32, 48, generator=generator)
    bias_UO = torch.randn(3, 48, generator=generator)
    with torch.inference_mode():
        for seed in range(20):
            on_RU = torch.rand(100, 3, generator=torch.Generator().manual_seed(seed)) < (seed + 1) / 30
            units = dispatch(on_RU)
            rows_P = units.rows_P.clamp_max(99)
            y_PO = grouped_linear(x_RI[rows_P], weight_UIO, bias_UO, units)
            assert all(count == 0 or count >= least for count in units.counts)
            for unit, span in units.spans():
                for pair in range(span.start, span.stop):
                    if units.rows_P[pair] < 100:
                        row = x_RI[rows_P[pair]].unsqueeze(0)
                        assert torch.equal(linear(row, weight_UIO[unit], bias_UO[unit])[0], y_PO[pair])


def test_large_products_are_cut_into_blocks_of_nearly_one_size(least: int) -> None:
    for rows in (65, 129, 130, 1000):
        with torch.inference_mode(), Multiplications() as counted:
            linear(torch.zeros(rows, 32), torch.zeros(32, 48), None)
        sizes = [size for size, _, _ in counted.rows]
        assert sum(sizes) == rows
        assert max(sizes) <= MOST_ROWS
        assert min(sizes) >= 32


def test_least_rows_are_a_threads_own() -> None:
    use_least_rows(16)
    try:
        with ThreadPoolExecutor(1) as other:
            assert other.submit(least_rows).result() == 1
        assert least_rows() == 16
    finally:
        use_least_rows(1)
