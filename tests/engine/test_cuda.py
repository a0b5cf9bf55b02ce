"""On a real CUDA device: vectors are those of the CPU but for the last bits (in bfloat16 close to them), a text has the
same bits in any batch and with few weights in memory, the server answers, a device without memory is a typed error,
distillation trains. Skipped where there is none."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from engine.errors import OverloadError
from engine.load import load_encoder
from engine.model.deterministic import linear, use_least_rows
from engine.model.device import CUDA_ROWS
from engine.protocol import Encoder
from engine.training.jobs import Shape, distill_file
from engine.training.schedule import Progress, Recipe
from tests.engine.texts import make_texts
from tests.engine.tiny import write_folder
from tests.engine_servers import post, server_process

pytestmark = pytest.mark.cuda

TEXTS = [*make_texts(240, longest=24, seed=1), *make_texts(60, longest=80, seed=2), ""]
LONG = make_texts(12, longest=300, seed=3)


@pytest.fixture(scope="module", params=["dense", "routed", "shallow"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def precision(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def there(name: str, precision: str) -> Encoder:
    return load_encoder(name, device="cuda", precision=precision)


@pytest.fixture(scope="module")
def alone(there: Encoder) -> np.ndarray:
    return np.concatenate([there.encode([text]) for text in [*TEXTS, *LONG]])


def test_vectors_are_those_of_the_cpu(name: str, precision: str, alone: np.ndarray) -> None:
    here = load_encoder(name, threads=2).encode([*TEXTS, *LONG])
    cosines = (alone * here).sum(axis=1)
    if precision == "bf16":
        assert cosines.mean() > 0.995
        return
    # Where a router's score lies within rounding of its threshold, one more or one less unit works.
    close = np.abs(alone - here).max(axis=1) < 1e-4
    assert close.mean() > (0.95 if name == "routed" else 0.999)
    assert cosines.min() > 0.99


def test_a_text_has_the_same_bits_in_any_batch(there: Encoder, alone: np.ndarray) -> None:
    texts = [*TEXTS, *LONG]
    generator = np.random.default_rng(0)
    for number in range(50):
        chosen = generator.permutation(len(texts))[: generator.integers(2, len(texts))]
        some = [texts[index] for index in chosen]
        vectors = there.encode(some, trace=True).vectors if number % 2 else there.encode(some)
        assert np.array_equal(vectors, alone[chosen])


def test_and_with_more_workers_and_in_another_encoder(name: str, precision: str, alone: np.ndarray) -> None:
    another = load_encoder(name, device="cuda", precision=precision, threads=3)
    assert np.array_equal(another.encode([*TEXTS, *LONG]), alone)


@pytest.mark.parametrize("budget_mib", [16, 24, 30])
def test_and_with_few_weights_in_memory(name: str, precision: str, alone: np.ndarray, budget_mib: int) -> None:
    texts, before = [*TEXTS, *LONG], torch.cuda.memory_allocated()
    budget = (budget_mib << 20) // (1 if precision == "fp32" else 2)
    streamed = load_encoder(name, device="cuda", precision=precision, memory_budget=budget)
    assert torch.cuda.memory_allocated() - before <= budget
    for _ in range(5):
        assert np.array_equal(streamed.encode(texts), alone)
    assert np.array_equal(streamed.encode(texts[5:7]), alone[5:7])


@pytest.fixture
def fixed_rows() -> Iterator[None]:
    use_least_rows(CUDA_ROWS, CUDA_ROWS)
    yield
    use_least_rows(1)


@pytest.mark.parametrize("shape", [(384, 1152), (384, 384), (384, 1536), (1536, 384), (384, 16), (96, 384), (32, 384)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_a_row_has_the_same_bits_at_every_place_of_a_product(
    fixed_rows: None, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    x_RI = torch.randn(2 * CUDA_ROWS + 100, shape[0], generator=generator, device="cuda").to(dtype)
    weight_IO = torch.randn(shape, generator=generator, device="cuda").to(dtype)
    bias_O = torch.randn(shape[1], generator=generator, device="cuda").to(dtype)
    whole = linear(x_RI, weight_IO, bias_O)
    for start, rows in ((0, 1), (1, 1), (511, 1), (77, 130), (300, 512), (13, 513), (1000, 124)):
        assert torch.equal(linear(x_RI[start : start + rows], weight_IO, bias_O), whole[start : start + rows])


def test_the_server_gives_the_same_bits(name: str, precision: str, alone: np.ndarray) -> None:
    with server_process("--encoder", name, "--device", "cuda", "--precision", precision) as server:
        info = httpx.get(f"{server.url}/info").json()
        assert (info["device"], info["precision"]) == ("cuda", precision)
        assert "-cuda-" in info["encoder_id"]
        assert np.array_equal(np.array(post(server.url, inputs=TEXTS).json(), np.float32), alone[: len(TEXTS)])
        one = np.array(post(server.url, inputs=TEXTS[7]).json(), np.float32)
        assert np.array_equal(one[0], alone[7])


def test_without_memory_a_request_fails_in_words_and_the_next_one_works(there: Encoder, alone: np.ndarray) -> None:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(
        torch.cuda.memory_reserved() / torch.cuda.get_device_properties(0).total_memory
    )
    taken: list[torch.Tensor] = []
    try:
        for size in (16 << 20, 1 << 20, 64 << 10, 512):
            with suppress(torch.OutOfMemoryError):
                while True:
                    taken.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        with pytest.raises(OverloadError, match="CUDA device is out of memory"):
            there.encode(LONG)
    finally:
        taken.clear()
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert np.array_equal(there.encode(TEXTS), alone[: len(TEXTS)])


def test_distillation_trains_there_and_reads_its_checkpoint(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(make_texts(3000, longest=20, seed=1)), "utf-8")
    dense, seen, files = write_folder(tmp_path / "dense"), list[Progress](), list[bytes]()
    for number in range(2):  # the second one finds all steps done
        output = tmp_path / f"{number}.safetensors"
        distill_file(
            dense,
            [texts],
            output,
            tmp_path / "work",
            recipe=Recipe(steps=40, tokens=512, rate=3e-3, warmup=5, state_steps=10, bf16=True),
            shape=Shape(layers=(0, 2), shared_heads=1, shared_neurons=16, experts=4, heads=1.5),
            device="cuda",
            report=seen.append,
            every=10,
        )
        files.append(output.read_bytes())
    assert [progress.step for progress in seen] == [10, 20, 30, 40]
    assert seen[-1].loss < seen[0].loss
    assert files[0] == files[1]
    assert load_encoder(str(output), max_tokens=20, device="cuda").encode(["oil wheat"]).shape == (1, 32)
