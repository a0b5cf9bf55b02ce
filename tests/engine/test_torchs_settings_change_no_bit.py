"""What a program tells torch for its own models, in the same process, is nothing to an encoder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import OptionError
from engine.kernels.native import VARIABLE
from engine.load import load_encoder
from engine.protocol import Encoder
from engine.weights.routed_file import write_routed
from tests.engine.test_float_bits import DEEP, least_bytes
from tests.engine.texts import make_texts
from tests.engine.tiny import tiny_routed, tiny_routed_config, tiny_tokenizer

TEXTS = make_texts(20, longest=40, seed=4)


@contextmanager
def default_type(dtype: torch.dtype) -> Iterator[None]:
    """As libraries set it while they load a model of half precision."""
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kernel", ["auto", "torch"])
@pytest.mark.parametrize("way", ["whole", "streamed", "int8"])
def test_the_default_type_of_tensors(
    way: str, kernel: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, kernel)
    model = tiny_routed(tiny_routed_config(DEEP))
    write_routed(tmp_path / "tiny.safetensors", model, tiny_tokenizer())
    budget = least_bytes(model) if way == "streamed" else None

    def load() -> Encoder:
        precision = "int8" if way == "int8" else "fp32"
        return load_encoder(
            str(tmp_path / "tiny.safetensors"), max_tokens=64, threads=1, precision=precision, memory_budget=budget
        )

    encoder = load()
    expected = encoder.encode(TEXTS)
    with default_type(dtype):
        assert np.array_equal(encoder.encode(TEXTS), expected)
        there = load()
        assert np.array_equal(there.encode(TEXTS), expected)
    assert there.encoder_id == encoder.encoder_id


def test_rounded_products_are_refused_where_torch_makes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As programs ask for them to train faster. Processors with AVX512 then round to bfloat16."""
    write_routed(tmp_path / "tiny.safetensors", tiny_routed(), tiny_tokenizer())
    for kernel in ("auto", "torch"):
        monkeypatch.setenv(VARIABLE, kernel)
        encoder = load_encoder(str(tmp_path / "tiny.safetensors"), max_tokens=64, threads=1)
        expected = encoder.encode(TEXTS)
        torch.set_float32_matmul_precision("medium")
        try:
            if kernel == "auto":
                assert np.array_equal(encoder.encode(TEXTS), expected)
            else:
                with pytest.raises(OptionError, match=r"Call torch\.set_float32_matmul_precision"):
                    encoder.encode(TEXTS)
        finally:
            torch.set_float32_matmul_precision("highest")
