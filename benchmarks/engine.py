"""The bars of the routed encoder: quality by budget, latency, throughput, cost of training, same bits, and controls.

    python -m benchmarks.engine --output docs/benchmarks/engine.json
    python -m benchmarks.engine --parts quality,throughput --controls layers.safetensors random.safetensors
    python -m benchmarks.engine --quick

Everything is compared with the dense parent, in turns, in one run on one machine; a figure is a median. Tables go to
stderr, JSON to stdout or to the output file, where parts of earlier runs, and controls not given now, are kept; those
of another file of the encoder say so. On
two quiet cores it takes a quarter of an hour, more with controls; the part `bits` is more than half of it.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Collection
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.earlier import earlier_figures
from benchmarks.engine_bars import Figures
from benchmarks.engine_data import VARIABLE, Data, data_folder, mixed_texts, read_data
from benchmarks.engine_quality import quality, same_bits
from benchmarks.engine_report import show
from benchmarks.engine_speed import latency, throughput, training
from benchmarks.engine_subjects import Subjects, embedding_params, layer_params, read_controls, read_encoder, subjects
from benchmarks.environment import environment
from engine.errors import EngineError
from engine.model.dense import DenseEncoder


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How much is measured. Attributes: pairs of a similarity set, texts of any other set, then by part."""

    pairs: int | None = None
    texts: int = 1000
    latency_texts: int = 20
    latency_rounds: int = 12
    throughput_texts: int = 1500
    throughput_rounds: int = 5
    training_batches: int = 8
    training_tokens: int = 4096
    training_rounds: int = 3
    bits_texts: int = 10_000
    batchings: int = 50


QUICK = Sizes(
    pairs=100,
    texts=25,
    latency_texts=3,
    latency_rounds=3,
    throughput_texts=60,
    throughput_rounds=2,
    training_batches=2,
    training_tokens=512,
    training_rounds=1,
    bits_texts=150,
    batchings=3,
)
"""Shows that all works; the figures mean nothing."""
PARTS = ("quality", "latency", "throughput", "training", "bits")
SEED = 0


def main() -> None:
    """Measure, print tables and JSON, write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="routed", help="routed (the shipped one, default), or a .safetensors file")
    parser.add_argument(
        "--controls", nargs="+", default=[], metavar="FILE", help="further encoders, files or names, to compare"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help=f"data folder; else {VARIABLE}, else ../shared/data")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of %(default)s, with commas between them")
    parser.add_argument("--quick", action="store_true", help="a smoke run of under a minute; its figures mean nothing")
    parser.add_argument(
        "--threads", type=int, default=2, help="worker threads where many texts are encoded (default 2)"
    )
    parser.add_argument("--output", type=Path, help="JSON file; parts measured before with the same encoder stay in it")
    arguments = parser.parse_args()
    names = [name for name in PARTS if name in arguments.parts.split(",")]
    if not names or set(arguments.parts.split(",")) - set(PARTS):
        parser.error(f"--parts is {arguments.parts}; it takes some of {', '.join(PARTS)}")
    try:
        figures = _measure(arguments, names)
    except (EngineError, FileNotFoundError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    if not arguments.output:
        print(json.dumps(figures, indent=2))


def _measure(arguments: argparse.Namespace, names: list[str]) -> Figures:
    """All figures asked for, and those of an earlier run that still hold."""
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 160)
    sizes = QUICK if arguments.quick else Sizes()
    before = _earlier(arguments.output, quick=arguments.quick)
    torch.set_num_threads(1)  # a part that needs more says so; encoders bring their own workers
    data = read_data(data_folder(arguments.data), pairs=sizes.pairs, texts=sizes.texts, seed=SEED)
    measured = subjects(read_encoder(arguments.encoder), read_controls(arguments.controls), threads=arguments.threads)
    figures = {**_head(measured, arguments), "parts": {}}
    if before is not None:
        changed = _changed(before, figures)
        figures["parts"] = parts_without(before, changed)
        figures["controls"] = {**before["controls"], **figures["controls"]}
        for control in sorted(changed):
            console.print(f"{arguments.output} holds figures of another file of {control}; they are left out.")
        if before["encoder"]["sha256"] != figures["encoder"]["sha256"]:
            console.print(f"{arguments.output} holds figures of another file of the encoder; the page says of which.")
    for name, measure in _parts(measured, data, sizes, arguments.threads).items():
        if name not in names:
            continue
        load, began = os.getloadavg()[0], time.monotonic()
        found = measure()
        on = {key: figures[key] for key in ("command", "commit", "uncommitted_changes", "processor", "cores")}
        on |= {"encoder": figures["encoder"]["sha256"], "kept": keep_points(found, figures["parts"].get(name))}
        if name == "training":
            keep_other_precision(found, figures["parts"].get(name))
        passed = round(time.monotonic() - began, 1)
        loads = [round(value, 1) for value in (load, os.getloadavg()[0])]
        figures["parts"][name] = {
            "measured": {**on, "load": loads, "seconds": passed, "quick": arguments.quick},
            "figures": found,
        }
        figures["parts"] = {known: figures["parts"][known] for known in PARTS if known in figures["parts"]}
        if arguments.output:  # a long run that breaks off keeps what it has
            arguments.output.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
        show(figures, [name], console)
    return figures


def _parts(measured: Subjects, data: Data, sizes: Sizes, threads: int) -> dict[str, Callable[[], Figures]]:
    return {
        "quality": lambda: quality(measured, data, seed=SEED),
        "latency": lambda: latency(measured, data, texts=sizes.latency_texts, rounds=sizes.latency_rounds, seed=SEED),
        "throughput": lambda: throughput(
            measured,
            data,
            texts=sizes.throughput_texts,
            rounds=sizes.throughput_rounds,
            threads=threads,
            seed=SEED,
        ),
        "training": lambda: training(
            measured,
            data,
            count=sizes.training_batches,
            tokens=sizes.training_tokens,
            rounds=sizes.training_rounds,
            threads=threads,
            seed=SEED,
        ),
        "bits": lambda: same_bits(
            measured, mixed_texts(data, sizes.bits_texts, seed=SEED), batchings=sizes.batchings, seed=SEED
        ),
    }


def _command(arguments: argparse.Namespace) -> str:
    """The command of these figures, without the places of files."""
    words = ["python -m benchmarks.engine", *(["--quick"] if arguments.quick else [])]
    if arguments.encoder != "routed":
        words += ["--encoder", Path(arguments.encoder).name]
    if arguments.controls:
        words += ["--controls", *(Path(control).name for control in arguments.controls)]
    if arguments.data:
        words += ["--data", arguments.data.name]
    return " ".join([*words, "--output docs/benchmarks/engine.json"])


def _head(measured: Subjects, arguments: argparse.Namespace) -> Figures:
    """What was measured, and on what."""
    parent = measured.dense.model
    assert isinstance(parent, DenseEncoder)
    controls = {s.file.name: s.file.facts() for s in measured.controls if s.file is not None}
    return {
        "benchmark": "engine",
        "command": _command(arguments),
        **environment(),
        "seed": SEED,
        "threads": arguments.threads,
        "encoder": {
            **measured.encoder.facts(),
            "encoder_ids": {f"{subject.active:g}": subject.client.encoder_id for subject in measured.routed},
        },
        "parent": {
            "encoder_id": measured.dense.client.encoder_id,
            "layers": parent.config.layers,
            "layer_params": layer_params(parent),
            "all_params": layer_params(parent) + embedding_params(parent),
        },
        "controls": controls,
    }


def _earlier(path: Path | None, *, quick: bool) -> Figures | None:
    """Figures that the output file holds already.

    Raises:
        ValueError: a quick run would be mixed into a full one, or the other way round; or see `earlier_figures`.
    """
    figures: Figures = earlier_figures(path, "engine")
    if not figures:
        return None
    if any(part["measured"]["quick"] is not quick for part in figures["parts"].values()):
        kinds = "a full run, this is a quick one" if quick else "a quick run, this is a full one"
        raise ValueError(f"{path} holds figures of {kinds}. Give another --output, or delete it.")
    return figures


def _changed(before: Figures, now: Figures) -> set[str]:
    """Controls that have the same name and other weights.

    The ids of encoders also tell the processor and the code of the last run; each part names its own.
    """
    shared = before["controls"].keys() & now["controls"].keys()
    return {name for name in shared if before["controls"][name]["sha256"] != now["controls"][name]["sha256"]}


def keep_points(found: Figures, earlier: Figures | None) -> dict[str, str]:
    """Add to a part's new figures those that it had of controls which were not measured again.

    Args:
        found: new figures of the part.
        earlier: the part before; None where it was not measured.

    Returns:
        The commit at which each of these controls was measured.
    """
    measured = {point["encoder"] for point in found.get("points", [])}
    if earlier is None or not measured:
        return {}
    old = [point for point in earlier["figures"]["points"] if point["encoder"] not in measured]
    found["points"] += old
    commits = dict.fromkeys((point["encoder"] for point in old), earlier["measured"]["commit"])
    return {name: earlier["measured"].get("kept", {}).get(name, commit) for name, commit in commits.items()}


def keep_other_precision(found: Figures, earlier: Figures | None) -> None:
    """Add to new figures of a training step those in the other precision, of a machine that has or lacks bfloat16.

    Args:
        found: new figures; takes the others as "other", with what they were measured on.
        earlier: the part before; None where it was not measured.
    """
    if earlier is None:
        return
    before = dict(earlier["figures"])
    other = before.pop("other", None)
    if before["precision"] != found["precision"]:
        other = {**before, "measured": earlier["measured"]}
    if other is not None:
        found["other"] = other


def parts_without(before: Figures, controls: Collection[str]) -> Figures:
    """Parts of earlier figures without those of some controls; each says of which file of the encoder it is."""
    parts: Figures = deepcopy(before["parts"])
    for part in parts.values():
        part["measured"].setdefault("encoder", before["encoder"]["sha256"])
        if "points" in part["figures"]:
            part["figures"]["points"] = [p for p in part["figures"]["points"] if p["encoder"] not in controls]
    return parts


if __name__ == "__main__":
    main()
