"""Int8 against float32 for one text at a time: latency, by instruction set too, and where the time goes.

    python -m benchmarks.int8 --output docs/benchmarks/int8.json [--parts latency,kernels] [--quick]

Subjects are timed in turns in one run; figures are medians. What 8 bits cost in quality, and many texts beside peers:
`benchmarks.serving`. The page docs/benchmarks/int8.md is written from the JSON.
"""

import argparse
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.engine_data import ROOT, Data, data_folder, read_data, texts_of_length
from benchmarks.environment import environment
from benchmarks.int8_page import page
from benchmarks.offline import dense_forward, in_turns, subjects
from benchmarks.routed_file import routed_file
from engine.errors import OptionError
from engine.kernels.native import STAGES, VARIABLE, int8_forward
from engine.load import load_encoder
from engine.model.config import RoutedConfig
from engine.model.dense import pack
from engine.model.tokenizer import TextTokenizer
from engine.model.trace import Forward
from engine.protocol import DEFAULT_ACTIVE, Encoder
from engine.weights.in_memory import stored_int8
from engine.weights.safetensors_file import TensorFile
from engine.weights.shipped import read_minilm, shipped

PARTS = ("latency", "kernels", "profile")
NAMES = ("dense", "routed")
LENGTHS = (16, 64, 128, 256)


def latency(data: Data, rounds: int) -> dict[str, Any]:
    """Milliseconds of one text of so many tokens: the median and what 95% of the calls stay below."""
    files = read_minilm()
    tokenizer = TextTokenizer(files.tokenizer, vocab=files.config.vocab, max_tokens=256)
    own, found = subjects(1), {}
    for tokens in LENGTHS:
        [text] = texts_of_length(data.everything(), tokenizer, tokens, 1, 0)
        timed = in_turns({name: partial(e.encode, [text]) for name, e in own.items()}, rounds)
        found[str(tokens)] = {
            name: {"p50": 1e3 * float(np.median(seconds)), "p95": 1e3 * float(np.quantile(seconds, 0.95))}
            for name, seconds in timed.items()
        }
    return {"rounds": rounds, "ms": found}


def kernels(data: Data, rounds: int) -> dict[str, Any]:
    """Milliseconds of one text in 8 bits, dense and routed, by instruction set: median; those that this machine has."""
    files = read_minilm()
    tokenizer = TextTokenizer(files.tokenizer, vocab=files.config.vocab, max_tokens=256)
    encoders: dict[str, Encoder] = {}
    before = os.environ.get(VARIABLE)
    for kernel in ("avx2", "avx512_vnni", "amx_int8"):
        os.environ[VARIABLE] = kernel
        with suppress(OptionError):
            encoders |= {f"{kernel} {name}": load_encoder(name, threads=1, precision="int8") for name in NAMES}
    os.environ.pop(VARIABLE)
    if before is not None:
        os.environ[VARIABLE] = before
    found: dict[str, Any] = {}
    for tokens in LENGTHS:
        [text] = texts_of_length(data.everything(), tokenizer, tokens, 1, 0)
        timed = in_turns({name: partial(e.encode, [text]) for name, e in encoders.items()}, rounds)
        found[str(tokens)] = {name: 1e3 * float(np.median(seconds)) for name, seconds in timed.items()}
    return {"rounds": rounds, "ms": found}


def routed_forward() -> tuple[Forward, int]:
    """The shipped routed encoder in 8 bits, and its main budget."""
    with TensorFile(*shipped("routed")) as file:
        weights, _ = stored_int8(file, 8)
        assert isinstance(weights.config, RoutedConfig)
        return int8_forward(weights)[0], weights.config.budget(DEFAULT_ACTIVE)


def profile(rounds: int) -> dict[str, Any]:
    """Microseconds a token of each stage of the compiled forward, and how near its products come to the limit here.

    The limit is the fastest product of 8-bit matrices that torch has here, at the size of the feed-forward.
    """
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    batch = pack([[101, *generator.integers(1000, 20000, 62).tolist(), 102] for _ in range(16)])
    tokens = 1024
    a, b = torch.ones(tokens, 384, dtype=torch.int8), torch.ones(384, 1536, dtype=torch.int8)
    x, weight = torch.randn(tokens, 384), torch.randn(384, 1536)
    limits = in_turns({"int8": lambda: torch._int_mm(a, b), "fp32": lambda: x @ weight}, 5 * rounds)  # type: ignore[attr-defined]
    product = tokens * 384 * 1536 / 1e9
    figures: dict[str, Any] = {f"{form}_product_gmac_per_s": product / min(s) for form, s in limits.items()}
    dense, kernel = dense_forward()
    if kernel == "torch":
        raise SystemExit("The profile is of the compiled forward, which is not installed. Run: make setup")
    for name, (forward, budget) in {"dense": (dense, 0), "routed": routed_forward()}.items():
        forward(batch, budget, None)
        runs: list[npt.NDArray[np.int64]] = []
        for _ in range(rounds):
            spent = np.zeros(len(STAGES), np.int64)
            forward(batch, budget, None, spent)  # type: ignore[call-arg]
            runs.append(spent)
        middle = runs[int(np.argsort([run.sum() for run in runs])[rounds // 2])]
        figures[name] = {stage: float(ns) / 1e3 / tokens for stage, ns in zip(STAGES, middle, strict=True)}
    layers = 6
    figures["dense_macs"] = {
        "queries, keys, values": layers * 3 * 384 * 384,
        "attention": layers * 2 * 64 * 384,
        "output": layers * 384 * 384,
        "feed-forward": layers * 2 * 384 * 1536,
    }
    return figures


def beside_others(measured: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    """New figures of a part, and as `other` the last ones of a processor with other instructions.

    Args:
        measured: the new figures.
        before: the part as it stood; None where it was not measured.
    """
    former = dict(before or {})
    other = former.pop("other", None)
    if former and former["kernel"] != measured["kernel"]:
        other = former
    return {**measured, **({"other": other} if other else {})}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks" / "int8.json")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--quick", action="store_true", help="few texts and rounds, to see that it runs")
    given = parser.parse_args()
    if set(given.parts.split(",")) - set(PARTS):
        parser.error(f"--parts is {given.parts}; it takes some of {', '.join(PARTS)}")
    rounds = 3 if given.quick else 5
    pairs, texts = (300, 60) if given.quick else (None, 1000)
    try:
        data = read_data(data_folder(given.data), pairs=pairs, texts=texts, seed=0)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from None
    earlier = json.loads(given.output.read_text("utf-8")) if given.output.exists() else {}
    figures: dict[str, Any] = {part: earlier[part] for part in PARTS if part in earlier}
    for part in given.parts.split(","):
        measured = {
            "latency": lambda: latency(data, 20 * rounds),
            "kernels": lambda: kernels(data, 20 * rounds),
            "profile": lambda: profile(4 * rounds),
        }[part]()
        kernel = dense_forward()[1]
        measured_on = environment() | routed_file()
        told = {**measured, "quick": given.quick, "kernel": kernel, "environment": measured_on}
        figures[part] = beside_others(told, earlier.get(part))
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
        given.output.with_suffix(".md").write_text(page(figures), "utf-8")
        print(json.dumps({part: measured}, indent=2), flush=True)


if __name__ == "__main__":
    main()
