"""Memory of loading a model, and what a memory budget of half the model costs; prints JSON.

    python -m benchmarks.serving_memory
    python -m benchmarks.serving_memory dense cuda bf16

Loading is measured in this process, before anything else has made it large: the growth of resident memory up to its
peak while weights are read, over the bytes of the weights and over what stays. The second alone would hide memory that
the allocator keeps after loading; the first counts 4 MiB of buffers that no model's size changes.
"""

import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from engine.kernels.native import int8_forward
from engine.load import load_encoder
from engine.model.config import EncoderConfig
from engine.model.dense import DenseEncoder
from engine.protocol import Encoder
from engine.weights.in_memory import dense_int8, load_dense_model, load_stored_model, stored_int8
from engine.weights.quantize import Int8Weights, quantize
from engine.weights.safetensors_file import TensorFile
from engine.weights.shipped import MINILM, WEIGHTS, package_files, package_folder, shipped

_FLOATS = {"fp32": torch.float32, "bf16": torch.bfloat16}
ROUNDS = 5


def _memory_kib(what: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{what}:", 1)[1].split()[0])


def loading(name: str, precision: str = "fp32") -> dict[str, float]:
    """Growth of memory by reading the weights of an encoder: what stays, at most, and that over the weights."""
    torch.empty(1 << 18).normal_().sum()  # torch's own buffers
    if precision == "int8":
        _quantise_something()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _memory_kib("VmRSS")
    model, weights = _load(name, precision)
    peak, after = _memory_kib("VmHWM") - before, _memory_kib("VmRSS") - before
    assert model is not None  # it is held until here
    return {
        "weights_mib": weights / 2**20,
        "resident_mib": after / 1024,
        "peak_mib": peak / 1024,
        "loading_over_weights": peak * 1024 / weights,
        "loading_over_resident": peak / after,
    }


def loading_on_cuda(name: str, precision: str) -> dict[str, float]:
    """The same of the device's memory, as torch's allocator counts it."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model, weights = _load(name, precision, "cuda")
    peak, after = torch.cuda.max_memory_allocated() - before, torch.cuda.memory_allocated() - before
    assert model is not None
    return {
        "weights_mib": weights / 2**20,
        "resident_mib": after / 2**20,
        "peak_mib": peak / 2**20,
        "loading_over_weights": peak / weights,
        "loading_over_resident": peak / after,
    }


def _quantise_something() -> None:
    """Bring the code that quantises and packs into memory: 8 MiB of torch's library that no model's size changes."""
    files = package_files(MINILM, without=WEIGHTS)
    config = EncoderConfig.from_json(files["config.json"], files["1_Pooling/config.json"])
    small = DenseEncoder(replace(config, vocab=64, positions=64, width=64, heads=2, ffn_width=64, layers=1))
    for weight in small.requires_grad_(False).parameters():
        weight.zero_()
    int8_forward(quantize(small))


def _load(name: str, precision: str, device: str = "cpu") -> tuple[object, int]:
    """A model, and the bytes of its weights."""
    if name == "dense":
        files = package_files(MINILM, without=WEIGHTS)
        config = EncoderConfig.from_json(files["config.json"], files["1_Pooling/config.json"])
        with TensorFile(package_folder(MINILM) / WEIGHTS, MINILM.sha256[WEIGHTS]) as file:
            if precision == "int8":
                return _int8(dense_int8(file, config, 8))
            return _float(load_dense_model(file, config, device, _FLOATS[precision]))
    path, sha256 = shipped("routed")
    with TensorFile(path, sha256) as file:
        if precision == "int8":
            return _int8(stored_int8(file)[0])
        return _float(load_stored_model(file, device, _FLOATS[precision])[0])


def _float(model: torch.nn.Module) -> tuple[object, int]:
    return model, sum(value.numel() * value.element_size() for value in model.state_dict().values())


def _int8(weights: Int8Weights) -> tuple[object, int]:
    layout = weights.sizes.layout().values()
    return int8_forward(weights)[0], sum(dtype.itemsize * math.prod(shape) for dtype, shape in layout)


def half_budget(name: str, texts: list[str], weights_mib: float, device: str, precision: str) -> dict[str, Any]:
    """Time with half of the weights as the memory budget, over the time with all of them in memory."""
    full = load_encoder(name, threads=1, device=device, precision=precision)
    budget = int(weights_mib * 2**20 / 2)
    half = load_encoder(name, memory_budget=budget, device=device, precision=precision)
    seconds: dict[str, list[float]] = {"full": [], "half": []}
    for _ in range(ROUNDS):
        for kind, encoder in (("full", full), ("half", half)):
            seconds[kind].append(_timed(encoder, texts))
    differ = int((full.encode(texts) != half.encode(texts)).any(axis=1).sum())
    ratios = [slow / fast for slow, fast in zip(seconds["half"], seconds["full"], strict=True)]
    return {"texts": len(texts), "differ": differ, "slow_down": median(ratios), "budget_mib": weights_mib / 2}


def _timed(encoder: Encoder, texts: list[str]) -> float:
    began = time.monotonic()
    encoder.encode(texts)
    return time.monotonic() - began


def main() -> None:
    """Measure one encoder and print."""
    name = sys.argv[1] if len(sys.argv) > 1 else "dense"
    device = sys.argv[2] if len(sys.argv) > 2 else "cpu"
    precision = sys.argv[3] if len(sys.argv) > 3 else "fp32"
    if device == "cuda":
        found: dict[str, Any] = {"precision": precision, **loading_on_cuda(name, precision)}
    else:
        found = {**loading(name), "int8": loading(name, "int8")}
    generator = np.random.default_rng(0)
    words = ("oil", "wheat", "profit", "dividend", "shares", "quarter", "bank", "trade", "tariff", "ship", "tanker")
    texts = [" ".join(generator.choice(words, length)) for length in generator.integers(5, 120, 150)]
    found["half_budget"] = half_budget(name, texts, found["weights_mib"], device, precision)
    print(json.dumps({"encoder": name, **found}))


if __name__ == "__main__":
    main()
