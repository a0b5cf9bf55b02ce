"""Memory of loading a model, and what a memory budget of half the model costs; prints JSON.

    python -m benchmarks.serving.memory [dense] [cpu] [fp32]

Loading is measured in this process, before anything else has made it large: the growth of resident memory up to its
peak while weights are read, over the bytes of the weights and over what stays. The second alone would hide memory that
the allocator keeps after loading; the first counts 4 MiB of buffers that no model's size changes.
"""

import json
import math
import statistics
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Figures, in_turns
from engine.kernels.native import int8_forward
from engine.load import load_encoder
from engine.model.config import EncoderConfig
from engine.model.dense import DenseEncoder
from engine.weights.in_memory import dense_int8, load_dense_model, load_stored_model, stored_int8
from engine.weights.quantize import Int8Weights, quantize
from engine.weights.safetensors_file import TensorFile
from engine.weights.shipped import MINILM, WEIGHTS, package_files, package_folder, shipped

_FLOATS = {"fp32": torch.float32, "bf16": torch.bfloat16}
ROUNDS = 5
WORDS = ["oil", "wheat", "profit", "dividend", "shares", "quarter", "bank", "trade", "tariff", "ship", "tanker"]


def loading(name: str, precision: str = "fp32", device: str = "cpu") -> dict[str, float]:
    """Growth of memory (on cuda of the device's) by reading the weights: what stays, the most, and their shares."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        memory = [torch.cuda.max_memory_allocated, torch.cuda.memory_allocated]
    else:
        torch.empty(1 << 18).normal_().sum()  # torch's own buffers
        if precision == "int8":
            _quantise_something()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        memory = [partial(_own_bytes, "VmHWM"), partial(_own_bytes, "VmRSS")]
    before = memory[1]()
    model, weights = _load(name, precision, device)
    peak, after = memory[0]() - before, memory[1]() - before
    assert model is not None  # it is held until here
    return {
        "weights_mib": weights / 2**20,
        "resident_mib": after / 2**20,
        "peak_mib": peak / 2**20,
        "loading_over_weights": peak / weights,
        "loading_over_resident": peak / after,
    }


def _own_bytes(what: str) -> int:
    return 1024 * int(Path("/proc/self/status").read_text().split(f"{what}:", 1)[1].split()[0])


def _dense_config() -> EncoderConfig:
    files = package_files(MINILM, without=WEIGHTS)
    return EncoderConfig.from_json(files["config.json"], files["1_Pooling/config.json"])


def _quantise_something() -> None:
    """Bring the code that quantises and packs into memory: 8 MiB of torch's library that no model's size changes."""
    sizes = {"vocab": 64, "positions": 64, "width": 64, "heads": 2, "ffn_width": 64, "layers": 1}
    small = DenseEncoder(replace(_dense_config(), **sizes))
    for weight in small.requires_grad_(False).parameters():
        weight.zero_()
    int8_forward(quantize(small))


def _load(name: str, precision: str, device: str) -> tuple[object, int]:
    """A model, and the bytes of its weights."""
    if name == "dense":
        config = _dense_config()
        with TensorFile(package_folder(MINILM) / WEIGHTS, MINILM.sha256[WEIGHTS]) as file:
            if precision == "int8":
                return _int8(dense_int8(file, config, 8))
            return _float(load_dense_model(file, config, device, _FLOATS[precision]))
    with TensorFile(*shipped("routed")) as file:
        if precision == "int8":
            return _int8(stored_int8(file)[0])
        return _float(load_stored_model(file, device, _FLOATS[precision])[0])


def _float(model: torch.nn.Module) -> tuple[object, int]:
    return model, sum(value.numel() * value.element_size() for value in model.state_dict().values())


def _int8(weights: Int8Weights) -> tuple[object, int]:
    layout = weights.sizes.layout().values()
    return int8_forward(weights)[0], sum(dtype.itemsize * math.prod(shape) for dtype, shape in layout)


def _half_budget(name: str, texts: list[str], weights_mib: float, device: str, precision: str) -> Figures:
    """Time with half of the weights as the memory budget, over the time with all of them in memory."""
    how = {"device": device, "precision": precision}
    full = load_encoder(name, threads=1, **how)
    half = load_encoder(name, memory_budget=int(weights_mib * 2**20 / 2), **how)
    actions = {"full": partial(full.encode, texts), "half": partial(half.encode, texts)}
    seconds = in_turns(actions, ROUNDS, {"full": [], "half": []})
    differ = int((full.encode(texts) != half.encode(texts)).any(axis=1).sum())
    slow_down = statistics.median(a / b for a, b in zip(seconds["half"], seconds["full"], strict=True))
    return {"texts": len(texts), "differ": differ, "slow_down": slow_down, "budget_mib": weights_mib / 2}


def main() -> None:
    """Measure one encoder and print."""
    name, device, precision = [*sys.argv[1:], *("dense", "cpu", "fp32")[len(sys.argv) - 1 :]]
    if device == "cuda":
        found: Figures = {"precision": precision, **loading(name, precision, device)}
    else:
        found = {**loading(name), "int8": loading(name, "int8")}
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(WORDS, length)) for length in generator.integers(5, 120, 150)]
    found["half_budget"] = _half_budget(name, texts, found["weights_mib"], device, precision)
    print(json.dumps({"encoder": name, **found}))


if __name__ == "__main__":
    main()
