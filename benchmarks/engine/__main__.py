"""The bars of the routed encoder: quality by budget, latency, throughput, cost of training, same bits, and controls.

    python -m benchmarks.engine --output docs/benchmarks/engine.json
    python -m benchmarks.engine --parts quality,throughput --controls layers.safetensors random.safetensors
    python -m benchmarks.engine --quick

Everything is compared with the dense parent, in turns, in one run on one machine; a figure is a median. JSON goes to
stdout or to the output file, where parts of earlier runs, and controls not given now, are kept; those of another file
of the encoder say so. On two quiet cores it takes a quarter of an hour, more with controls; the part `bits` is more
than half of it.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import torch

from benchmarks.data.unseen import mixed_texts, read_data
from benchmarks.engine.quality import quality, same_bits
from benchmarks.engine.speed import latency, throughput, training
from benchmarks.engine.subjects import Subjects, embedding_params, layer_params, read_controls, read_encoder, subjects
from benchmarks.engine.verdicts import PARTS, bars, pages
from benchmarks.harness import (
    Figures,
    add_parts,
    beside_other,
    chosen_parts,
    command,
    earlier_figures,
    environment,
    measured,
)
from benchmarks.pages import keep
from engine.errors import EngineError

SIZES = {
    "pairs": (None, 100),
    "texts": (1000, 25),
    "latency_texts": (20, 3),
    "latency_rounds": (12, 3),
    "throughput_texts": (1500, 60),
    "throughput_rounds": (5, 2),
    "training_batches": (8, 2),
    "training_tokens": (4096, 512),
    "training_rounds": (3, 1),
    "bits_texts": (10_000, 150),
    "batchings": (50, 3),
}
"""How much is measured, in full and in a quick run whose figures mean nothing."""
SEED = 0


def main() -> None:
    """Measure, print bars and JSON, write where asked."""
    parser = command(__doc__, data=True)
    add_parts(parser, PARTS)
    parser.add_argument("--encoder", default="routed", help="routed (the shipped one, default), or a .safetensors file")
    parser.add_argument("--controls", nargs="+", default=[], metavar="FILE", help="further encoders, files or names")
    parser.add_argument("--quick", action="store_true", help="a smoke run of under a minute; its figures mean nothing")
    threads = "worker threads where many texts are encoded (default 2)"
    parser.add_argument("--threads", type=int, default=2, help=threads)
    given = parser.parse_args()
    names = chosen_parts(parser, given.parts, PARTS)
    try:
        figures = _measure(given, names)
    except (EngineError, FileNotFoundError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    for bar in (bar for part in names for bar in bars(figures)[part]):
        print(f"{bar.verdict}: {bar.asked}. {bar.found}", file=sys.stderr)
    if not given.output:
        print(json.dumps(figures, indent=2))


def _measure(given: argparse.Namespace, names: list[str]) -> Figures:
    """All figures asked for, and those of an earlier run that still hold."""
    size = {name: both[given.quick] for name, both in SIZES.items()}
    before = earlier_figures(given.output, "engine")
    if any(part["measured"]["quick"] is not given.quick for part in before.get("parts", {}).values()):
        raise ValueError(f"{given.output} has figures of a full run and this is a quick one, or the other way round.")
    torch.set_num_threads(1)  # a part that needs more says so; encoders bring their own workers
    data = read_data(given.data, pairs=size["pairs"], texts=size["texts"], seed=SEED)
    encoders = subjects(read_encoder(given.encoder), read_controls(given.controls), threads=given.threads)
    figures = {**_head(encoders, given), "parts": {}}
    if before:
        figures["parts"] = still_valid(before, figures["controls"])
        figures["controls"] = {**before["controls"], **figures["controls"]}
    how_much = {"seed": SEED, "threads": given.threads}
    texts = {"texts": size["throughput_texts"], "rounds": size["throughput_rounds"]}
    steps = {"count": size["training_batches"], "tokens": size["training_tokens"], "rounds": size["training_rounds"]}
    single = {"texts": size["latency_texts"], "rounds": size["latency_rounds"]}
    mixed = partial(mixed_texts, data, size["bits_texts"], seed=SEED)
    measures = {
        "quality": partial(quality, encoders, data, seed=SEED),
        "latency": partial(latency, encoders, data, seed=SEED, **single),
        "throughput": partial(throughput, encoders, data, **texts, **how_much),
        "training": partial(training, encoders, data, **steps, **how_much),
        "bits": lambda: same_bits(encoders, mixed(), batchings=size["batchings"], seed=SEED),
    }
    for name in names:
        found, how = measured(measures[name])
        on = {key: figures[key] for key in ("command", "commit", "uncommitted_changes", "processor", "cores")}
        on |= {"encoder": figures["encoder"]["sha256"], **how, "quick": given.quick}
        add_part(figures["parts"], name, found, on)
        keep(figures, given.output, pages)  # a long run that breaks off keeps what it has
    return figures


def _head(encoders: Subjects, given: argparse.Namespace) -> Figures:
    """What was measured, and on what."""
    words = ["python -m benchmarks.engine", *(["--quick"] if given.quick else [])]
    words += ["--encoder", Path(given.encoder).name] if given.encoder != "routed" else []
    words += ["--controls", *(Path(control).name for control in given.controls)] if given.controls else []
    words += ["--data", given.data.name] if given.data else []
    parent = encoders.dense.model
    layers, embeddings = layer_params(parent), embedding_params(parent)
    ids = {f"{subject.active:g}": subject.client.encoder_id for subject in encoders.routed}
    return {
        "benchmark": "engine",
        "command": " ".join([*words, "--output docs/benchmarks/engine.json"]),
        **environment(),
        "seed": SEED,
        "threads": given.threads,
        "encoder": {**encoders.encoder.facts(), "encoder_ids": ids},
        "parent": {
            "encoder_id": encoders.dense.client.encoder_id,
            "layers": parent.config.layers,
            "layer_params": layers,
            "all_params": layers + embeddings,
        },
        "controls": {s.file.name: s.file.facts() for s in encoders.controls if s.file is not None},
    }


def still_valid(before: Figures, controls: Figures) -> Figures:
    """The parts of an earlier run without the points of controls that now have other weights.

    Each part then says of which file of the encoder it is.
    """
    former = before["controls"]
    changed = {name for name in controls if name in former and former[name]["sha256"] != controls[name]["sha256"]}
    parts: Figures = json.loads(json.dumps(before["parts"]))
    for part in parts.values():
        part["measured"].setdefault("encoder", before["encoder"]["sha256"])
        if "points" in part["figures"]:
            part["figures"]["points"] = [p for p in part["figures"]["points"] if p["encoder"] not in changed]
    return parts


def add_part(parts: Figures, name: str, found: Figures, on: Figures) -> None:
    """Put new figures of a part in place of its former ones.

    Points of controls that were not measured again stay, with the commit at which they were; so does a training step in
    the other precision, of a machine that has or lacks bfloat16.
    """
    former, kept = parts.get(name), dict[str, str]()
    if former is not None and "points" in found:
        new = {point["encoder"] for point in found["points"]}
        old = [point for point in former["figures"]["points"] if point["encoder"] not in new]
        commits = {point["encoder"]: former["measured"]["commit"] for point in old}
        kept = {control: former["measured"].get("kept", {}).get(control, commit) for control, commit in commits.items()}
        found = {**found, "points": [*found["points"], *old]}
    if former is not None and name == "training":
        found = beside_other(found, {**former["figures"], "measured": former["measured"]}, "precision")
    parts[name] = {"measured": {**on, "kept": kept}, "figures": found}


if __name__ == "__main__":
    main()
