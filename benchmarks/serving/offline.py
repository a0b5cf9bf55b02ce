"""Many texts at once, in this process: throughput beside sentence-transformers, and what fewer bits cost in quality.

Two parts of `benchmarks.serving`. Peers (sentence-transformers in torch, ONNX int8, OpenVINO int8) run in
`benchmarks.peers.embedding`; one that cannot be started is named in the figures. Subjects are timed in turns.
"""

import csv
import json
import os
import statistics
import subprocess
from functools import partial
from pathlib import Path

from scipy.stats import spearmanr

from benchmarks.data.files import sample
from benchmarks.data.unseen import Data
from benchmarks.harness import ROOT, Figures, in_turns, peer_python
from engine.kernels.native import int8_forward
from engine.load import load_encoder
from engine.model.trace import Forward
from engine.protocol import Encoder
from engine.weights.in_memory import dense_encoder
from engine.weights.quantize import quantize
from engine.weights.shipped import MINILM, package_folder, read_minilm

OWN = {
    "cpu": [(name, form) for form in ("fp32", "int8") for name in ("dense", "routed")],
    "cuda": [(name, form) for form in ("fp32", "bf16") for name in ("dense", "routed")],
}
"""Encoders and precisions by device."""
SMALL = [("dense", "int4"), ("routed", "int4")]
BACKENDS = {"cpu": ("torch", "onnx", "openvino"), "cuda": ("torch",)}
PEER = "sentence-transformers "


def own_encoders(threads: int | None, device: str = "cpu") -> dict[str, Encoder]:
    """Our encoders by name."""
    how = {"threads": threads, "device": device}
    return {f"{name} {form}": load_encoder(name, precision=form, **how) for name, form in OWN[device]}


def dense_forward() -> tuple[Forward, str]:
    """The dense encoder in 8 bits, and the kernel."""
    files = read_minilm()
    return int8_forward(quantize(dense_encoder(files.config, files.tensors)))


def quality(data: Data, device: str = "cpu") -> Figures:
    """Spearman on similarity pairs and mean cosine on unseen texts, each against the same encoder in float32."""
    figures, whole = Figures(), Figures()
    name, rows = next(iter(data.pairs.items()))
    gold, unseen = [row[2] for row in rows], data.everything()
    for kind, form in (*OWN[device], *(SMALL if device == "cpu" else ())):
        encoder = load_encoder(kind, precision=form, device=device)
        first, second = encoder.encode([row[0] for row in rows]), encoder.encode([row[1] for row in rows])
        spearman, vectors = float(spearmanr((first * second).sum(axis=1), gold).statistic), encoder.encode(unseen)
        if form == "fp32":
            whole[kind] = spearman, vectors
        cosine = float((vectors * whole[kind][1]).sum(axis=1).mean())
        figures[f"{kind} {form}"] = {"spearman": spearman, "of_fp32": spearman / whole[kind][0], "cosine": cosine}
    return {"pairs": len(rows), "set": name, "texts": len(unseen), "encoders": figures}


class _Peer:
    """One backend of sentence-transformers in its own process.

    Raises:
        ChildProcessError: it cannot be started.
    """

    def __init__(self, backend: str, threads: int, device: str, work: Path) -> None:
        # To a file: progress bars of an export would fill a pipe that nobody reads.
        self._log = work / f"{backend}.log"
        call = [peer_python("embedding"), "-m", "benchmarks.peers.embedding", backend, package_folder(MINILM), work]
        with self._log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [*map(str, call), str(threads), device],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
            )
        self._answer()

    def encode(self, texts: list[str]) -> None:
        """Wait for the peer's vectors, which stay there."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(texts) + "\n")
        self.process.stdin.flush()
        self._answer()

    def _answer(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("siftline "):  # libraries print there too
                return
        lines = self._log.read_text("utf-8", errors="replace").split("\n")
        raise ChildProcessError(f"ended with {self.process.wait()}: {next(filter(None, reversed(lines)), '')}")


def _peers(threads: int, calibration: list[str], device: str) -> tuple[dict[str, _Peer], dict[str, str]]:
    """The peers that could be started, and why the others could not."""
    found, missing = dict[str, _Peer](), dict[str, str]()
    for backend in BACKENDS[device]:
        try:
            work = peer_python("embedding").parents[1] / "models"
            (work / "calibration").mkdir(parents=True, exist_ok=True)
            with (work / "calibration" / "train.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([["text"], *[[text] for text in calibration]])
            found[PEER + backend] = _Peer(backend, threads, device, work)
        except ChildProcessError as error:
            missing[PEER + backend] = str(error)
    return found, missing


def throughput(data: Data, rounds: int, texts: int, threads: int, device: str = "cpu") -> Figures:
    """Texts per second, by set of texts and subject. Texts are real ones of any length, cut at 256 tokens."""
    news = [text for text, _, _ in sample("20newsgroups")[1] if text.strip()]
    sets = {
        "short (questions)": data.texts["trec"][:texts],
        "medium (news)": data.texts["agnews"][: texts // 2],
        "long (newsgroups)": news[: texts // 2],
    }
    running, missing = _peers(threads, data.everything()[:300], device)
    own, found = own_encoders(threads if device == "cpu" else None, device), Figures()
    try:
        for name, members in sets.items():
            encoders = {**own, **running}
            timed = in_turns({key: partial(e.encode, members) for key, e in encoders.items()}, rounds)
            found[name] = {key: len(members) / statistics.median(seconds) for key, seconds in timed.items()}
    finally:
        for peer in running.values():
            peer.process.kill()
            peer.process.communicate()
    told = {"rounds": rounds, "threads": threads, "kernel": dense_forward()[1]}
    return {**told, "texts_per_s": found, "missing": missing}
