"""The bars of the engine as it is served: many texts at once, what fewer bits cost, load in open loop, one text,
overload, memory, energy, start-up, same bits.

    python -m benchmarks.serving --output docs/benchmarks/serving.json
    python -m benchmarks.serving --parts online,single --precision int8
    python -m benchmarks.serving --device cuda --precision bf16
    python -m benchmarks.serving --quick

Servers are processes on loopback: ours; the same model behind HTTP with padded static batches; infinity with torch on
the same files, in an environment that this command makes. Throughput and quality are of the process alone
(`benchmarks.serving.offline`). All in one run on one machine, in turns; a figure is a median. JSON goes to stdout or to
the output file, where parts measured before are kept.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch

from benchmarks.data.unseen import Data, read_data
from benchmarks.harness import (
    Figures,
    add_parts,
    chosen_parts,
    command,
    earlier_figures,
    environment,
    measured,
    peer_python,
    routed_file,
)
from benchmarks.pages import keep
from benchmarks.serving import parts
from benchmarks.serving.offline import quality, throughput
from benchmarks.serving.servers import infinity, ours_command, server
from benchmarks.serving.verdicts import OFFLINE, pages
from engine.errors import OptionError
from engine.model.device import check_device
from engine.protocol import DEVICES

PARTS = (*OFFLINE, "online", "single", "overload", "memory", "energy", "startup", "bits")
STATIC = ((32, 10.0), (8, 5.0))
"""Texts and milliseconds of the padded static batches; the better of them is the one to beat."""


def main() -> None:
    """Measure, print, write where asked."""
    parser = command(__doc__, data=True)
    add_parts(parser, PARTS)
    parser.add_argument("--encoder", default="dense", help="dense (the peers' model, default), routed, or a file")
    precisions = "fp32, int8, int4; bf16 on cuda; peers only beside dense fp32"
    parser.add_argument("--precision", default="fp32", help=precisions)
    parser.add_argument("--device", default="cpu", choices=DEVICES, help="where all servers compute (default cpu)")
    parser.add_argument("--threads", type=int, default=2, help="cores for each server (default 2)")
    parser.add_argument("--quick", action="store_true", help="a smoke run; its figures mean nothing")
    parser.add_argument("--rounds", type=int, help="turns of the parts online and throughput")
    parser.add_argument("--no-peers", action="store_true", help="leave infinity out")
    given = parser.parse_args()
    names = chosen_parts(parser, given.parts, PARTS)
    try:
        check_device(given.device, given.precision)
        former = earlier_figures(given.output, "serving")
        pairs, texts = (300, 60) if given.quick else (None, 1000)
        data = read_data(given.data, pairs=pairs, texts=texts)
    except (OptionError, FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    kind = f"{given.encoder}-{given.precision}" + (f"-{given.device}" if given.device != "cpu" else "")
    figures: Figures = {"benchmark": "serving", **environment(), "threads": given.threads}
    figures |= {name: former.get(name, {}) for name in ("offline", "runs")}
    measures = _measures(given, data, parts.sizes(given.quick, given.rounds), kind)
    for name in names:
        found, how = measured(measures[name])
        on = {key: figures[key] for key in ("commit", "uncommitted_changes", "processor", "cores")} | routed_file()
        on |= {"gpu": torch.cuda.get_device_name()} if given.device == "cuda" else {}
        run = figures["runs"].setdefault(kind, {"parts": {}}) if name not in OFFLINE else {}
        where = run["parts"] if run else figures["offline"].setdefault(given.device, {})
        where[name] = {"measured": {**on, **how, "quick": given.quick}, "figures": found}
        print(name, json.dumps(found), file=sys.stderr)
        keep(figures, given.output, pages)
    if given.output is None:
        print(json.dumps(figures, indent=2))


def _measures(
    given: argparse.Namespace, data: Data, size: SimpleNamespace, kind: str
) -> dict[str, Callable[[], Figures]]:
    device, precision, threads = given.device, given.precision, given.threads
    options = ["--threads", str(threads)] if device == "cpu" else ["--device", device]
    call, model = ours_command(given.encoder, precision, *options), Path(given.encoder).name
    start = partial(server, call, model=model)
    # All clients connect first and ask within half a minute; by default the idle ones would be cut off.
    patient = partial(server, [*call, "--idle", "60"], model=model)
    return {
        "quality": partial(quality, data, device),
        "throughput": partial(throughput, data, size.rounds, size.texts_offline, threads, device),
        "online": partial(_online, given, data, size, start, kind),
        "single": partial(parts.single, start, data, size),
        "overload": partial(parts.overload, patient, data, size),
        "memory": partial(parts.memory, device, precision if device == "cuda" else "fp32"),
        "energy": partial(parts.energy, start, data, size),
        "startup": partial(parts.startup, start, size),
        "bits": partial(parts.bits, start, data, size, given.encoder, precision, device),
    }


def _online(given: argparse.Namespace, data: Data, size: SimpleNamespace, start: parts.Start, kind: str) -> Figures:
    subjects: dict[str, parts.Start] = {kind: start}
    problem = "left out by --no-peers" if given.no_peers else None
    if (given.encoder, given.precision) != ("dense", "fp32"):
        problem = "it and the static batches serve the dense model in float32"
    else:
        for batch, wait_ms in STATIC:
            call = [sys.executable, "-m", "benchmarks.serving.static_server", "--batch", str(batch)]
            call += ["--wait-ms", str(wait_ms), "--threads", str(given.threads), "--device", given.device]
            subjects[f"static-{batch}-{wait_ms:g}ms"] = partial(server, call, model="static", threads=given.threads)
        try:
            if problem is None:
                peer_python("serving")
                subjects["infinity"] = partial(infinity, threads=given.threads, device=given.device)
        except ChildProcessError as error:
            problem = str(error)
    return {**parts.online(subjects, data, size), "ours": kind, "infinity_missing": problem}


if __name__ == "__main__":
    main()
