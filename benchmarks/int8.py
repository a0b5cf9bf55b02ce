"""Int8 against float32 and against its peers: quality, latency, throughput, and where the time goes.

    python -m benchmarks.int8 --output docs/benchmarks/int8.json [--parts quality,latency] [--quick]

Subjects are timed in turns in one run; figures are medians. Peers (sentence-transformers in torch, ONNX int8, OpenVINO
int8) live in `.venv-peers-embedding` (a link will do), made on first use with their exported models; one that cannot be
made is named in the figures, not left out.
The page docs/benchmarks/int8.md is written from the JSON.
"""

import argparse
import csv
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr

from benchmarks.engine_data import Data, data_folder, read_data, texts_of_length
from benchmarks.environment import environment
from benchmarks.int8_page import page
from engine.client import DEFAULT_ACTIVE, Encoder, load_encoder
from engine.config import RoutedConfig
from engine.encoder import dense_encoder, pack
from engine.errors import OptionError
from engine.int8 import Forward
from engine.native import STAGES, VARIABLE, int8_forward
from engine.quantize import quantize
from engine.streaming import TensorFile, routed_int8
from engine.tokenizer import TextTokenizer
from engine.weights import MINILM, read_minilm, shipped_routed

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-peers-embedding"
PACKAGES = (
    "torch==2.13.0",
    "sentence-transformers==5.7.0",
    "transformers==4.57.6",
    "optimum-onnx[onnxruntime]==0.1.0",
    "onnxruntime==1.32.0",
    "optimum-intel[openvino]==1.27.0",
    "openvino==2026.4.1",
    "nncf==3.4.0",
    "datasets==5.0.1",
)
OWN = (("dense", "fp32"), ("routed", "fp32"), ("dense", "int8"), ("routed", "int8"))
ON_CUDA = (("dense", "bf16"), ("routed", "bf16"))
"""Forms whose quality is measured too where there is a CUDA device."""
PARTS = ("quality", "latency", "kernels", "throughput", "profile")
NAMES = ("dense", "routed")
BACKENDS = ("torch", "onnx", "openvino")
LENGTHS = (16, 64, 128, 256)


def subjects(threads: int) -> dict[str, Encoder]:
    """Our encoders by name."""
    return {f"{name} {form}": load_encoder(name, threads=threads, precision=form) for name, form in OWN}


def quality(data: Data) -> dict[str, Any]:
    """Spearman on similarity pairs and mean cosine on unseen texts, each against the same encoder in float32."""
    figures: dict[str, Any] = {}
    [(name, rows)] = list(data.pairs.items())[:1]
    gold = [row[2] for row in rows]
    unseen = data.everything()
    there = ON_CUDA if torch.cuda.is_available() else ()
    for kind, form in (*OWN, ("dense", "int4"), ("routed", "int4"), *there):
        encoder = load_encoder(kind, precision=form, device="cuda" if (kind, form) in there else "cpu")
        first, second = encoder.encode([row[0] for row in rows]), encoder.encode([row[1] for row in rows])
        figures[f"{kind} {form}"] = {"spearman": float(spearmanr((first * second).sum(axis=1), gold).statistic)}
        vectors = encoder.encode(unseen)
        if form == "fp32":
            figures[f"{kind} {form}"]["vectors"] = vectors
        cosines = (vectors * figures[f"{kind} fp32"]["vectors"]).sum(axis=1)
        figures[f"{kind} {form}"] |= {
            "of_fp32": figures[f"{kind} {form}"]["spearman"] / figures[f"{kind} fp32"]["spearman"],
            "cosine": float(cosines.mean()),
        }
    for figure in figures.values():
        figure.pop("vectors", None)
    return {"pairs": len(rows), "set": name, "texts": len(unseen), "encoders": figures}


def in_turns(actions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each action in each round, one after another, after one call that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for counted in range(rounds + 1):
        for name, action in actions.items():
            began = time.perf_counter()
            action()
            if counted:
                seconds[name].append(time.perf_counter() - began)
    return seconds


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


class Peer:
    """One backend of sentence-transformers in its own process."""

    def __init__(self, backend: str, threads: int) -> None:
        module = importlib.util.find_spec(MINILM.module)
        assert module is not None
        assert module.submodule_search_locations
        source = Path(next(iter(module.submodule_search_locations))) / "model"
        # To a file: progress bars of an export would fill a pipe that nobody reads.
        self._log = PEERS / f"{backend}.log"
        command = [PEERS / "bin" / "python", Path(__file__).with_name("int8_peers.py")]
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [*map(str, command), backend, str(source), str(PEERS / "models"), str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
            )
        self._answer()

    def encode(self, texts: list[str]) -> float:
        """Seconds that the peer took."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(texts) + "\n")
        self._process.stdin.flush()
        return self._answer()["seconds"]

    def _answer(self) -> Any:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith(("{", '"ready"')):  # libraries print there too
                return json.loads(line)
        lines = self._log.read_text("utf-8", errors="replace").split("\n")
        raise ChildProcessError(f"ended with {self._process.wait()}: {next(filter(None, reversed(lines)), '')}")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def peers(threads: int, calibration: list[str]) -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers that could be started, and why the others could not."""
    if not (PEERS / ".done").exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
        subprocess.run([str(PEERS / "bin" / "pip"), "install", "-q", *PACKAGES], check=True)
        (PEERS / ".done").touch()
    (PEERS / "models" / "calibration").mkdir(parents=True, exist_ok=True)
    with (PEERS / "models" / "calibration" / "train.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text"], *[[text] for text in calibration]])
    found: dict[str, Peer] = {}
    missing: dict[str, str] = {}
    for backend in BACKENDS:
        try:
            found[f"sentence-transformers {backend}"] = Peer(backend, threads)
        except ChildProcessError as error:
            missing[f"sentence-transformers {backend}"] = str(error)
    return found, missing


def throughput(data: Data, rounds: int, texts: int, threads: int) -> dict[str, Any]:
    """Texts per second, by set of texts and subject."""
    files = read_minilm()
    tokenizer = TextTokenizer(files.tokenizer, vocab=files.config.vocab, max_tokens=256)
    everything = data.everything()
    sets = {
        "short (questions)": data.texts["trec"][:texts],
        "medium (news)": data.texts["agnews"][: texts // 2],
        "long (256 tokens)": texts_of_length(everything, tokenizer, 256, texts // 8, 0),
    }
    running, missing = peers(threads, everything[:300])
    found: dict[str, Any] = {}
    try:
        for name, members in sets.items():
            own = {key: partial(e.encode, members) for key, e in subjects(threads).items()}
            others = {key: partial(p.encode, members) for key, p in running.items()}
            timed = in_turns(own | others, rounds)
            found[name] = {key: len(members) / statistics.median(seconds) for key, seconds in timed.items()}
    finally:
        for peer in running.values():
            peer.close()
    return {"rounds": rounds, "threads": threads, "texts_per_s": found, "missing": missing}


def dense_forward() -> tuple[Forward, str]:
    """The dense encoder in 8 bits, and the kernel."""
    files = read_minilm()
    return int8_forward(quantize(dense_encoder(files.config, files.tensors)))


def routed_forward() -> tuple[Forward, int]:
    """The shipped routed encoder in 8 bits, and its main budget."""
    with TensorFile(*shipped_routed()) as file:
        weights, _ = routed_int8(file, 8)
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


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks" / "int8.json")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="few texts and rounds, to see that it runs")
    given = parser.parse_args()
    rounds = 3 if given.quick else 5
    data = read_data(
        data_folder(given.data), pairs=300 if given.quick else None, texts=60 if given.quick else 1000, seed=0
    )
    figures: dict[str, Any] = json.loads(given.output.read_text("utf-8")) if given.output.exists() else {}
    for part in given.parts.split(","):
        measured = {
            "quality": lambda: quality(data),
            "latency": lambda: latency(data, 20 * rounds),
            "kernels": lambda: kernels(data, 20 * rounds),
            "throughput": lambda: throughput(data, rounds, 60 if given.quick else 250, given.threads),
            "profile": lambda: profile(4 * rounds),
        }[part]()
        kernel = dense_forward()[1]
        figures[part] = {**measured, "quick": given.quick, "kernel": kernel, "environment": environment()}
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
        given.output.with_suffix(".md").write_text(page(figures), "utf-8")
        print(json.dumps({part: measured}, indent=2), flush=True)


if __name__ == "__main__":
    main()
