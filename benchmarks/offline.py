"""Many texts at once, in this process: throughput beside sentence-transformers, and what fewer bits cost in quality.

Two parts of `benchmarks.serving`. Peers (sentence-transformers in torch, ONNX int8, OpenVINO int8) live in
`.venv-peers-embedding` (a link will do), made on first use with their exported models; one that cannot be made is named
in the figures, not left out. Subjects are timed in turns in one run; figures are medians.
"""

import csv
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from scipy.stats import spearmanr

from benchmarks.engine_data import ROOT, Data
from engine.kernels.native import int8_forward
from engine.load import load_encoder
from engine.model.trace import Forward
from engine.protocol import Encoder
from engine.weights.in_memory import dense_encoder
from engine.weights.quantize import quantize
from engine.weights.shipped import MINILM, read_minilm
from features.ingest.samples import get_sample

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
OWN = {
    "cpu": (("dense", "fp32"), ("routed", "fp32"), ("dense", "int8"), ("routed", "int8")),
    "cuda": (("dense", "fp32"), ("routed", "fp32"), ("dense", "bf16"), ("routed", "bf16")),
}
"""Encoders and precisions by device."""
SMALL = (("dense", "int4"), ("routed", "int4"))
BACKENDS = {"cpu": ("torch", "onnx", "openvino"), "cuda": ("torch",)}


def subjects(threads: int | None, device: str = "cpu") -> dict[str, Encoder]:
    """Our encoders by name."""
    return {
        f"{name} {form}": load_encoder(name, threads=threads, precision=form, device=device)
        for name, form in OWN[device]
    }


def quality(data: Data, device: str = "cpu") -> dict[str, Any]:
    """Spearman on similarity pairs and mean cosine on unseen texts, each against the same encoder in float32."""
    figures: dict[str, Any] = {}
    [(name, rows)] = list(data.pairs.items())[:1]
    gold = [row[2] for row in rows]
    unseen = data.everything()
    for kind, form in (*OWN[device], *(SMALL if device == "cpu" else ())):
        encoder = load_encoder(kind, precision=form, device=device)
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


def dense_forward() -> tuple[Forward, str]:
    """The dense encoder in 8 bits, and the kernel."""
    files = read_minilm()
    return int8_forward(quantize(dense_encoder(files.config, files.tensors)))


class Peer:
    """One backend of sentence-transformers in its own process."""

    def __init__(self, backend: str, threads: int, device: str) -> None:
        module = importlib.util.find_spec(MINILM.module)
        assert module is not None
        assert module.submodule_search_locations
        source = Path(next(iter(module.submodule_search_locations))) / "model"
        # To a file: progress bars of an export would fill a pipe that nobody reads.
        self._log = PEERS / f"{backend}.log"
        command = [PEERS / "bin" / "python", Path(__file__).with_name("offline_peers.py")]
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [*map(str, command), backend, str(source), str(PEERS / "models"), str(threads), device],
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


def peers(threads: int, calibration: list[str], device: str) -> tuple[dict[str, Peer], dict[str, str]]:
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
    for backend in BACKENDS[device]:
        try:
            found[f"sentence-transformers {backend}"] = Peer(backend, threads, device)
        except ChildProcessError as error:
            missing[f"sentence-transformers {backend}"] = str(error)
    return found, missing


def throughput(data: Data, rounds: int, texts: int, threads: int, device: str = "cpu") -> dict[str, Any]:
    """Texts per second, by set of texts and subject. Texts are real ones of any length, cut at 256 tokens."""
    sets = {
        "short (questions)": data.texts["trec"][:texts],
        "medium (news)": data.texts["agnews"][: texts // 2],
        "long (newsgroups)": _newsgroups(texts // 2),
    }
    running, missing = peers(threads, data.everything()[:300], device)
    own, found = subjects(threads if device == "cpu" else None, device), {}
    try:
        for name, members in sets.items():
            mine = {key: partial(e.encode, members) for key, e in own.items()}
            others = {key: partial(p.encode, members) for key, p in running.items()}
            timed = in_turns(mine | others, rounds)
            found[name] = {key: len(members) / statistics.median(seconds) for key, seconds in timed.items()}
    finally:
        for peer in running.values():
            peer.close()
    return {
        "rounds": rounds,
        "threads": threads,
        "kernel": dense_forward()[1],
        "texts_per_s": found,
        "missing": missing,
    }


def _newsgroups(count: int) -> list[str]:
    files = get_sample("20newsgroups", ROOT / ".cache" / "selection" / "20newsgroups")
    texts: list[str] = pq.read_table(files.items, filters=[("split", "==", "test")]).column("text").to_pylist()
    return [text for text in texts if text.strip()][:count]
