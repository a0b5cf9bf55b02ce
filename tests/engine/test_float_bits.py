"""The compiled float32 forward gives torch's vectors, with the same bits by every instruction set and in any batch."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine.errors import OptionError
from engine.kernels.native import KERNELS, VARIABLE
from engine.kernels.native.float32 import float_forward, torch_forward
from engine.load import load_encoder
from engine.model.config import EncoderConfig
from engine.model.dense import DenseEncoder, pack
from engine.model.routed import RoutedEncoder
from engine.model.trace import Forward, LayerTrace
from engine.weights.in_memory import dense_encoder, load_stored_model
from engine.weights.routed_file import write_routed
from engine.weights.safetensors_file import TensorFile
from engine.weights.streamed import StreamedLayers, streamed_dense, streamed_stored
from tests.engine.test_int8_bits import MODELS
from tests.engine.texts import make_texts
from tests.engine.tiny import (
    BASE,
    tiny_parent,
    tiny_routed,
    tiny_routed_config,
    tiny_tensors,
    tiny_texts,
    tiny_tokenizer,
)

TEXTS = tiny_texts(30, seed=3, longest=40)
LONG = EncoderConfig(vocab=100, width=36, layers=2, heads=4, ffn_width=500, positions=400, norm_eps=1e-12)
"""Odd sizes: no width is a multiple of a vector's, chains of inputs are cut, and texts are longer than a block."""
DEEP = replace(BASE, layers=4)
LONG_TEXTS = [*tiny_texts(3, seed=1, base=LONG), (list(range(100)) * 4)[:333], [5], [7, 7]]
FORWARDS = [name for name in KERNELS if name not in ("auto", "torch")]


def forward_of(model: DenseEncoder | RoutedEncoder, kernel: str, monkeypatch: pytest.MonkeyPatch) -> Forward:
    monkeypatch.setenv(VARIABLE, kernel)
    try:
        forward, name = float_forward(model)
    except OptionError as error:
        pytest.skip(str(error))
    assert name != "torch"
    return forward


def vectors(
    forward: Forward, texts: list[list[int]], budget: int, trace: list[LayerTrace] | None = None
) -> torch.Tensor:
    with torch.inference_mode():
        return forward(pack(texts), budget, trace)


def odd_models() -> list[DenseEncoder | RoutedEncoder]:
    shape = tiny_routed_config(LONG, shared_heads=1, shared_neurons=452, experts=4)
    return [tiny_parent(LONG), tiny_routed(shape)]


@pytest.mark.parametrize("kernel", FORWARDS)
@pytest.mark.parametrize("kind", list(MODELS))
def test_the_vectors_and_choices_of_torch_by_every_instruction_set(
    kind: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MODELS[kind]()
    forward, plain = forward_of(model, kernel, monkeypatch), forward_of(model, "scalar", monkeypatch)
    for budget in range(len(model.config.budgets) if isinstance(model, RoutedEncoder) else 1):
        here, there = list[LayerTrace](), list[LayerTrace]()
        found = vectors(forward, TEXTS, budget, here)
        expected = vectors(torch_forward(model), TEXTS, budget, there)
        assert (found - expected).abs().max() < 2e-6
        assert torch.equal(found, vectors(plain, TEXTS, budget))
        assert len(here) == len(there)
        for ours, theirs in zip(here, there, strict=True):
            assert torch.equal(ours.on_SH, theirs.on_SH)
            assert torch.equal(ours.on_TE, theirs.on_TE)


@pytest.mark.parametrize("kernel", FORWARDS)
def test_odd_sizes_and_long_texts(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for model in odd_models():
        forward, plain = forward_of(model, kernel, monkeypatch), forward_of(model, "scalar", monkeypatch)
        found = vectors(forward, LONG_TEXTS, 0)
        assert (found - vectors(torch_forward(model), LONG_TEXTS, 0)).abs().max() < 2e-6
        assert torch.equal(found, vectors(plain, LONG_TEXTS, 0))
        for number, text in enumerate(LONG_TEXTS):
            assert torch.equal(vectors(forward, [text], 0)[0], found[number])


@pytest.mark.parametrize("kernel", FORWARDS)
@pytest.mark.parametrize("kind", list(MODELS))
def test_alone_in_any_batch_and_from_several_threads(kind: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = forward_of(MODELS[kind](), kernel, monkeypatch)
    alone = torch.cat([vectors(forward, [text], 0) for text in TEXTS])

    def same(seed: int) -> bool:
        chosen = np.random.default_rng(seed).permutation(len(TEXTS))[:12]
        return torch.equal(vectors(forward, [TEXTS[index] for index in chosen], 0), alone[chosen])

    with ThreadPoolExecutor(3) as threads:
        assert all(threads.map(same, range(20)))


def least_bytes(model: DenseEncoder | RoutedEncoder) -> int:
    """Memory for what is needed at any rate, and two layers at a time."""

    def size(module: torch.nn.Module) -> int:
        return sum(value.numel() * 4 for value in module.state_dict().values())

    return size(model) - size(model.tokens) - (len(model.layers) - 2) * size(model.layers[0])


@pytest.mark.parametrize("kind", ["dense", "routed"])
def test_layers_that_are_read_for_each_batch_give_the_same_bits(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    whole: DenseEncoder | RoutedEncoder
    streamed: DenseEncoder | RoutedEncoder | None
    if kind == "dense":
        save_file(tiny_tensors(DEEP), path)
        whole = dense_encoder(DEEP, tiny_tensors(DEEP))
        streamed = streamed_dense(TensorFile(path), DEEP, least_bytes(whole))
    else:
        write_routed(path, tiny_routed(tiny_routed_config(DEEP)), tiny_tokenizer())
        whole, _ = load_stored_model(TensorFile(path))
        loaded = streamed_stored(TensorFile(path), least_bytes(whole))
        streamed = None if loaded is None else loaded[0]
    assert streamed is not None
    assert isinstance(streamed.layers, StreamedLayers)
    here, there = (forward_of(model, "auto", monkeypatch) for model in (streamed, whole))
    for seed in range(3):
        texts = tiny_texts(6, seed=seed)
        assert torch.equal(vectors(here, texts, 0), vectors(there, texts, 0))


@pytest.mark.parametrize("kernel", FORWARDS)
def test_what_is_off_is_not_read(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_routed()
    forward = forward_of(model, kernel, monkeypatch)
    for router in model.routers():
        router.thresholds_B[0] = torch.inf
    expected = vectors(forward, TEXTS, 0)
    with torch.no_grad():
        for place in range(len(model.layers)):
            attention, part = model.layer(place).attention, model.layer(place).feed_forward
            for weight in (attention.qkv, attention.output, part.up, part.down):
                weight.fill_(torch.nan)
    assert torch.equal(vectors(forward, TEXTS, 0), expected)
    assert not torch.isfinite(vectors(forward, TEXTS, 3)).any()


@pytest.mark.parametrize("name", ["dense", "routed"])
def test_torch_computes_where_it_is_asked_for_under_another_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = make_texts(30, longest=20, seed=8)
    compiled = load_encoder(name, max_tokens=64, threads=1)
    monkeypatch.setenv(VARIABLE, "torch")
    plain = load_encoder(name, max_tokens=64, threads=1)
    assert plain.encoder_id != compiled.encoder_id
    expected = plain.encode(texts)
    assert np.abs(compiled.encode(texts) - expected).max() < 2e-6
    assert np.array_equal(np.concatenate([plain.encode([text]) for text in texts]), expected)


def test_an_instruction_set_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "mmx")
    with pytest.raises(OptionError, match="SIFTLINE_KERNEL is 'mmx'; known are"):
        float_forward(tiny_parent())


def test_where_none_was_compiled_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "avx2")
    monkeypatch.setattr("engine.kernels.native.float32.load_library", lambda: None)
    with pytest.raises(OptionError, match=r"install Siftline again where there is a C\+\+ compiler.* or use 'torch'"):
        float_forward(tiny_parent())
