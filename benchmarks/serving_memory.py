"""Memory of loading a model, and what a memory budget of half the model costs; prints JSON.

    python -m benchmarks.serving_memory

Loading is measured in this process, before anything else has made it large: the growth of resident memory up to its
peak while weights are read, over the bytes of the weights. Not over what stays: memory that the allocator keeps after
loading would then hide itself.
"""

import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from engine.client import Encoder, load_encoder
from engine.config import EncoderConfig
from engine.streaming import TensorFile, load_dense_model, load_routed_model
from engine.weights import MINILM, package_files, package_folder, shipped_routed

WEIGHTS = "model.safetensors"
ROUNDS = 5


def _memory_kib(what: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{what}:", 1)[1].split()[0])


def loading(name: str) -> dict[str, float]:
    """Growth of memory by reading the weights of an encoder: what stays, at most, and that over the weights."""
    torch.empty(1 << 18).normal_().sum()  # torch's own buffers
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _memory_kib("VmRSS")
    if name == "dense":
        files = package_files(MINILM, without=WEIGHTS)
        config = EncoderConfig.from_json(files["config.json"], files["1_Pooling/config.json"])
        with TensorFile(package_folder(MINILM) / WEIGHTS, MINILM.sha256[WEIGHTS]) as file:
            model: torch.nn.Module = load_dense_model(file, config)
    else:
        path, sha256 = shipped_routed()
        with TensorFile(path, sha256) as file:
            model, _ = load_routed_model(file)
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    peak, after = _memory_kib("VmHWM") - before, _memory_kib("VmRSS") - before
    return {
        "weights_mib": weights / 2**20,
        "resident_mib": after / 1024,
        "peak_mib": peak / 1024,
        "loading_over_weights": peak * 1024 / weights,
    }


def half_budget(name: str, texts: list[str], weights_mib: float) -> dict[str, Any]:
    """Time with half of the weights as the memory budget, over the time with all of them in memory."""
    full = load_encoder(name, threads=1)
    half = load_encoder(name, memory_budget=int(weights_mib * 2**20 / 2))
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
    found: dict[str, Any] = dict(loading(name))
    generator = np.random.default_rng(0)
    words = ("oil", "wheat", "profit", "dividend", "shares", "quarter", "bank", "trade", "tariff", "ship", "tanker")
    texts = [" ".join(generator.choice(words, length)) for length in generator.integers(5, 120, 150)]
    found["half_budget"] = half_budget(name, texts, found["weights_mib"])
    print(json.dumps({"encoder": name, **found}))


if __name__ == "__main__":
    main()
