"""The bars of the selection: strategies and peers by budget, labels needed, wrong labels found, value against truth.

The part `end_model` tells besides what the product's own end model makes of labels without functions.

    python -m benchmarks.selection --data DIR --output docs/benchmarks/selection.json
    python -m benchmarks.selection --parts noise,truth --sets trec,r8 --seeds 3
    python -m benchmarks.selection --development --strategies random,margin,value
    python -m benchmarks.selection --add --strategies random,badge --output docs/benchmarks/selection.json

Same vectors, batches, end model and seeds for all, see `benchmarks.selection_loop`. Runs are kept in `.cache/`, so a
benchmark that was stopped goes on; a change of the code that decides a run starts it anew. Parts of an earlier output
file stay in it. With `--add` its curves stay too: strategies that it lacks are put beside them, with what they were
measured on, and those that it has are measured again to tell how far the machines differ. The page beside the JSON is
written from it.
"""

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console

from active.strategies import STRATEGIES
from benchmarks.earlier import earlier_figures
from benchmarks.environment import environment
from benchmarks.selection_cost import SEEDS as COST_SEEDS
from benchmarks.selection_cost import cost
from benchmarks.selection_data import CACHE, DEVELOPMENT, REPORTED, NoSet, data_folder, read_set, reader_of
from benchmarks.selection_end_model import end_model_curve
from benchmarks.selection_noise import SEEDS as NOISE_SEEDS
from benchmarks.selection_noise import noise
from benchmarks.selection_report import AS_THEY_ARE, END_MODEL, OURS, page, plots, show
from benchmarks.selection_scale import scale
from benchmarks.selection_strategies import PEER_STRATEGIES, curve, fingerprint, peer_lines
from benchmarks.selection_truth import SEEDS as TRUTH_SEEDS
from benchmarks.selection_truth import truth

PARTS = ("strategies", "labels_needed", "end_model", "noise", "truth", "cost", "scale")
BY_SET = {"noise": (noise, NOISE_SEEDS), "truth": (truth, TRUTH_SEEDS), "cost": (cost, COST_SEEDS)}
WEAK_SETS = ("trec", "agnews", "youtube", "sms")
Figures = dict[str, Any]


def main() -> None:
    """Measure, print tables, write JSON and page where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="data folder; else SIFTLINE_DATA, else ../shared/data")
    parser.add_argument("--parts", default=",".join(PARTS[:-1]), help="some of " + ",".join(PARTS))
    parser.add_argument("--sets", help="some sets, with commas, also folders of weak/; else the family's")
    parser.add_argument("--development", action="store_true", help="the sets that `value` was worked out on")
    parser.add_argument("--strategies", help="some strategies, with commas; all, and the peers', when left out")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side (default 2)")
    parser.add_argument("--output", type=Path, help="JSON file; the page is written beside it")
    parser.add_argument("--add", action="store_true", help="put strategies beside those of the output")
    arguments = parser.parse_args()
    parts = ["strategies"] if arguments.add else arguments.parts.split(",")
    family = DEVELOPMENT if arguments.development else REPORTED
    sets = arguments.sets.split(",") if arguments.sets else list(family)
    strategies = arguments.strategies.split(",") if arguments.strategies else [*STRATEGIES, *PEER_STRATEGIES]
    unknown = [*(set(parts) - set(PARTS))]
    unknown += set(strategies) - {*STRATEGIES, *PEER_STRATEGIES}
    if unknown:
        parser.error(f"unknown: {', '.join(map(str, unknown))}")
    if OURS not in strategies and not arguments.add:
        parser.error(f"--strategies must name {OURS}: the bars compare all others with it")
    try:
        figures = earlier_figures(arguments.output, "selection") or {"benchmark": "selection", "parts": {}}
    except ValueError as error:
        parser.error(str(error))
    there = figures["parts"].get("strategies", {"curves": [], "seeds": 0})
    if arguments.add and (set(there["curves"]), there["seeds"]) != (set(sets), arguments.seeds):
        parser.error("--add needs an --output whose strategies were measured on the same sets with as many --seeds")
    try:
        folder = data_folder(arguments.data)
        for name in sets:
            reader_of(name, folder)
        if parts != ["scale"]:
            for name in sets:  # embed here, so that processes do not do it twice
                read_set(name, folder)
    except (FileNotFoundError, NoSet) as error:
        parser.exit(1, f"{error}\n")
    for part in [name for name in PARTS if name in parts]:
        began, load = time.monotonic(), os.getloadavg()[0]
        found = _measure(part, sets, strategies, arguments.seeds, arguments.jobs, folder)
        measured = {
            **environment(),
            "command": f"python -m benchmarks.selection --parts {part}{_asked(arguments)}",
            "load": [round(load, 1), round(os.getloadavg()[0], 1)],
            "seconds": round(time.monotonic() - began, 1),
        }
        found = {"measured": measured, **found}
        figures["parts"][part] = beside(figures["parts"][part], found) if arguments.add else found
        if arguments.output:
            arguments.output.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    show(figures, Console(stderr=True, width=160))
    if arguments.output:
        for name, picture in plots(figures).items():
            arguments.output.with_name(name).write_text(picture, "utf-8")
        arguments.output.with_suffix(".md").write_text(page(figures), "utf-8")
    else:
        print(json.dumps(figures, indent=1))


def _asked(arguments: argparse.Namespace) -> str:
    """The arguments that decide figures, as they were given."""
    said = (" --add" if arguments.add else "") + f" --seeds {arguments.seeds}"
    said += " --development" if arguments.development else ""
    for name in ("sets", "strategies"):
        said += f" --{name} {shlex.quote(given)}" if (given := getattr(arguments, name)) else ""
    return said


def beside(earlier: Figures, found: Figures) -> Figures:
    """The part "strategies" as it stood, and beside its curves those that it lacks.

    Args:
        earlier: the part of the output.
        found: the same part for the same sets and seeds, measured now.

    Returns:
        The earlier part; its `added` has one more entry: names of the new strategies, what they were measured on, and
        `again`, the curves of those that were there already.
    """
    there = set(next(iter(earlier["curves"].values())))
    curves, again = dict[str, Figures](), dict[str, Figures]()
    for name, kept in earlier["curves"].items():
        here = found["curves"][name]
        curves[name] = {**kept, **{strategy: here[strategy] for strategy in here if strategy not in there}}
        again[name] = {strategy: here[strategy] for strategy in here if strategy in there}
    new = [strategy for strategy in next(iter(curves.values())) if strategy not in there]
    entry = {"strategies": new, "measured": found["measured"], "again": again}
    return {**earlier, "curves": curves, "added": [*earlier.get("added", []), entry]}


def _measure(part: str, sets: Sequence[str], strategies: Sequence[str], seeds: int, jobs: int, folder: Path) -> Figures:
    if part == "scale":
        return scale()
    if part == "strategies":
        return {"seeds": seeds, "curves": curves(_one_curve, sets, strategies, seeds, jobs, folder)}
    if part == "labels_needed":
        weak = [name for name in sets if name in WEAK_SETS]
        kinds = ("weak value", "weak random")
        return {"seeds": seeds, "curves": curves(_one_end_model_curve, weak, kinds, seeds, jobs, folder)}
    if part == "end_model":
        return {"seeds": seeds, "curves": curves(_one_end_model_curve, sets, END_MODEL, seeds, jobs, folder)}
    measure, most = BY_SET[part]
    return {"seeds": min(seeds, most), "sets": {name: measure(read_set(name, folder), seeds) for name in sets}}


Job = tuple[str, str, list[int], str]


def curves(
    work: Callable[[Job], dict[str, dict[str, float]]],
    sets: Sequence[str],
    strategies: Sequence[str],
    seeds: int,
    jobs: int,
    folder: Path,
) -> Figures:
    """{set: {strategy: {labels: {mean, sd}}}}; runs that are kept from before are not run again."""
    store = CACHE / f"runs-{fingerprint()}.json"
    runs: dict[str, dict[str, float]] = json.loads(store.read_text("utf-8")) if store.is_file() else {}
    todo: list[Job] = []
    key = {name: f"{name} {read_set(name, folder).content()}" for name in sets}
    for name in sets:
        for strategy in strategies:
            missing = [seed for seed in range(seeds) if f"{key[name]}/{strategy}/{seed}" not in runs]
            if missing:
                todo.append((name, strategy, missing, str(folder)))
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        for (name, strategy, _, _), done in zip(todo, pool.map(work, todo), strict=True):
            for seed, scores in done.items():
                runs[f"{key[name]}/{strategy}/{seed}"] = scores
            temporary = store.with_suffix(".part")
            temporary.write_text(json.dumps(runs), "utf-8")
            temporary.replace(store)
            print(f"{name} {strategy}", file=sys.stderr, flush=True)
    return {
        name: {
            strategy: _summary([runs[f"{key[name]}/{strategy}/{seed}"] for seed in range(seeds)])
            for strategy in strategies
        }
        for name in sets
    }


def _summary(runs: Sequence[dict[str, float]]) -> Figures:
    found: Figures = {}
    for labels in runs[0]:
        values = [run[labels] for run in runs if labels in run]
        mean = sum(values) / len(values)
        spread = (sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)) ** 0.5
        found[labels] = {"mean": round(mean, 4), "sd": round(spread, 4)}
    return found


def _one_curve(job: Job) -> dict[str, dict[str, float]]:
    name, strategy, seeds, folder = job
    data = read_set(name, Path(folder))
    if strategy in STRATEGIES:
        return {str(seed): _texts(curve(data, strategy, seed)) for seed in seeds}
    wanted = ",".join(map(str, seeds))
    return {str(line["seed"]): line["scores"] for line in peer_lines("curve", data, strategy, wanted)}


def _one_end_model_curve(job: Job) -> dict[str, dict[str, float]]:
    name, kind, seeds, folder = job
    data, (how, strategy) = read_set(name, Path(folder)), kind.rsplit(" ", 1)
    weak, mapped = how == "weak", how != AS_THEY_ARE
    return {str(seed): _texts(end_model_curve(data, strategy, seed, weak=weak, mapped=mapped)) for seed in seeds}


def _texts(scores: dict[int, float]) -> dict[str, float]:
    return {str(labels): score for labels, score in scores.items()}


if __name__ == "__main__":
    main()
