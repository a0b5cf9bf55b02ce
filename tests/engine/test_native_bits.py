"""The compiled forward gives the bits of the torch forward, on every instruction set that this machine has."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from engine.errors import OptionError
from engine.kernels.int8 import TorchInt8
from engine.kernels.native import KERNELS, VARIABLE, int8_forward
from engine.model.config import EncoderConfig
from engine.model.dense import Pack, pack
from engine.model.trace import LayerTrace
from engine.weights.quantize import Int8Weights, quantize
from tests.engine.test_int8_bits import MODELS
from tests.engine.tiny import tiny_parent, tiny_routed, tiny_routed_config, tiny_texts

COMPILED = [name for name in KERNELS if name not in ("auto", "torch")]
TEXTS = tiny_texts(30, seed=3, longest=40)
LONG = EncoderConfig(vocab=100, width=36, layers=1, heads=4, ffn_width=50, positions=1100, norm_eps=1e-12)
"""Odd sizes: heads of 9, and texts of more keys than one sum of 32 bits may hold."""


@pytest.fixture(params=COMPILED)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(VARIABLE, request.param)
    try:
        int8_forward(quantize(tiny_parent()))
    except OptionError as error:
        pytest.skip(str(error))
    return request.param


def both(weights: Int8Weights, batch: Pack, budget: int) -> list[tuple[torch.Tensor, list[LayerTrace]]]:
    found: list[tuple[torch.Tensor, list[LayerTrace]]] = []
    with torch.inference_mode():
        for forward in (TorchInt8(weights).forward, int8_forward(weights)[0]):
            trace: list[LayerTrace] = []
            found.append((forward(batch, budget, trace), trace))
    return found


def assert_same(weights: Int8Weights, batch: Pack, budget: int) -> None:
    (expected, there), (found, here) = both(weights, batch, budget)
    assert torch.equal(found, expected)
    assert len(here) == len(there)
    for ours, theirs in zip(here, there, strict=True):
        assert torch.equal(ours.on_SH, theirs.on_SH)
        assert torch.equal(ours.on_TE, theirs.on_TE)


@pytest.mark.parametrize("model", list(MODELS))
def test_the_bits_of_torch(kernel: str, model: str) -> None:
    weights = quantize(MODELS[model]())
    for budget in range(max(1, weights.sizes.budgets)):
        assert_same(weights, pack(TEXTS), budget)


def test_odd_sizes_and_very_long_texts(kernel: str) -> None:
    texts = [*tiny_texts(3, seed=1, base=LONG), (list(range(100)) * 11)[:1037], [5], [7, 7]]
    assert_same(quantize(tiny_parent(LONG)), pack(texts), 0)
    routed = tiny_routed(tiny_routed_config(LONG, shared_heads=1, shared_neurons=6, experts=4))
    assert_same(quantize(routed), pack(texts), 1)


def test_alone_in_any_batch_and_from_several_threads(kernel: str) -> None:
    forward, _ = int8_forward(quantize(tiny_routed()))
    alone = torch.cat([forward(pack([text]), 1, None) for text in TEXTS])
    generator = np.random.default_rng(0)

    def some(seed: int) -> bool:
        chosen = np.random.default_rng(seed).permutation(len(TEXTS))[:12]
        return torch.equal(forward(pack([TEXTS[index] for index in chosen]), 1, None), alone[chosen])

    with ThreadPoolExecutor(3) as threads:
        assert all(threads.map(some, generator.integers(0, 1000, 40)))


def test_a_compiler_means_a_library() -> None:
    if shutil.which("c++") or shutil.which("g++"):
        assert int8_forward(quantize(tiny_parent()))[1] != "torch", (
            "build it: make setup, in a git worktree make native"
        )


def test_unknown_kernels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "mmx")
    with pytest.raises(OptionError, match="SIFTLINE_KERNEL is 'mmx'; known are"):
        int8_forward(quantize(tiny_parent()))


def test_where_none_was_compiled_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "scalar")
    monkeypatch.setattr("engine.kernels.native.load_library", lambda: None)
    with pytest.raises(OptionError, match=r"install Siftline again where there is a C\+\+ compiler.* or use 'torch'"):
        int8_forward(quantize(tiny_parent()))


def test_torch_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "torch")
    assert int8_forward(quantize(tiny_parent()))[1] == "torch"


def test_without_the_library_torch_computes() -> None:
    code = (
        "from pathlib import Path; import engine.kernels.native as n; n.__file__ = str(Path('nowhere') / 'x.py'); "
        "from tests.engine.tiny import tiny_parent; from engine.weights.quantize import quantize; "
        "print(n.int8_forward(quantize(tiny_parent()))[1])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "torch"
