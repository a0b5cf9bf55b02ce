"""What is measured of the servers, part by part; every function gives figures for the JSON."""

import json
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from statistics import median
from types import SimpleNamespace

import httpx
import numpy as np
import orjson

from benchmarks.data.unseen import Data
from benchmarks.harness import ROOT, Figures
from benchmarks.serving.load import Load, allow_many_files, closed_loop, one_by_one, open_loop, request_bytes, storm
from benchmarks.serving.servers import PATH, Served
from engine.load import load_encoder

Start = Callable[[], AbstractContextManager[Served]]
P99_S = 0.1
MIX = {"short": 0.5, "medium": 0.3, "long": 0.2}
"""Shares of questions, news and long texts among arrivals."""
SIZES = {
    "rounds": (5, 1),
    "texts_offline": (250, 60),
    "step_s": (5.0, 1.5),
    "steps": (5, 3),
    "capacity_texts": (400, 60),
    "single": (300, 30),
    "clients": (10_000, 300),
    "storm_s": (25.0, 3.0),
    "starts": (5, 1),
    "energy_texts": (1000, 60),
    "bits_texts": (400, 40),
}
"""How much is measured, in full and in a quick run whose figures mean nothing."""
STORM_TEXTS = 32
PHASES = ("tokenize", "queue", "infer", "request")


def sizes(quick: bool, rounds: int | None) -> SimpleNamespace:
    """The sizes of a run, with the rounds that were asked for."""
    chosen = {name: both[quick] for name, both in SIZES.items()}
    return SimpleNamespace(**chosen | ({} if rounds is None else {"rounds": rounds}))


def _arrivals(data: Data, count: int, seed: int) -> list[str]:
    """Texts of mixed lengths in random order; long ones are several news joined."""
    generator = np.random.default_rng(seed)
    short = [text for name in ("trec", *data.pairs) for text in data.texts.get(name, [])]
    medium = data.texts.get("agnews") or short
    texts: list[str] = []
    for kind in generator.choice(list(MIX), count, p=list(MIX.values())):
        pool, joined = (short, 1) if kind == "short" else (medium, 1 if kind == "medium" else 5)
        texts.append(" ".join(pool[int(place)] for place in generator.integers(0, len(pool), joined)))
    return texts


def _request(served: Served, texts: Sequence[str]) -> bytes:
    return request_bytes(PATH, {"model": served.model, "input": list(texts), "encoding_format": "base64"})


def _requests(served: Served, texts: Sequence[str]) -> list[bytes]:
    """One request for each text."""
    return [_request(served, [text]) for text in texts]


def _vectors(load: Load) -> np.ndarray:
    rows = [entry["embedding"] for outcome in load.outcomes for entry in orjson.loads(outcome.body)["data"]]
    return np.stack([np.frombuffer(b64decode(row), "<f4") for row in rows])


def _counters(port: int) -> tuple[dict[str, float], str]:
    """The server's metrics by name with labels, and the text that they stand in."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#"]
    return {name: float(value) for name, value in lines}, text


def online(subjects: dict[str, Start], data: Data, size: SimpleNamespace) -> Figures:
    """Sustained requests per second at p99 below 100 ms, by server: the highest rate of a search that kept to it.

    Beside it the least cosine between our vectors and those of each peer: they must be the same model.
    """
    found: dict[str, Figures] = {name: {"capacity": [], "sustained": [], "steps": []} for name in subjects}
    for number in range(size.rounds):
        for name, start in subjects.items():
            with start() as served:
                one = _search(served, data, size, number)
            for key, value in one.items():
                found[name][key].append(value)
    medians = {name: median(figures["sustained"]) for name, figures in found.items()}
    texts, vectors = _arrivals(data, 40, 8), list[np.ndarray]()
    with ExitStack() as stack:
        for start in subjects.values():
            served = stack.enter_context(start())
            vectors.append(_vectors(one_by_one(served.port, _requests(served, texts), keep_body=True)))
    least = [float((vectors[0] * other).sum(axis=1).min()) for other in vectors]
    cosines = dict(zip(subjects, least, strict=True))
    return {"p99_s": P99_S, "mix": MIX, "subjects": found, "sustained": medians, "least_cosine": cosines}


def _search(served: Served, data: Data, size: SimpleNamespace, seed: int) -> Figures:
    requests = _requests(served, _arrivals(data, size.capacity_texts, 1000 + seed))
    closed_loop(served.port, requests[: len(requests) // 4], callers=16)
    full = closed_loop(served.port, requests, callers=32)
    capacity = full.statuses[200] / full.seconds
    low, high, best, rate = 0.0, capacity * 1.1, 0.0, capacity * 0.8
    steps: list[Figures] = []
    for number in range(size.steps):
        count = max(20, round(rate * size.step_s))
        arriving = _requests(served, _arrivals(data, count, number))
        load = open_loop(served.port, arriving, rate, seed=100 * seed + number)
        kept = load.statuses[200] == count and load.quantile(0.99) < P99_S
        steps.append({"rate": rate, "p50_s": load.quantile(0.5), "p99_s": load.quantile(0.99), "kept": kept})
        low, high, best = (rate, high, max(best, rate)) if kept else (low, rate, best)
        rate = (low + high) / 2 if low else high / 2
        one_by_one(served.port, _requests(served, ["Is the queue empty?"]))
    return {"capacity": capacity, "sustained": best, "steps": steps}


def single(start: Start, data: Data, size: SimpleNamespace) -> Figures:
    """One short text over HTTP on an idle server, and how much of it is the model, from the server's own counters."""
    texts = data.texts.get("trec") or next(iter(data.texts.values()))
    with start() as served:
        requests = _requests(served, [texts[number % len(texts)] for number in range(size.single)])
        one_by_one(served.port, requests[:20])
        before, _ = _counters(served.port)
        load = one_by_one(served.port, requests, pause_s=0.002)
        after, _ = _counters(served.port)
    spent = {phase: after[key] - before[key] for phase in PHASES if (key := f"siftline_{phase}_seconds_sum")}
    phases = {phase: 1000 * seconds / len(requests) for phase, seconds in spent.items()}
    mean = 1000 * float(np.mean([outcome.seconds for outcome in load.outcomes]))
    quantiles = {"p50_ms": 1000 * load.quantile(0.5), "p99_ms": 1000 * load.quantile(0.99)}
    return {**quantiles, "mean_ms": mean, "phases_ms": phases, "not_model_frac": 1 - phases["infer"] / mean}


def overload(start: Start, data: Data, size: SimpleNamespace) -> Figures:
    """Far more than the capacity from thousands of clients, all connected: what they are told, memory, recovery."""
    allow_many_files()
    with start() as served:
        request = _request(served, _arrivals(data, STORM_TEXTS, 5))
        warm = closed_loop(served.port, [request] * 8, callers=2)
        capacity, offered = len(warm.outcomes) / warm.seconds, size.clients / size.storm_s
        before = served.memory_mib()
        load, peak = _watched_storm(served, [request] * size.clients, size.storm_s)
        recovery_s = _recovery(served, request, 2 * max(o.seconds for o in warm.outcomes))
        time.sleep(20 if size.clients >= 1000 else 1)
        return {
            "clients": size.clients,
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


def _watched_storm(served: Served, requests: list[bytes], over_s: float) -> tuple[Load, float]:
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


def _recovery(served: Served, request: bytes, within_s: float) -> float:
    """Seconds from the end of the storm until a request is answered in time again."""
    began = time.monotonic()
    while time.monotonic() - began < 60:
        [outcome] = one_by_one(served.port, [request]).outcomes
        if outcome.status == 200 and outcome.seconds < within_s:
            return time.monotonic() - began - outcome.seconds
        time.sleep(0.05)
    return float("inf")


def startup(start: Start, size: SimpleNamespace) -> Figures:
    """Seconds from the command to the first answer."""
    seconds: list[float] = []
    for _ in range(size.starts):
        with start() as served:
            seconds.append(served.start_s)
    return {"seconds": seconds, "median_s": median(seconds)}


def energy(start: Start, data: Data, size: SimpleNamespace) -> Figures:
    """Joules by 1,000 vectors with the server busy, from its own counter."""
    with start() as served:
        requests = _requests(served, _arrivals(data, size.energy_texts, 6))
        closed_loop(served.port, requests[:20], callers=16)
        before, _ = _counters(served.port)
        load = closed_loop(served.port, requests, callers=32)
        after, text = _counters(served.port)
    [name] = [name for name in after if name.startswith("siftline_energy_joules")]
    [words] = [line.split(" ", 3)[3] for line in text.splitlines() if line.startswith("# HELP siftline_energy_joules")]
    joules, answered = after[name] - before[name], load.statuses[200]
    return {
        "joules_per_1000": 1000 * joules / answered,
        "embeddings_per_joule": answered / joules,
        "estimated": 'estimated="yes"' in name,
        "source": words.removeprefix("Energy "),
        "texts_per_s": answered / load.seconds,
    }


def bits(start: Start, data: Data, size: SimpleNamespace, name: str, precision: str, device: str) -> Figures:
    """Vectors that differ between one by one in-process, all together, over HTTP one by one, and in batches."""
    texts = _arrivals(data, size.bits_texts, 7)
    local = load_encoder(name, precision=precision, device=device, threads=1)
    alone = np.concatenate([local.encode([text]) for text in texts])
    same = {"in-process, all together": local.encode(texts)}
    with start() as served:
        batches = [_request(served, texts[i : i + 50]) for i in range(0, len(texts), 50)]
        for how, requests in (("HTTP, one by one", _requests(served, texts)), ("HTTP, 50 at a time", batches)):
            same[how] = _vectors(one_by_one(served.port, requests, keep_body=True))
    return {"texts": len(texts), "differ": {how: int((v != alone).any(axis=1).sum()) for how, v in same.items()}}


def memory(device: str, precision: str) -> Figures:
    """Peak of memory while weights are loaded, and what half of the model's size as a budget costs; see the module."""
    call = [sys.executable, "-m", "benchmarks.serving.memory", "dense", device, precision]
    return json.loads(subprocess.run(call, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout)
