"""The bars of the selection: strategies and peers by budget, labels needed, wrong labels found, value against truth.

The part `end_model` tells besides what the product's own end model makes of labels without functions.

    python -m benchmarks.selection --data DIR --output docs/benchmarks/selection.json
    python -m benchmarks.selection --parts noise,truth --sets trec,r8 --seeds 3
    python -m benchmarks.selection --development --strategies random,margin,value

Same vectors, batches, end model and seeds for all, see `benchmarks.selection.loop`. Runs are kept in `.cache/`, so a
benchmark that was stopped goes on; a change of the code that decides a run starts it anew. Parts of an earlier output
file stay in it.
"""

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from active.strategies import STRATEGIES
from benchmarks.data.files import data_folder
from benchmarks.data.sets import DEVELOPMENT, REPORTED, read_set, reader_of
from benchmarks.harness import (
    CACHE,
    Figures,
    add_parts,
    chosen_parts,
    command,
    earlier_figures,
    environment,
    mean_and_sd,
    measured,
    write_json,
)
from benchmarks.pages import keep
from benchmarks.selection.measures import SEEDS, end_model_curve, noise, truth
from benchmarks.selection.scale import scale
from benchmarks.selection.strategies import PEER_STRATEGIES, curve, fingerprint, peer_lines
from benchmarks.selection.verdicts import AS_THEY_ARE, END_MODEL, OURS, WEAK, pages

PARTS = ("strategies", "labels_needed", "end_model", "noise", "truth", "scale")
BY_SET = {"noise": noise, "truth": truth}
WEAK_SETS = ("trec", "agnews", "youtube", "sms")


def main() -> None:
    """Measure, write JSON and page where asked."""
    parser = command(__doc__, data=True)
    add_parts(parser, PARTS, default=PARTS[:-1])
    parser.add_argument("--sets", help="some sets, with commas, also folders of weak/; else the family's")
    parser.add_argument("--development", action="store_true", help="the sets that `value` was worked out on")
    parser.add_argument("--strategies", help="some strategies, with commas; all, and the peers', when left out")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side (default 2)")
    given = parser.parse_args()
    parts = chosen_parts(parser, given.parts, PARTS)
    family = DEVELOPMENT if given.development else REPORTED
    sets = given.sets.split(",") if given.sets else list(family)
    known = [*STRATEGIES, *PEER_STRATEGIES]
    strategies = given.strategies.split(",") if given.strategies else known
    if unknown := set(strategies) - set(known):
        parser.error(f"--strategies names {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if OURS not in strategies:
        parser.error(f"--strategies must name {OURS}: the bars compare all others with it")
    try:
        figures = earlier_figures(given.output, "selection") or {"benchmark": "selection", "parts": {}}
        folder = data_folder(given.data, "weak", "text")
        for name in sets:
            reader_of(name, folder)
            if parts != ["scale"]:
                read_set(name, folder)  # embed here, so that processes do not do it twice
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    options = f" --seeds {given.seeds}" + (" --development" if given.development else "")
    for name in ("sets", "strategies"):
        options += f" --{name} {shlex.quote(value)}" if (value := getattr(given, name)) else ""
    for part in parts:
        found, how = measured(partial(_measure, part, sets, strategies, given.seeds, given.jobs, folder))
        on = {**environment(), "command": f"python -m benchmarks.selection --parts {part}{options}", **how}
        figures["parts"][part] = {"measured": on, **found}
        keep(figures, given.output, pages)
    print(json.dumps(figures, indent=1) if given.output is None else pages(figures)[".md"])


def _measure(part: str, sets: Sequence[str], strategies: Sequence[str], seeds: int, jobs: int, folder: Path) -> Figures:
    if part == "scale":
        return scale()
    if part in BY_SET:
        found = {name: BY_SET[part](read_set(name, folder), seeds) for name in sets}
        return {"seeds": min(seeds, SEEDS), "sets": found}
    if part == "strategies":
        work, kinds = _one_curve, strategies
    elif part == "labels_needed":
        work, kinds, sets = _one_end_model_curve, WEAK, [name for name in sets if name in WEAK_SETS]
    else:
        work, kinds = _one_end_model_curve, END_MODEL
    return {"seeds": seeds, "curves": curves(work, sets, kinds, seeds, jobs, folder)}


Job = tuple[str, str, list[int], str]
"""Set, strategy, seeds, data folder."""
Scores = dict[str, dict[str, float]]
"""Accuracy by seed and labels."""


def curves(
    work: Callable[[Job], Scores], sets: Sequence[str], strategies: Sequence[str], seeds: int, jobs: int, folder: Path
) -> Figures:
    """{set: {strategy: {labels: {mean, sd}}}}; runs that are kept from before are not run again."""
    store = CACHE / "selection" / f"runs-{fingerprint()}.json"
    runs: Scores = json.loads(store.read_text("utf-8")) if store.is_file() else {}
    key = {name: f"{name} {read_set(name, folder).content()}" for name in sets}
    todo: list[Job] = []
    for name in sets:
        for strategy in strategies:
            missing = [seed for seed in range(seeds) if f"{key[name]}/{strategy}/{seed}" not in runs]
            todo += [(name, strategy, missing, str(folder))] if missing else []
    store.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        for (name, strategy, _, _), done in zip(todo, pool.map(work, todo), strict=True):
            runs |= {f"{key[name]}/{strategy}/{seed}": scores for seed, scores in done.items()}
            write_json(runs, store)
            print(f"{name} {strategy}", file=sys.stderr, flush=True)

    def summary(name: str, strategy: str) -> Figures:
        kept = [runs[f"{key[name]}/{strategy}/{seed}"] for seed in range(seeds)]
        return {labels: mean_and_sd([run[labels] for run in kept if labels in run]) for labels in kept[0]}

    return {name: {strategy: summary(name, strategy) for strategy in strategies} for name in sets}


def _one_curve(job: Job) -> Scores:
    name, strategy, seeds, folder = job
    data = read_set(name, Path(folder))
    if strategy in STRATEGIES:
        return {str(seed): _by_text(curve(data, strategy, seed)) for seed in seeds}
    lines = peer_lines("curve", data, strategy, ",".join(map(str, seeds)))
    return {str(line["seed"]): line["scores"] for line in lines}


def _one_end_model_curve(job: Job) -> Scores:
    name, kind, seeds, folder = job
    data, (how, strategy) = read_set(name, Path(folder)), kind.rsplit(" ", 1)
    weak, mapped = how == "weak", how != AS_THEY_ARE
    return {str(seed): _by_text(end_model_curve(data, strategy, seed, weak=weak, mapped=mapped)) for seed in seeds}


def _by_text(scores: dict[int, float]) -> dict[str, float]:
    return {str(labels): score for labels, score in scores.items()}


if __name__ == "__main__":
    main()
