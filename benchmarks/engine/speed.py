"""Time of the encoder beside its dense parent: one text, many texts, a step of training.

Whatever is compared runs in turns, text by text or batch by batch, and the order turns with each round: other load on
the machine then hits both sides, and a ratio holds where absolute times do not.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.data.unseen import Data, texts_of_length
from benchmarks.engine.subjects import EncoderFile, Subjects
from benchmarks.harness import Figures, Seconds, in_turns, median_ratio
from engine.model.dense import DenseEncoder, pack
from engine.model.deterministic import use_least_rows
from engine.model.device import computes_bf16
from engine.model.routed import RoutedEncoder
from engine.model.tokenizer import TextTokenizer
from engine.training.corpus import Corpus, Ints, batches, read_corpus, with_joined
from engine.training.distill import Distillation
from engine.training.schedule import Recipe

LENGTHS = (16, 64, 128, 256)
TRAINING_TEXTS = 20_000
NO_RATE = 1e-9
"""Of optimisers and thresholds: steps cost what steps cost, and all of them meet the same model."""


def latency(subjects: Subjects, data: Data, *, texts: int, rounds: int, seed: int) -> Figures:
    """p50 and p95 of one text at exact lengths: the computation in one thread, and `encode([text])` as a whole."""
    points: list[Figures] = []
    everything = data.everything()
    for tokens in LENGTHS:
        compute: Seconds = {subject.name: [] for subject in subjects.main()}
        encode: Seconds = {subject.name: [] for subject in subjects.main()}
        for text in texts_of_length(everything, subjects.tokenizer, tokens, texts, seed):
            batch = pack([encoded.ids for encoded in subjects.tokenizer.encode([text])])
            on_pack = {s.name: lambda s=s, batch=batch: s.compute(batch) for s in subjects.main()}
            on_text = {s.name: lambda s=s, text=text: s.timed_client.encode([text]) for s in subjects.main()}
            for actions, seconds in ((on_pack, compute), (on_text, encode)):
                for name, taken in in_turns(actions, rounds).items():
                    seconds[name] += taken
        for subject in subjects.main():
            figures = {
                name: _quantiles(seconds[subject.name], seconds["dense"])
                for name, seconds in (("compute", compute), ("encode", encode))
            }
            points.append({**subject.facts(), "tokens": tokens, **figures})
    use_least_rows(1)  # this thread is done with single texts
    return {"texts": texts, "rounds": rounds, "threads": 1, "precision": "float32", "seed": seed, "points": points}


def _quantiles(seconds: list[float], dense: list[float]) -> dict[str, float]:
    own, parent = np.quantile(seconds, [0.5, 0.95]), np.quantile(dense, [0.5, 0.95])
    return {
        "p50_ms": round(float(own[0]) * 1e3, 2),
        "p95_ms": round(float(own[1]) * 1e3, 2),
        "below_dense_p50": round(1 - float(own[0] / parent[0]), 3),
        "below_dense_p95": round(1 - float(own[1] / parent[1]), 3),
    }


def throughput(subjects: Subjects, data: Data, *, texts: int, rounds: int, threads: int, seed: int) -> Figures:
    """Texts and tokens per second on real text of mixed length, every budget against the dense parent."""
    everything = data.everything()
    chosen = [everything[n] for n in np.random.default_rng(seed).permutation(len(everything))[:texts]]
    lengths = np.array([len(encoded.ids) for encoded in subjects.tokenizer.encode(chosen)])
    cpu: Seconds = {subject.name: [] for subject in subjects.all()}

    def encode(name: str, call: Callable[[list[str]], object]) -> None:
        began = time.process_time()
        call(chosen)
        cpu[name].append(time.process_time() - began)

    actions = {s.name: lambda s=s: encode(s.name, s.timed_client.encode) for s in subjects.all()}
    in_turns({s.name: lambda s=s: s.timed_client.encode(chosen[:64]) for s in subjects.all()}, 0)  # not counted
    wall = in_turns(actions, rounds, {name: [] for name in actions})
    points: list[Figures] = []
    for subject in subjects.all():
        seconds = float(np.median(wall[subject.name]))
        points.append(
            {
                **subject.facts(),
                "texts_per_s": round(len(chosen) / seconds, 1),
                "tokens_per_s": round(int(lengths.sum()) / seconds),
                "cpu_ms_per_text": round(float(np.median(cpu[subject.name])) / len(chosen) * 1e3, 3),
                "over_dense": median_ratio(wall["dense"], wall[subject.name]),
                "over_dense_cpu": median_ratio(cpu["dense"], cpu[subject.name]),
            }
        )
    return {
        "texts": len(chosen),
        "tokens_per_text": {
            "mean": round(float(lengths.mean()), 1),
            "quartiles": [round(float(q)) for q in np.quantile(lengths, [0.25, 0.5, 0.75])],
        },
        "rounds": rounds,
        "threads": threads,
        "precision": "float32",
        "seed": seed,
        "points": points,
    }


def training(
    subjects: Subjects, data: Data, *, count: int, tokens: int, rounds: int, threads: int, seed: int
) -> Figures:
    """Seconds of a step of distillation at the main budget, really skipping, against the same step done densely.

    Ways: "skipped" computes only the heads and experts that are on; "as_distilled" is what `Distillation.run` does: all
    heads, and a mask on them; "masked" computes all experts too, on the same model; "full_depth_masked" does that with
    every layer of the parent. A step holds forward, backward, clipping and both optimisers; the parent's vectors are
    known by then.
    """
    encoder, parent = subjects.encoder, subjects.dense.model
    assert isinstance(parent, DenseEncoder)
    corpus = with_joined(_corpus(data, subjects.tokenizer), 0.15, longest=256, seed=seed)
    budget = encoder.budgets.index(encoder.main_budget)
    only = tuple(float(place == budget) for place in range(len(encoder.budgets)))
    recipe = Recipe(steps=1_000_000, tokens=tokens, rate=NO_RATE, budgets=only, seed=seed)
    before = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(threads)
        runs = {
            name: Distillation(model, parent, corpus, recipe, Path(folder) / name, main_budget=budget)
            for name, model in (("same", encoder.fresh()), ("full_depth", at_full_depth(encoder)))
        }
        try:
            figures = _steps(
                runs, batches(corpus, np.arange(len(corpus)), tokens=tokens, seed=seed, epoch=0)[:count], rounds
            )
        finally:
            torch.set_num_threads(before)
    return {
        "active": encoder.main_budget,
        "batches": count,
        "tokens_per_batch": tokens,
        "rounds": rounds,
        "threads": threads,
        "precision": "bfloat16" if computes_bf16("cpu") else "float32",
        "seed": seed,
        **figures,
    }


def _steps(runs: Mapping[str, Distillation], plan: list[Ints], rounds: int) -> Figures:
    targets = {name: run.targets() for name, run in runs.items()}
    losses: dict[str, list[float]] = {}

    def step(way: str, texts: Ints) -> None:
        name = "full_depth" if way == "full_depth_masked" else "same"
        run = runs[name]
        run.model.compute_masked(heads=way != "skipped", experts=way.endswith("masked"))
        losses.setdefault(way, []).append(run.train_step(texts, targets[name]))

    def forward(texts: Ints) -> None:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=computes_bf16("cpu")):
            parent.states(pack([corpus.text(int(text)).tolist() for text in texts]))

    parent, corpus = runs["same"].parent, runs["same"].corpus
    ways = ("skipped", "as_distilled", "masked", "full_depth_masked")
    seconds: Seconds = {name: [] for name in (*ways, "parent_forward")}
    with ExitStack() as stack:
        for run in runs.values():
            stack.enter_context(run.model.controlled(NO_RATE))
        for texts in plan:
            actions: dict[str, Callable[[], object]] = {way: lambda w=way, t=texts: step(w, t) for way in ways}
            actions["parent_forward"] = lambda t=texts: forward(t)
            # The first round is not counted: products of new shapes are compiled, the parent's vectors filled in.
            for name, taken in in_turns(actions, rounds).items():
                seconds[name] += taken
    masked, skipped = np.array(losses["masked"]), np.array(losses["skipped"])
    return {
        "step_s": {name: round(float(np.median(times)), 4) for name, times in seconds.items()},
        "over_masked": {way: median_ratio(seconds[way], seconds["masked"]) for way in ways},
        "over_full_depth_masked": {way: median_ratio(seconds[way], seconds["full_depth_masked"]) for way in ways},
        "loss_difference": round(float(np.abs(skipped / masked - 1).max()), 5),
    }


def _corpus(data: Data, tokenizer: TextTokenizer) -> Corpus:
    if data.unlabelled:
        return read_corpus(data.unlabelled, tokenizer, limit=TRAINING_TEXTS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.txt"
        path.write_text("\n".join(" ".join(text.split()) for text in data.everything()), "utf-8")
        return read_corpus([path], tokenizer)


def at_full_depth(encoder: EncoderFile) -> RoutedEncoder:
    """A model of the encoder's shape with every layer of the parent: its nearest layers stand in for those left out."""
    model = encoder.fresh()
    kept = model.config.kept
    config = replace(model.config, kept=tuple(range(model.config.base.layers)))
    nearest = [min(range(len(kept)), key=lambda place: abs(kept[place] - layer)) for layer in config.kept]
    with torch.device("meta"):
        full = RoutedEncoder(config)
    state = model.state_dict()
    whole: dict[str, torch.Tensor] = {}
    for name in full.state_dict():
        part = name.split(".", 2)
        source = ".".join(["layers", str(nearest[int(part[1])]), part[2]]) if part[0] == "layers" else name
        whole[name] = state[source].clone()
    full.load_state_dict(whole, assign=True)
    return full.requires_grad_(True)
