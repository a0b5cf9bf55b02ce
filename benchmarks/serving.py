"""The bars of the engine as it is served: many texts at once, what fewer bits cost, load in open loop, one text,
overload, memory, energy, start-up, same bits.

    python -m benchmarks.serving --output docs/benchmarks/serving.json
    python -m benchmarks.serving --parts online,single --precision int8
    python -m benchmarks.serving --device cuda --precision bf16
    python -m benchmarks.serving --quick

Servers are processes on loopback: ours; the same model behind the same HTTP with padded static batches; infinity with
torch on the same files, in an environment that this command makes. Throughput and quality are of the process alone
(`benchmarks.offline`). All in one run on one machine, in turns; a figure is
a median. Tables go to stderr, JSON to stdout or to the output file, where parts measured before are kept.
"""

import argparse
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import serving_parts as parts
from benchmarks.earlier import earlier_figures
from benchmarks.engine_data import data_folder, read_data
from benchmarks.environment import environment
from benchmarks.offline import quality, throughput
from benchmarks.routed_file import routed_file
from benchmarks.serving_report import page
from benchmarks.serving_subjects import infinity, make_peers, ours, ours_command
from engine.errors import OptionError
from engine.model.device import check_device
from engine.protocol import DEVICES

OFFLINE = ("quality", "throughput")
"""Parts that measure all encoders and precisions at once, without a server."""
PARTS = (*OFFLINE, "online", "single", "overload", "memory", "energy", "startup", "bits")
SEED = 0
STATIC = ((32, 10.0), (8, 5.0))
"""Texts and milliseconds of the padded static batches; the better of them is the one to beat."""


def main() -> None:
    """Measure, print, write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="some of %(default)s, with commas between them")
    parser.add_argument("--encoder", default="dense", help="dense (the peers' model, default), routed, or a file")
    parser.add_argument(
        "--precision", default="fp32", help="fp32, int8, int4; bf16 on cuda; peers only beside dense fp32"
    )
    parser.add_argument("--device", default="cpu", choices=DEVICES, help="where all servers compute (default cpu)")
    parser.add_argument("--threads", type=int, default=2, help="cores for each server (default 2)")
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="a smoke run; its figures mean nothing")
    parser.add_argument("--rounds", type=int, help="turns of the parts online and throughput")
    parser.add_argument("--no-peers", action="store_true", help="leave infinity out")
    parser.add_argument("--output", type=Path, help="JSON file; parts measured before stay in it")
    arguments = parser.parse_args()
    names = [name for name in PARTS if name in arguments.parts.split(",")]
    if not names or set(arguments.parts.split(",")) - set(PARTS):
        parser.error(f"--parts is {arguments.parts}; it takes some of {', '.join(PARTS)}")
    try:
        check_device(arguments.device, arguments.precision)
    except OptionError as error:
        parser.error(str(error))
    figures = _measure(arguments, names)
    text = json.dumps(figures, indent=2) + "\n"
    if arguments.output is None:
        print(text)
    else:
        arguments.output.write_text(text, "utf-8")
        arguments.output.with_suffix(".md").write_text(page(figures), "utf-8")


def _measure(arguments: argparse.Namespace, names: list[str]) -> dict[str, Any]:
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 160)
    sizes = parts.QUICK if arguments.quick else parts.Sizes()
    if arguments.rounds is not None:
        sizes = parts.Sizes(
            **{field: getattr(sizes, field) for field in sizes.__slots__} | {"rounds": arguments.rounds}
        )
    some, texts = (300, 60) if arguments.quick else (None, 1000)
    try:
        data = read_data(data_folder(arguments.data), pairs=some, texts=texts, seed=SEED)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from None
    threads, device, kind = arguments.threads, arguments.device, f"{arguments.encoder}-{arguments.precision}"
    options = ["--threads", str(threads)]
    if device != "cpu":
        kind, options = f"{kind}-{device}", ["--device", device]
    command = ours_command(arguments.encoder, arguments.precision, *options)
    model = Path(arguments.encoder).name
    start = partial(ours, kind, command, model=model)
    figures: dict[str, Any] = {"benchmark": "serving", **environment(), "threads": threads}
    figures |= {"offline": {}, "runs": {}, **_earlier(arguments.output)}
    for name in names:
        load, began = os.getloadavg()[0], time.monotonic()
        match name:
            case "quality":
                found = quality(data, device)
            case "throughput":
                found = throughput(data, sizes.rounds, sizes.texts_offline, threads, device)
            case "online":
                found = _online(arguments, data, sizes, start, kind)
            case "single":
                found = parts.single(start, data, sizes)
            case "overload":
                # All clients connect first and ask within half a minute; by default the idle ones would be cut off.
                patient = partial(ours, kind, [*command, "--idle", "60"], model=model)
                found = parts.overload(patient, data, sizes)
            case "memory":
                found = parts.memory(device, arguments.precision if device == "cuda" else "fp32")
            case "energy":
                found = parts.energy(start, data, sizes)
            case "startup":
                found = parts.startup(start, sizes)
            case _:
                loaded = {"name": arguments.encoder, "precision": arguments.precision, "device": device}
                found = parts.bits(start, data, sizes, **loaded)
        on = {key: figures[key] for key in ("commit", "uncommitted_changes", "processor", "cores")}
        on |= routed_file()
        if device == "cuda":
            on["gpu"] = torch.cuda.get_device_name()
        loads = [round(value, 1) for value in (load, os.getloadavg()[0])]
        told = {**on, "load": loads, "seconds": round(time.monotonic() - began, 1), "quick": arguments.quick}
        where = figures["offline"].setdefault(device, {}) if name in OFFLINE else _parts_of(figures, kind)
        where[name] = {"measured": told, "figures": found}
        console.print(f"{device if name in OFFLINE else kind} {name}", found)
        if arguments.output is not None:  # a run that is cut off keeps what it has
            arguments.output.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    return figures


def _online(arguments: argparse.Namespace, data: Any, sizes: parts.Sizes, start: parts.Start, kind: str) -> Any:
    subjects: dict[str, parts.Start] = {kind: start}
    problem = "left out by --no-peers" if arguments.no_peers else None
    if (arguments.encoder, arguments.precision) != ("dense", "fp32"):
        problem = "it and the static batches serve the dense model in float32"
    else:
        for batch, wait_ms in STATIC:
            options = ["--batch", str(batch), "--wait-ms", str(wait_ms), "--threads", str(arguments.threads)]
            command = [sys.executable, "-m", "benchmarks.static_server", *options, "--device", arguments.device]
            name = f"static-{batch}-{wait_ms:g}ms"
            subjects[name] = partial(ours, name, command, model="static", threads=arguments.threads)
        problem = problem or make_peers()
        if problem is None:
            subjects["infinity"] = partial(infinity, threads=arguments.threads, device=arguments.device)
    found = parts.online(subjects, data, sizes)
    found["least_cosine"] = parts.agreement(subjects, data)
    return {**found, "ours": kind, "infinity_missing": problem}


def _parts_of(figures: dict[str, Any], kind: str) -> dict[str, Any]:
    parts: dict[str, Any] = figures["runs"].setdefault(kind, {"parts": {}})["parts"]
    return parts


def _earlier(path: Path | None) -> dict[str, Any]:
    try:
        earlier = earlier_figures(path, "serving")
    except ValueError as error:
        raise SystemExit(str(error)) from None
    return {name: earlier[name] for name in ("offline", "runs") if name in earlier}


if __name__ == "__main__":
    main()
