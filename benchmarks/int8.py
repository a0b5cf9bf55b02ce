"""Int8 against float32 for one text at a time: latency, by instruction set too, and where the time goes.

    python -m benchmarks.int8 --output docs/benchmarks/int8.json [--parts latency,kernels] [--quick]

Subjects are timed in turns in one run; figures are medians. What 8 bits cost in quality, and many texts beside peers:
`benchmarks.serving`.
"""

import json
import os
from contextlib import suppress
from functools import partial

import numpy as np
import torch

from benchmarks.data.unseen import Data, read_data, texts_of_length
from benchmarks.harness import (
    DOCS,
    Figures,
    add_parts,
    beside_other,
    chosen_parts,
    command,
    environment,
    in_turns,
    routed_file,
    with_other,
)
from benchmarks.pages import keep, render
from benchmarks.serving.offline import dense_forward, own_encoders
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
LENGTHS = (16, 64, 128, 256)
MACS = {
    "queries, keys, values": 6 * 3 * 384 * 384,
    "attention": 6 * 2 * 64 * 384,
    "output": 6 * 384 * 384,
    "feed-forward": 6 * 2 * 384 * 1536,
}
"""Multiplications for a token in the dense encoder, by stage."""


def _one_text(encoders: dict[str, Encoder], data: Data, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of each call with one text, by its tokens and encoder."""
    files = read_minilm()
    tokenizer, found = TextTokenizer(files.tokenizer, vocab=files.config.vocab, max_tokens=256), {}
    for tokens in LENGTHS:
        [text] = texts_of_length(data.everything(), tokenizer, tokens, 1, 0)
        timed = in_turns({name: partial(e.encode, [text]) for name, e in encoders.items()}, rounds)
        found[str(tokens)] = {name: [1e3 * second for second in seconds] for name, seconds in timed.items()}
    return found


def _latency(data: Data, rounds: int) -> Figures:
    """The median, and what 95% of the calls stay below."""
    found = _one_text(own_encoders(1), data, 20 * rounds)
    shown = {
        tokens: {name: {"p50": float(np.median(ms)), "p95": float(np.quantile(ms, 0.95))} for name, ms in row.items()}
        for tokens, row in found.items()
    }
    return {"rounds": 20 * rounds, "ms": shown}


def _kernels(data: Data, rounds: int) -> Figures:
    """Medians in 8 bits by those instruction sets that this machine has."""
    encoders: dict[str, Encoder] = {}
    before = os.environ.pop(VARIABLE, None)
    for kernel in ("avx2", "avx512_vnni", "amx_int8"):
        os.environ[VARIABLE] = kernel
        with suppress(OptionError):
            names = ("dense", "routed")
            encoders |= {f"{kernel} {name}": load_encoder(name, threads=1, precision="int8") for name in names}
    os.environ.pop(VARIABLE)
    os.environ |= {} if before is None else {VARIABLE: before}
    found = _one_text(encoders, data, 20 * rounds)
    medians = {tokens: {name: float(np.median(ms)) for name, ms in row.items()} for tokens, row in found.items()}
    return {"rounds": 20 * rounds, "ms": medians}


def _routed_forward() -> tuple[Forward, int]:
    """The shipped routed encoder in 8 bits, and its main budget."""
    with TensorFile(*shipped("routed")) as file:
        weights, _ = stored_int8(file, 8)
        assert isinstance(weights.config, RoutedConfig)
        return int8_forward(weights)[0], weights.config.budget(DEFAULT_ACTIVE)


def _profile(_: Data, rounds: int) -> Figures:
    """Microseconds a token of each stage of the compiled forward, and how near its products come to the limit here.

    The limit is the fastest product of 8-bit matrices that torch has here, at the size of the feed-forward.
    """
    torch.set_num_threads(1)
    dense, kernel = dense_forward()
    if kernel == "torch":
        raise SystemExit("The profile is of the compiled forward, which is not installed. Run: make setup")
    generator, tokens, rounds = np.random.default_rng(0), 1024, 4 * rounds
    batch = pack([[101, *generator.integers(1000, 20000, 62).tolist(), 102] for _ in range(16)])
    a, b = torch.ones(tokens, 384, dtype=torch.int8), torch.ones(384, 1536, dtype=torch.int8)
    x, weight = torch.randn(tokens, 384), torch.randn(384, 1536)
    limits = in_turns({"int8": lambda: torch._int_mm(a, b), "fp32": lambda: x @ weight}, 5 * rounds)  # type: ignore[attr-defined]
    figures: Figures = {f"{form}_product_gmac_per_s": tokens * 384 * 1536 / 1e9 / min(s) for form, s in limits.items()}
    for name, (forward, budget) in {"dense": (dense, 0), "routed": _routed_forward()}.items():
        forward(batch, budget, None)
        runs = [np.zeros(len(STAGES), np.int64) for _ in range(rounds)]
        for spent in runs:
            forward(batch, budget, None, spent)  # type: ignore[call-arg]
        middle = runs[int(np.argsort([run.sum() for run in runs])[rounds // 2])]
        figures[name] = {stage: float(ns) / 1e3 / tokens for stage, ns in zip(STAGES, middle, strict=True)}
    return {**figures, "dense_macs": MACS}


def pages(figures: Figures) -> dict[str, str]:
    """docs/benchmarks/int8.md."""
    parts = {name: figures[name] for name in PARTS if name in figures}
    return {".md": render("int8.md.j2", {}, parts=parts, with_other=with_other, below=below)}


def below(row: dict[str, float], kernel: str) -> float:
    """By how much routed stays below dense with an instruction set."""
    return 1 - row[f"{kernel} routed"] / row[f"{kernel} dense"]


def main() -> None:
    """Measure and write."""
    parser = command(__doc__, DOCS / "int8.json", data=True)
    add_parts(parser, PARTS)
    parser.add_argument("--quick", action="store_true", help="few texts and rounds, to see that it runs")
    given = parser.parse_args()
    pairs, texts = (300, 60) if given.quick else (None, 1000)
    try:
        data = read_data(given.data, pairs=pairs, texts=texts)
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    figures: Figures = json.loads(given.output.read_text("utf-8")) if given.output.exists() else {}
    measures = {"latency": _latency, "kernels": _kernels, "profile": _profile}
    for part in chosen_parts(parser, given.parts, PARTS):
        found = measures[part](data, 3 if given.quick else 5)
        on = {"quick": given.quick, "kernel": dense_forward()[1], "environment": environment() | routed_file()}
        figures[part] = beside_other({**found, **on}, figures.get(part), "kernel")
        keep(figures, given.output, pages)
        print(json.dumps({part: found}, indent=2), flush=True)


if __name__ == "__main__":
    main()
