"""The selection's figures for people: tables in the terminal, docs/benchmarks/selection.md and its picture.

All of it is computed from the benchmark's JSON; no figure and no verdict is written by hand.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from rich.console import Console

from active.strategies import STRATEGIES
from benchmarks.engine_report import Table
from benchmarks.selection_loop import BUDGETS
from benchmarks.selection_scale import shares
from flows.report.svg import Scale, element, line, path, spread, text, tick_labels, ticks

Figures = dict[str, Any]
OURS, RIVAL = "value", "random"
REFERENCE = 256
MAPPED, AS_THEY_ARE = "end model", "vectors as they are"
END_MODEL = tuple(f"{how} {strategy}" for how in (MAPPED, AS_THEY_ARE) for strategy in (OURS, RIVAL))
"""Curves of the product's end model without functions, which sees vectors through its map or as they are."""
MOST_FOR_1_PERCENT = 0.03
PICTURE = "selection.svg"
SHOWN = ("value", "margin", "skactiveml typiclust", "small-text k-means", "random")


def show(figures: Figures, console: Console) -> None:
    """Print all tables."""
    for table in tables(figures):
        table.show(console)


def page(figures: Figures) -> str:
    """docs/benchmarks/selection.md."""
    lines = [
        "# What a label is worth: measured",
        "",
        "Written by `python -m benchmarks.selection` from `selection.json`; its docstring says how to run it. Vectors",
        "of the frozen dense parent (int8 weights, 128 tokens), logistic regression with C = 10 fitted after every",
        "batch of 16 (32 from 64 labels on), 80% of the pool drawn anew for each seed. `value` was worked out on other",
        "texts (`--development`), see `docs/decisions/value-is-the-doubt-a-label-settles.md`. Strategies of other",
        "libraries that need labels begin with a random batch. What is covered:",
        "`docs/decisions/how-the-claim-is-measured.md`.",
    ]
    if figures["parts"].get("strategies", {}).get("added"):
        lines += [
            'Some were measured later, on another processor: see "Measured on", and "Measured again" for how far the',
            "figures of others moved there.",
        ]
    lines.append("")
    if "strategies" in figures["parts"]:
        lines += [f"![Accuracy by labels, mean of the sets]({PICTURE})", ""]
    for table in tables(figures):
        lines += [f"## {table.title}", "", table.markdown(), ""]
    lines += ["## Bars", "", *(f"- {verdict}" for verdict in verdicts(figures)), "", "## Measured on", ""]
    for name, part in figures["parts"].items():
        lines += [f"- {said}" for said in _origins(name, part)]
    return "\n".join(lines) + "\n"


def _origins(name: str, part: Figures) -> list[str]:
    """What a part was measured on; strategies that were added later say theirs."""
    added = part.get("added", [])
    measured = [(f"{name}, but for those added" if added else name, part["measured"])]
    measured += [(f"{name} added: {', '.join(entry['strategies']) or 'none'}", entry["measured"]) for entry in added]
    return [
        f"{said}: `{on['command']}`, commit {on['commit'][:12]}"
        f"{' with uncommitted changes' if on['uncommitted_changes'] else ''}, {on['processor']}, {on['cores']} cores, "
        f"load {on['load'][0]} to {on['load'][1]}, {on['seconds']} s in the last call (earlier runs are kept), "
        f"seeds {part.get('seeds', '-')}"
        for said, on in measured
    ]


def sentence(figures: Figures) -> str:
    """What it comes to, for the README."""
    curves, seeds = _curves(figures), figures["parts"]["strategies"]["seeds"]
    means, strategies = mean_curve(curves), _common(curves)
    most = max(BUDGETS) / REFERENCE

    def shares(of: Mapping[str, Figures], strategy: str, reference: str = RIVAL) -> dict[str, float]:
        return {name: most if share is None else share for name, share in _shares(of, strategy, reference).items()}

    def mean(found: Mapping[str, float]) -> float:
        return sum(found.values()) / len(found)

    def by_set(found: Mapping[str, float]) -> str:
        least, worst = (pick(found, key=found.__getitem__) for pick in (min, max))
        return f"{found[least]:.0%} on {least} to {found[worst]:.0%} on {worst}"

    needed = {strategy: shares(curves, strategy) for strategy in strategies}
    others = [name for name in strategies if name not in STRATEGIES]
    rival = min(others, key=lambda name: mean(needed[name]))
    first = [budget for budget in BUDGETS if max(means, key=lambda name: means[name][budget]) == OURS]
    named = ", ".join(curves)
    budgets, best_at = (", ".join(map(str, numbers)) for numbers in (BUDGETS, first))
    where = f"each of {budgets} labels" if first == list(BUDGETS) else f"{best_at or 'none'} of {budgets} labels"
    besides = ""
    if whole := figures["parts"].get("end_model"):
        found = shares(whole["curves"], f"{MAPPED} {OURS}", f"{MAPPED} {RIVAL}")
        besides = (
            "\nThe end model of `siftline run`, which sees vectors through a map that needs no labels\n"
            "([why](docs/decisions/end-model-sees-mapped-vectors.md)), needs with `value`\n"
            f"{mean(found):.0%} of the labels for what it makes of {REFERENCE} random ones ({by_set(found)};\n"
            f"{whole['seeds']} seeds)."
        )
    return (
        f"On {len(curves)} sets of texts ({named}; {seeds} seeds, no labeling functions, same vectors\n"
        f"and classifier for all) `value` needs {mean(needed[OURS]):.0%} of {REFERENCE} labels for what random picks\n"
        f"reach with all of them ({by_set(needed[OURS])}); the best of {len(others)} strategies of other libraries,\n"
        f"{rival}, needs {mean(needed[rival]):.0%} ({by_set(needed[rival])}).\n"
        f"Its mean accuracy is the highest of all {len(strategies)} strategies at\n"
        f"{where} ([selection](docs/benchmarks/selection.md)).{besides}"
    )


def plots(figures: Figures) -> dict[str, str]:
    """Pictures by file name."""
    return {PICTURE: _picture(_curves(figures))} if "strategies" in figures["parts"] else {}


def tables(figures: Figures) -> list[Table]:
    """All tables of the parts that were measured."""
    parts, found = figures["parts"], list[Table]()
    if "strategies" in parts:
        curves = _curves(figures)
        found.append(_means(curves))
        found += [_one_set(name, curves[name]) for name in curves]
        found.append(_needed(curves, parts.get("labels_needed", {}).get("curves", {})))
        added = parts["strategies"].get("added", [])
        found += [_again(curves, entry) for entry in added if any(entry["again"].values())]
    if "end_model" in parts:
        found.append(_end_model(parts["end_model"]["curves"]))
    if "noise" in parts:
        found.append(_noise(parts["noise"]["sets"]))
    if "truth" in parts:
        found.append(_truth(parts["truth"]["sets"]))
    if "cost" in parts:
        found.append(_cost(parts["cost"]["sets"]))
    if "scale" in parts:
        found.append(_scale(parts["scale"]["items"]))
    return found


def verdicts(figures: Figures) -> list[str]:
    """The bars of the issue, met or not, in words."""
    parts, said = figures["parts"], list[str]()
    if "strategies" in parts:
        curves = _curves(figures)
        means, ranks = mean_curve(curves), mean_ranks(curves)
        for budget in BUDGETS:
            best = max(means, key=lambda name: means[name][budget])
            behind = f", {means[best][budget] - means[OURS][budget]:.4f} behind {best}" if best != OURS else ""
            best_of = f", the best of these {len(means)}"
            said.append(f"mean accuracy at {budget}: `value` {means[OURS][budget]:.4f}{behind or best_of}")
        order = sorted(ranks, key=lambda name: ranks[name])
        said.append(f"mean rank: `value` {ranks[OURS]:.2f} of {len(ranks)}; best is {order[0]} ({ranks[order[0]]:.2f})")
        worse = list(_below_random(curves, parts["strategies"]["seeds"]))
        said.append(f"sets and budgets more than one standard error below random: {', '.join(worse) or 'none'}")
        shares = [share for share in _shares(curves, OURS).values() if share is not None]
        if shares:
            said.append(f"labels `value` needs for random@{REFERENCE}: {sum(shares) / len(shares):.0%} on the mean")
    for part, name in (("noise", "wrong labels found best by"), ("truth", "highest Spearman")):
        if part in parts:
            by_level: dict[str, dict[str, list[float]]] = {}
            for data, levels in parts[part]["sets"].items():
                for level, scores in levels.items():
                    flat = {key: s["mean"] if isinstance(s, dict) else s for key, s in scores.items()}
                    best = max(flat, key=lambda key: flat[key])
                    told = f"{name} {best} ({flat[best]:.3f})" if flat[best] > 0 else "none above 0"
                    said.append(f"{part}, {data} at {level}: {told}")
                    for key, score in flat.items():
                        by_level.setdefault(level, {}).setdefault(key, []).append(score)
            for level, scores in by_level.items():
                over = {key: sum(found) / len(found) for key, found in scores.items()}
                first, second = sorted(over, key=lambda key: -over[key])[:2]
                said.append(
                    f"{part}, mean of the sets at {level}: {name} {first} ({over[first]:.3f}), then {second} "
                    f"({over[second]:.3f})"
                )
    if "scale" in parts:
        said.append(_scale_verdict(parts["scale"]["items"]))
    return said


def _scale_verdict(items: Mapping[str, Figures]) -> str:
    """The bar of adding 1%, by the clock, at the largest size."""
    count = max(items, key=int)
    whole = items[count]
    more, after = (shares(whole[key], whole) for key in ("adding_1_percent", "adding_1_percent_after_a_batch"))
    return (
        f"scale, {int(count):,} x 384, adding 1% under {MOST_FOR_1_PERCENT:.0%} of the whole by the clock: "
        f"{'met' if more['share'] < MOST_FOR_1_PERCENT else 'missed'}, {more['share']:.1%} "
        f"({more['processor_share']:.1%} of the processor's seconds); right after a batch {after['share']:.1%} "
        f"({after['processor_share']:.1%})"
    )


def mean_curve(curves: Mapping[str, Figures]) -> dict[str, dict[int, float]]:
    """Mean accuracy over the sets by strategy and budget."""
    return {
        strategy: {b: sum(curves[s][strategy][str(b)]["mean"] for s in curves) / len(curves) for b in BUDGETS}
        for strategy in _common(curves)
    }


def mean_ranks(curves: Mapping[str, Figures]) -> dict[str, float]:
    """Mean place of each strategy over sets and budgets, 1 is best; equal ones share their places."""
    strategies, places = _common(curves), dict[str, list[float]]()
    for name in curves:
        for budget in BUDGETS:
            scores = {s: curves[name][s][str(budget)]["mean"] for s in strategies}
            for strategy, score in scores.items():
                above = sum(other > score for other in scores.values())
                equal = sum(other == score for other in scores.values())
                places.setdefault(strategy, []).append(above + (equal + 1) / 2)
    return {strategy: sum(values) / len(values) for strategy, values in places.items()}


def labels_for(curve: Figures, accuracy: float) -> float | None:
    """Labels at which a mean curve first reaches an accuracy, between two points on a line; None when it never does."""
    before: tuple[int, float] | None = None
    for labels in sorted(map(int, curve)):
        score = curve[str(labels)]["mean"]
        if score >= accuracy:
            if before is None:
                return float(labels)
            return before[0] + (labels - before[0]) * (accuracy - before[1]) / (score - before[1])
        before = labels, score
    return None


def _curves(figures: Figures) -> dict[str, Figures]:
    return figures["parts"]["strategies"]["curves"]


def _common(curves: Mapping[str, Figures]) -> list[str]:
    first = next(iter(curves.values()))
    return [name for name in first if all(name in found for found in curves.values())]


def _below_random(curves: Mapping[str, Figures], seeds: int) -> Sequence[str]:
    found: list[str] = []
    for name in curves:
        for budget in map(str, BUDGETS):
            ours, rival = curves[name][OURS][budget], curves[name][RIVAL][budget]
            if ours["mean"] < rival["mean"] - rival["sd"] / math.sqrt(seeds):
                found.append(f"{name}@{budget}")
    return found


def _shares(curves: Mapping[str, Figures], strategy: str, reference: str = RIVAL) -> dict[str, float | None]:
    """Share of 256 labels that a strategy needs for what another reaches with all of them, by set; None for never."""
    shares: dict[str, float | None] = {}
    for name in curves:
        needed = labels_for(curves[name][strategy], curves[name][reference][str(REFERENCE)]["mean"])
        shares[name] = None if needed is None else needed / REFERENCE
    return shares


def _means(curves: Mapping[str, Figures]) -> Table:
    means, ranks = mean_curve(curves), mean_ranks(curves)
    rows = [
        [name, *(f"{means[name][b]:.3f}" for b in BUDGETS), f"{ranks[name]:.1f}"]
        for name in sorted(means, key=lambda name: ranks[name])
    ]
    return Table(f"Accuracy by labels, mean of {len(curves)} sets", ["strategy", *map(str, BUDGETS), "mean rank"], rows)


def _one_set(name: str, curves: Figures) -> Table:
    def cell(found: Figures) -> str:
        return f"{found['mean']:.3f} ±{found['sd']:.3f}"

    rows = [[strategy, *(cell(found[str(b)]) for b in BUDGETS)] for strategy, found in curves.items()]
    return Table(f"Set {name}", ["strategy", *map(str, BUDGETS)], rows)


def _needed(curves: Mapping[str, Figures], weak: Mapping[str, Figures]) -> Table:
    def share(needed: float | None) -> str:
        return "never" if needed is None else f"{needed / REFERENCE:.0%}"

    strategies = _common(curves)
    rows: list[list[str]] = []
    for strategy in strategies:
        cells = [
            labels_for(curves[n][strategy], curves[n][RIVAL][str(REFERENCE)]["mean"]) if n in curves else None
            for n in curves
        ]
        reached = [c for c in cells if c is not None]
        mean = sum(reached) / len(reached) if len(reached) == len(cells) else None
        rows.append([strategy, *map(share, cells), share(mean)])
    for kind in ("weak value", "weak random"):
        cells = [
            labels_for(weak[n][kind], curves[n][RIVAL][str(REFERENCE)]["mean"]) if n in weak else math.nan
            for n in curves
        ]
        known = [c for c in cells if c is not None and not math.isnan(c)]
        if known:
            shown = ["" if c is not None and math.isnan(c) else share(c) for c in cells]
            rows.append([f"{kind} (with weak labels)", *shown, share(sum(known) / len(known))])
    return Table(f"Labels needed to reach random@{REFERENCE}, share of {REFERENCE}", ["", *curves, "mean"], rows)


def _end_model(curves: Mapping[str, Figures]) -> Table:
    """Accuracy of the product's end model by labels, and the labels that it needs, mean of the sets."""
    budgets = [budget for budget in BUDGETS if budget <= REFERENCE]
    rows: list[list[str]] = []
    for kind in END_MODEL:
        means = [sum(of[kind][str(budget)]["mean"] for of in curves.values()) / len(curves) for budget in budgets]
        shares = list(_shares(curves, kind, f"{AS_THEY_ARE} {RIVAL}").values())
        reached = [share for share in shares if share is not None]
        needed = f"{sum(reached) / len(reached):.0%}" if len(reached) == len(shares) else "never"
        rows.append([kind, *(f"{mean:.3f}" for mean in means), needed])
    title = f"The product's end model without functions, mean of {len(curves)} sets"
    needed = f"of {REFERENCE} labels for what random ones reach with vectors as they are"
    return Table(title, ["", *map(str, budgets), needed], rows)


def _again(curves: Mapping[str, Figures], entry: Figures) -> Table:
    """How far strategies moved that were measured once more with those that were added."""
    again: Mapping[str, Figures] = entry["again"]
    rows: list[list[str]] = []
    for strategy in next(iter(again.values())):
        moved = {
            (name, budget): again[name][strategy][str(budget)]["mean"] - curves[name][strategy][str(budget)]["mean"]
            for name in again
            for budget in BUDGETS
        }
        means = (sum(moved[name, budget] for name in again) / len(again) for budget in BUDGETS)
        name, budget = max(moved, key=lambda place: abs(moved[place]))
        furthest = f"{moved[name, budget]:+.4f} ({name}@{budget})" if moved[name, budget] else "none moved"
        rows.append([strategy, *(f"{mean:+.4f}" for mean in means), furthest])
    title = f"Measured again on {entry['measured']['processor'].partition(' (')[0]}: accuracy less that above"
    return Table(title, ["strategy", *map(str, BUDGETS), "furthest on one set"], rows)


def _noise(sets: Mapping[str, Figures]) -> Table:
    columns = [(name, share) for name in sets for share in sets[name]]
    detectors = list(next(iter(next(iter(sets.values())).values())))
    rows = [[d, *(f"{sets[name][share][d]['mean']:.3f}" for name, share in columns)] for d in detectors]
    heads = [f"{name} {float(share):.0%}" for name, share in columns]
    return Table("Wrong labels found: average precision by planted noise", ["detector", *heads], rows)


def _truth(sets: Mapping[str, Figures]) -> Table:
    columns = [(name, start) for name in sets for start in sets[name]]
    names = list(next(iter(next(iter(sets.values())).values())))
    rows = [[n, *(f"{sets[name][start][n]:.2f}" for name, start in columns)] for n in names]
    heads = [f"{name}, {start} labels" for name, start in columns]
    return Table("Value against truth: Spearman with the measured fall of the test loss", ["", *heads], rows)


def _cost(sets: Mapping[str, Figures]) -> Table:
    columns = [(name, budget) for name in sets for budget in next(iter(sets[name].values()))]
    kinds = list(next(iter(sets.values())))
    rows = [[kind, *(f"{sets[name][kind][column]:.3f}" for name, column in columns)] for kind in kinds]
    heads = [f"{name}, {column}" for name, column in columns]
    return Table("Accuracy in the time random picks take for as many labels", ["", *heads], rows)


def _scale(items: Mapping[str, Figures]) -> Table:
    rows: list[list[str]] = []
    for step in next(iter(items.values()))["seconds"]:
        rows.append([f"{step}, s", *(f"{found['seconds'][step]:g}" for found in items.values())])
    rows.append(["all, s of the processor", *(f"{found['processor_seconds']['all']:g}" for found in items.values())])
    for key in ("index", "recall_at_10", "peak_gib"):
        rows.append([key, *(str(found[key]) for found in items.values())])
    for said, key in (("1% more", "adding_1_percent"), ("1% more after a batch", "adding_1_percent_after_a_batch")):
        adding = [found[key] | shares(found[key], found) for found in items.values()]
        for step in adding[0]["seconds"]:
            rows.append([f"{said}: {step}, s", *(f"{found['seconds'][step]:g}" for found in adding)])
        rows.append([f"{said}: share of the whole by the clock", *(f"{found['share']:.1%}" for found in adding)])
        rows.append(
            [f"{said}: share of the processor's seconds", *(f"{found['processor_share']:.1%}" for found in adding)]
        )
        rows.append([f"{said}: values written", *(f"{found.get('values_written', 0):,}" for found in adding)])
        rows.append([f"{said}: recall_at_10", *(str(found["recall_at_10"]) for found in adding)])
    return Table("Scale", ["", *(f"{int(count):,} x 384" for count in items)], rows)


STYLE = """
svg { font: 13px system-ui, sans-serif; background: #fff; }
text { fill: #1f2328; } .tick { fill: #59636e; font-size: 12px; } .grid { stroke: #d1d9e0; }
path { fill: none; stroke-width: 2; } .ours { stroke: #0969da; stroke-width: 3; }
.rival { stroke: #cf222e; stroke-dasharray: 5 4; }
.other1 { stroke: #9a6700; } .other2 { stroke: #8250df; stroke-dasharray: 9 3; }
.other3 { stroke: #1a7f37; stroke-dasharray: 2 3; }
@media (prefers-color-scheme: dark) {
  svg { background: #0d1117; } text { fill: #f0f6fc; } .tick { fill: #9198a1; } .grid { stroke: #3d444d; }
  .ours { stroke: #4493f8; } .rival { stroke: #f85149; }
  .other1 { stroke: #d29922; } .other2 { stroke: #ab7df8; } .other3 { stroke: #3fb950; }
}
"""


def _picture(curves: Mapping[str, Figures]) -> str:
    width, height, left, right, top, bottom = 860, 380, 56, 670, 40, 330
    means = {name: found for name, found in mean_curve(curves).items() if name in SHOWN}
    values = [score for found in means.values() for score in found.values()]
    y_ticks = ticks(min(values), max(values), 6)
    y = Scale(low=y_ticks[0], high=y_ticks[-1], start=bottom, end=top)
    x = Scale(low=math.log2(BUDGETS[0]), high=math.log2(BUDGETS[-1]), start=left, end=right)
    parts: list[Markup] = [element("style", {}, Markup(STYLE))]
    parts.append(text(left - 44, 20, f"accuracy, mean of {len(curves)} sets, by labels", "title"))
    for at, label in zip(y_ticks, tick_labels(y_ticks), strict=True):
        parts += [line(left, y(at), right, y(at), "grid"), text(left - 8, y(at) + 4, label, "tick", "end")]
    for budget in BUDGETS:
        parts.append(text(x(math.log2(budget)), bottom + 20, str(budget), "tick", "middle"))
    others = [name for name in means if name not in (OURS, RIVAL)]
    styles = {OURS: "ours", RIVAL: "rival"} | {name: f"other{number}" for number, name in enumerate(others, 1)}
    # What is drawn last lies above the others.
    for name in sorted(means, key=[*others, RIVAL, OURS].index):
        parts.append(path([(x(math.log2(b)), y(means[name][b])) for b in BUDGETS], styles[name]))
    ends = spread([y(found[BUDGETS[-1]]) for found in means.values()], 15, top, bottom)
    for name, at in zip(means, ends, strict=True):
        parts += [path([(right + 8, at), (right + 32, at)], styles[name]), text(right + 38, at + 4, name, "tick")]
    told = "; ".join(f"{name} {found[BUDGETS[0]]:.3f} to {found[BUDGETS[-1]]:.3f}" for name, found in means.items())
    attributes = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": f"0 0 {width} {height}",
        "role": "img",
        "aria-label": f"Accuracy by labels: {told}",
    }
    return element("svg", attributes, *parts) + "\n"
