"""What is measured of the servers, part by part; every function gives figures for the JSON."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

import httpx
import numpy as np
import orjson

from benchmarks.engine_data import ROOT, Data
from benchmarks.load import Load, allow_many_files, closed_loop, one_by_one, open_loop, request_bytes, storm
from benchmarks.serving_subjects import Served
from engine.load import load_encoder

Figures = dict[str, Any]
Start = Callable[[], AbstractContextManager[Served]]
P99_S = 0.1
MIX = {"short": 0.5, "medium": 0.3, "long": 0.2}
"""Shares of questions, news and long texts among arrivals."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How much is measured."""

    rounds: int = 5
    texts_offline: int = 250
    step_s: float = 5.0
    steps: int = 5
    capacity_texts: int = 400
    single: int = 300
    clients: int = 10_000
    storm_s: float = 25.0
    storm_texts: int = 32
    starts: int = 5
    energy_texts: int = 1000
    bits_texts: int = 400


QUICK = Sizes(
    rounds=1,
    texts_offline=60,
    step_s=1.5,
    steps=3,
    capacity_texts=60,
    single=30,
    clients=300,
    storm_s=3.0,
    starts=1,
    energy_texts=60,
    bits_texts=40,
)


def arrivals(data: Data, count: int, *, seed: int) -> list[str]:
    """Texts of mixed lengths in random order.

    Args:
        data: `short` are questions and similarity sentences, `medium` are news; `long` are several news joined.
        count: how many.
        seed: fixes them.
    """
    generator = np.random.default_rng(seed)
    short = [text for name in ("trec", *data.pairs) for text in data.texts.get(name, [])]
    medium = data.texts.get("agnews") or short
    kinds = generator.choice(list(MIX), count, p=list(MIX.values()))
    texts: list[str] = []
    for kind in kinds:
        pool, joined = (short, 1) if kind == "short" else (medium, 1 if kind == "medium" else 5)
        texts.append(" ".join(pool[int(place)] for place in generator.integers(0, len(pool), joined)))
    return texts


def requests_for(served: Served, texts: Sequence[str]) -> list[bytes]:
    """One request for each text."""
    return [
        request_bytes(served.path, {"model": served.model, "input": [text], "encoding_format": "base64"})
        for text in texts
    ]


# --- online ----------------------------------------------------------------------------------------------------------


def online(subjects: dict[str, Start], data: Data, sizes: Sizes) -> Figures:
    """Sustained requests per second at p99 below 100 ms, by server: the highest rate of a search that kept to it."""
    found: dict[str, Figures] = {name: {"capacity": [], "sustained": [], "steps": []} for name in subjects}
    for number in range(sizes.rounds):
        for name, start in subjects.items():
            with start() as served:
                one = _search(served, data, sizes, seed=number)
            for key in ("capacity", "sustained"):
                found[name][key].append(one[key])
            found[name]["steps"].append(one["steps"])
    medians = {name: median(figures["sustained"]) for name, figures in found.items()}
    return {"p99_s": P99_S, "mix": MIX, "subjects": found, "sustained": medians}


def _search(served: Served, data: Data, sizes: Sizes, *, seed: int) -> Figures:
    texts = arrivals(data, sizes.capacity_texts, seed=1000 + seed)
    requests = requests_for(served, texts)
    closed_loop(served.port, requests[: len(requests) // 4], callers=16)
    full = closed_loop(served.port, requests, callers=32)
    capacity = full.statuses[200] / full.seconds
    low, high, best = 0.0, capacity * 1.1, 0.0
    steps: list[Figures] = []
    rate = capacity * 0.8
    for number in range(sizes.steps):
        count = max(20, round(rate * sizes.step_s))
        load = open_loop(
            served.port, requests_for(served, arrivals(data, count, seed=number)), rate, seed=100 * seed + number
        )
        kept = load.statuses[200] == count and load.quantile(0.99) < P99_S
        steps.append({"rate": rate, "p50_s": load.quantile(0.5), "p99_s": load.quantile(0.99), "kept": kept})
        if kept:
            low, best = rate, max(best, rate)
        else:
            high = rate
        rate = (low + high) / 2 if low else high / 2
        _settle(served)
    return {"capacity": capacity, "sustained": best, "steps": steps}


def _settle(served: Served) -> None:
    one_by_one(served.port, requests_for(served, ["Is the queue empty?"]))


# --- a single text ---------------------------------------------------------------------------------------------------


def single(start: Start, data: Data, sizes: Sizes) -> Figures:
    """One short text over HTTP on an idle server, and how much of it is the model, from the server's own counters."""
    texts = data.texts.get("trec") or next(iter(data.texts.values()))
    with start() as served:
        requests = requests_for(served, [texts[number % len(texts)] for number in range(sizes.single)])
        one_by_one(served.port, requests[:20])
        before = counters(served.port)
        load = one_by_one(served.port, requests, pause_s=0.002)
        after = counters(served.port)
    sums = {
        phase: 1000 * (after[f"siftline_{phase}_seconds_sum"] - before[f"siftline_{phase}_seconds_sum"]) / len(requests)
        for phase in ("tokenize", "queue", "infer", "request")
    }
    mean = 1000 * float(np.mean([outcome.seconds for outcome in load.outcomes]))
    return {
        "p50_ms": 1000 * load.quantile(0.5),
        "p99_ms": 1000 * load.quantile(0.99),
        "mean_ms": mean,
        "phases_ms": sums,
        "not_model_frac": 1 - sums["infer"] / mean,
    }


def counters(port: int) -> dict[str, float]:
    """The server's metrics by name with labels."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#"]
    return {name: float(value) for name, value in lines}


# --- overload --------------------------------------------------------------------------------------------------------


def overload(start: Start, data: Data, sizes: Sizes) -> Figures:
    """Far more than the capacity from thousands of clients, all connected: what they are told, memory, recovery."""
    allow_many_files()
    texts = arrivals(data, sizes.storm_texts, seed=5)
    with start() as served:
        fields = {"model": served.model, "input": texts, "encoding_format": "base64"}
        request = request_bytes(served.path, fields)
        warm = closed_loop(served.port, [request] * 8, callers=2)
        capacity = len(warm.outcomes) / warm.seconds
        before = served.memory_mib()
        offered = sizes.clients / sizes.storm_s
        load, peak = _watched(served, [request] * sizes.clients, sizes.storm_s)
        recovery_s = _recovery(served, request, after_s=max(o.seconds for o in warm.outcomes))
        time.sleep(20 if sizes.clients >= 1000 else 1)
        return {
            "clients": sizes.clients,
            "capacity_per_s": capacity,
            "offered_per_s": offered,
            "offered_over_capacity": offered / capacity,
            "statuses": {str(code): count for code, count in sorted(load.statuses.items())},
            "refusals_without_retry_after": sum(o.status in (429, 503) and not o.retry_after for o in load.outcomes),
            "answered_p99_s": load.quantile(0.99),
            "slowest_s": max(outcome.seconds for outcome in load.outcomes),
            "memory_mib": {"before": before, "peak": peak, "after": served.memory_mib()},
            "recovery_s": recovery_s,
        }


def _watched(served: Served, requests: list[bytes], over_s: float) -> tuple[Load, float]:
    """The storm, and the most memory that the server had meanwhile."""
    watching = True

    def watch() -> float:
        peak = 0.0
        while watching:
            peak = max(peak, served.memory_mib())
            time.sleep(0.05)
        return peak

    with ThreadPoolExecutor(1) as watcher:
        peak = watcher.submit(watch)
        load = storm(served.port, requests, over_s=over_s)
        watching = False
        return load, peak.result()


def _recovery(served: Served, request: bytes, *, after_s: float) -> float:
    """Seconds from the end of the storm until a request is answered as fast as before it, twice at most."""
    began = time.monotonic()
    while time.monotonic() - began < 60:
        [outcome] = one_by_one(served.port, [request]).outcomes
        if outcome.status == 200 and outcome.seconds < 2 * after_s:
            return time.monotonic() - began - outcome.seconds
        time.sleep(0.05)
    return float("inf")


# --- the rest --------------------------------------------------------------------------------------------------------


def startup(start: Start, sizes: Sizes) -> Figures:
    """Seconds from the command to the first answer."""
    seconds: list[float] = []
    for _ in range(sizes.starts):
        with start() as served:
            seconds.append(served.start_s)
    return {"seconds": seconds, "median_s": median(seconds)}


def energy(start: Start, data: Data, sizes: Sizes) -> Figures:
    """Joules by 1,000 vectors with the server busy, from its own counter."""
    with start() as served:
        requests = requests_for(served, arrivals(data, sizes.energy_texts, seed=6))
        closed_loop(served.port, requests[:20], callers=16)
        before = counters(served.port)
        load = closed_loop(served.port, requests, callers=32)
        after = counters(served.port)
        text = httpx.get(f"http://127.0.0.1:{served.port}/metrics", timeout=30).text
    [name] = [name for name in after if name.startswith("siftline_energy_joules")]
    joules = after[name] - before[name]
    [words] = [line.split(" ", 3)[3] for line in text.splitlines() if line.startswith("# HELP siftline_energy_joules")]
    return {
        "joules_per_1000": 1000 * joules / load.statuses[200],
        "embeddings_per_joule": load.statuses[200] / joules,
        "estimated": 'estimated="yes"' in name,
        "source": words.removeprefix("Energy "),
        "texts_per_s": load.statuses[200] / load.seconds,
    }


def bits(start: Start, data: Data, sizes: Sizes, *, name: str, precision: str, device: str) -> Figures:
    """Vectors that differ between in-process, over HTTP one by one, over HTTP in batches, and under load."""
    texts = arrivals(data, sizes.bits_texts, seed=7)
    local = load_encoder(name, precision=precision, device=device, threads=1)
    alone = np.concatenate([local.encode([text]) for text in texts])
    together = local.encode(texts)
    with start() as served:
        single_texts = _vectors(one_by_one(served.port, requests_for(served, texts), keep_body=True))
        batches = [
            request_bytes(served.path, {"model": served.model, "input": texts[i : i + 50], "encoding_format": "base64"})
            for i in range(0, len(texts), 50)
        ]
        batched = _vectors(one_by_one(served.port, batches, keep_body=True))
    same = {"in-process, all together": together, "HTTP, one by one": single_texts, "HTTP, 50 at a time": batched}
    differ = {name: int((vectors != alone).any(axis=1).sum()) for name, vectors in same.items()}
    return {"texts": len(texts), "differ": differ}


def _vectors(load: Load) -> np.ndarray:
    rows = [entry["embedding"] for outcome in load.outcomes for entry in orjson.loads(outcome.body)["data"]]
    from base64 import b64decode

    return np.stack([np.frombuffer(b64decode(row), "<f4") for row in rows])


def agreement(subjects: dict[str, Start], data: Data) -> Figures:
    """Least cosine between our vectors and those of the peers: they must be the same model."""
    texts = arrivals(data, 40, seed=8)
    vectors: dict[str, np.ndarray] = {}
    with ExitStack() as stack:
        for name, start in subjects.items():
            served = stack.enter_context(start())
            vectors[name] = _vectors(one_by_one(served.port, requests_for(served, texts), keep_body=True))
    first = next(iter(vectors.values()))
    return {name: float((first * other).sum(axis=1).min()) for name, other in vectors.items()}


def memory(device: str, precision: str) -> Figures:
    """Peak of memory while weights are loaded, and what half of the model's size as a budget costs; see the module."""
    command = [sys.executable, "-m", "benchmarks.serving_memory", "dense", device, precision]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return orjson.loads(ended.stdout)
