"""What the figures of the selection come to: means, ranks, labels needed, verdicts; its pages, picture and sentence."""

import math
import statistics
from collections.abc import Mapping, Sequence

from active.strategies import STRATEGIES
from benchmarks.harness import Figures
from benchmarks.pages import Panel, picture, render
from benchmarks.selection.loop import BUDGETS
from benchmarks.selection.scale import shares

OURS, RIVAL = "value", "random"
REFERENCE = 256
MAPPED, AS_THEY_ARE = "end model", "vectors as they are"
END_MODEL = tuple(f"{how} {strategy}" for how in (MAPPED, AS_THEY_ARE) for strategy in (OURS, RIVAL))
"""Curves of the product's end model without functions, which sees vectors through its map or as they are."""
WEAK = ("weak value", "weak random")
MOST_FOR_1_PERCENT = 0.03
STYLES = {
    "value": "blue",
    "margin": "brown",
    "skactiveml typiclust": "purple dashed",
    "small-text k-means": "green dashed",
    "random": "red dashed",
}
"""Curves of the picture."""

Curves = Mapping[str, Figures]
"""Of each set, of each strategy, mean and deviation by number of labels."""


def pages(figures: Figures) -> dict[str, str]:
    """The page, that of each set, and the picture."""
    parts = figures["parts"]
    more: Figures = {"verdicts": verdicts(figures), "budgets": BUDGETS, "reference": REFERENCE, "shares": shares}
    if "end_model" in parts:
        more["end_model"] = _end_model(parts["end_model"]["curves"])
    if "strategies" not in parts:
        return {".md": render("selection.md.j2", figures, **more)}
    curves: Curves = parts["strategies"]["curves"]
    ranks = mean_ranks(curves)
    weak = parts.get("labels_needed", {}).get("curves", {})
    more |= {"curves": curves, "means": mean_curve(curves), "ranks": dict(sorted(ranks.items(), key=lambda r: r[1]))}
    more |= {"needed": _needed(curves, weak), "picture": "selection.svg"}
    return {
        ".md": render("selection.md.j2", figures, **more),
        "-sets.md": render("selection-sets.md.j2", figures, **more),
        ".svg": _picture(curves),
    }


def verdicts(figures: Figures) -> list[str]:
    """What the curves come to, and the bars, met or not, in words."""
    parts, said = figures["parts"], list[str]()
    if "strategies" in parts:
        curves: Curves = parts["strategies"]["curves"]
        means, ranks = mean_curve(curves), mean_ranks(curves)
        for budget in BUDGETS:
            best = max(means, key=lambda name: means[name][budget])
            behind = f", {means[best][budget] - means[OURS][budget]:.4f} behind {best}" if best != OURS else ""
            best_of = f", the best of these {len(means)}"
            said.append(f"mean accuracy at {budget}: `value` {means[OURS][budget]:.4f}{behind or best_of}")
        first = min(ranks, key=lambda name: ranks[name])
        said.append(f"mean rank: `value` {ranks[OURS]:.2f} of {len(ranks)}; best is {first} ({ranks[first]:.2f})")
        worse = _below_random(curves, parts["strategies"]["seeds"])
        said.append(f"sets and budgets more than one standard error below random: {', '.join(worse) or 'none'}")
        needed = [share for share in labels_needed(curves, OURS).values() if share is not None]
        if needed:
            said.append(f"labels `value` needs for random@{REFERENCE}: {statistics.fmean(needed):.0%} on the mean")
    for part, name in (("noise", "wrong labels found best by"), ("truth", "highest Spearman")):
        by_level: dict[str, dict[str, list[float]]] = {}
        for data, levels in parts.get(part, {"sets": {}})["sets"].items():
            for level, scores in levels.items():
                flat = {key: s["mean"] if isinstance(s, dict) else s for key, s in scores.items()}
                best = max(flat, key=lambda key: flat[key])
                told = f"{name} {best} ({flat[best]:.3f})" if flat[best] > 0 else "none above 0"
                said.append(f"{part}, {data} at {level}: {told}")
                for key, score in flat.items():
                    by_level.setdefault(level, {}).setdefault(key, []).append(score)
        for level, scores in by_level.items():
            over = {key: statistics.fmean(found) for key, found in scores.items()}
            first, second = sorted(over, key=lambda key: -over[key])[:2]
            best, next_best = f"{first} ({over[first]:.3f})", f"{second} ({over[second]:.3f})"
            said.append(f"{part}, mean of the sets at {level}: {name} {best}, then {next_best}")
    return [*said, *([_scale_verdict(parts["scale"]["items"])] if "scale" in parts else [])]


def _scale_verdict(items: Figures) -> str:
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


def mean_curve(curves: Curves) -> dict[str, dict[int, float]]:
    """Mean accuracy over the sets by strategy and budget."""
    return {
        strategy: {b: statistics.fmean(curves[s][strategy][str(b)]["mean"] for s in curves) for b in BUDGETS}
        for strategy in _common(curves)
    }


def mean_ranks(curves: Curves) -> dict[str, float]:
    """Mean place of each strategy over sets and budgets, 1 is best; equal ones share their places."""
    strategies, places = _common(curves), dict[str, list[float]]()
    for found in curves.values():
        for budget in map(str, BUDGETS):
            scores = {strategy: found[strategy][budget]["mean"] for strategy in strategies}
            for strategy, score in scores.items():
                above, equal = (sum(by(o) for o in scores.values()) for by in (score.__lt__, score.__eq__))
                places.setdefault(strategy, []).append(above + (equal + 1) / 2)
    return {strategy: statistics.fmean(values) for strategy, values in places.items()}


def labels_needed(curves: Curves, strategy: str, reference: str = RIVAL) -> dict[str, float | None]:
    """Share of 256 labels that a strategy needs for what another reaches with all of them, by set; None for never."""
    return {name: _share(of[strategy], of[reference]) for name, of in curves.items()}


def _share(curve: Figures, reference: Figures) -> float | None:
    """Share of 256 labels at which a mean curve first reaches another's end, between two points on a line."""
    wanted, before = reference[str(REFERENCE)]["mean"], None
    for labels in sorted(map(int, curve)):
        score = curve[str(labels)]["mean"]
        if score >= wanted:
            at = (
                labels
                if before is None
                else before[0] + (labels - before[0]) * (wanted - before[1]) / (score - before[1])
            )
            return at / REFERENCE
        before = labels, score
    return None


def _common(curves: Curves) -> list[str]:
    first = next(iter(curves.values()))
    return [name for name in first if all(name in found for found in curves.values())]


def _below_random(curves: Curves, seeds: int) -> list[str]:
    found: list[str] = []
    for name, of in curves.items():
        for budget in map(str, BUDGETS):
            ours, rival = of[OURS][budget], of[RIVAL][budget]
            found += [f"{name}@{budget}"] if ours["mean"] < rival["mean"] - rival["sd"] / math.sqrt(seeds) else []
    return found


def _needed(curves: Curves, weak: Curves) -> list[tuple[str, list[str]]]:
    """Names of strategies, and cells: the share of labels on each set, and the mean where all sets are reached."""
    rows = {name: labels_needed(curves, name) for name in _common(curves)}
    for kind in WEAK if weak else ():
        found = {name: _share(weak[name][kind], curves[name][RIVAL]) for name in curves if name in weak}
        rows[f"{kind} (with weak labels)"] = found
    return [
        (name, [*(_percent(row, place) for place in curves), _mean(list(row.values()))]) for name, row in rows.items()
    ]


def _percent(row: Mapping[str, float | None], place: str) -> str:
    return "" if place not in row else _mean([row[place]])


def _mean(found: Sequence[float | None]) -> str:
    known = [share for share in found if share is not None]
    return f"{statistics.fmean(known):.0%}" if known and len(known) == len(found) else "never"


def _end_model(curves: Curves) -> list[tuple[str, list[float], str]]:
    """Accuracy of the product's end model by labels, mean of the sets, and the labels that it needs."""
    budgets = [str(budget) for budget in BUDGETS if budget <= REFERENCE]
    rows: list[tuple[str, list[float], str]] = []
    for kind in END_MODEL:
        means = [statistics.fmean(of[kind][budget]["mean"] for of in curves.values()) for budget in budgets]
        rows.append((kind, means, _mean(list(labels_needed(curves, kind, f"{AS_THEY_ARE} {RIVAL}").values()))))
    return rows


def sentence(figures: Figures) -> str:
    """What it comes to, for the README."""
    part, whole = figures["parts"]["strategies"], figures["parts"].get("end_model")
    curves: Curves = part["curves"]
    means, strategies = mean_curve(curves), _common(curves)

    def summary(of: Curves, strategy: str, reference: str = RIVAL) -> Figures:
        most = max(BUDGETS) / REFERENCE
        found = {name: share or most for name, share in labels_needed(of, strategy, reference).items()}
        ends = {end: how(found.items(), key=lambda one: one[1]) for end, how in (("least", min), ("most", max))}
        return {"mean": statistics.fmean(found.values()), **ends}

    others = {name: summary(curves, name) for name in strategies if name not in STRATEGIES}
    rival = min(others, key=lambda name: others[name]["mean"])
    more: Figures = {"sets": curves, "seeds": part["seeds"], "reference": REFERENCE, "budgets": BUDGETS}
    more |= {"ours": summary(curves, OURS), "rival": rival, "rivals": others[rival], "others": len(others)}
    more["best_at"] = tuple(b for b in BUDGETS if max(means, key=lambda name: means[name][b]) == OURS)
    more["whole"] = whole and summary(whole["curves"], f"{MAPPED} {OURS}", f"{MAPPED} {RIVAL}")
    more["whole_seeds"] = whole and whole["seeds"]
    return render("selection-sentence.md.j2", figures, all=len(strategies), **more)


def _picture(curves: Curves) -> str:
    means = {name: found for name, found in mean_curve(curves).items() if name in STYLES}
    values = [score for found in means.values() for score in found.values()]
    x_ticks = {math.log2(budget): str(budget) for budget in BUDGETS}
    panel = Panel(f"accuracy, mean of {len(curves)} sets, by labels", (56, 0, 614), x_ticks, values)
    for name, found in means.items():
        panel.curve(list(zip(x_ticks, found.values(), strict=True)), STYLES[name])
    panel.names([(math.log2(BUDGETS[-1]), found[BUDGETS[-1]], name, STYLES[name]) for name, found in means.items()])
    told = "; ".join(f"{name} {found[BUDGETS[0]]:.3f} to {found[BUDGETS[-1]]:.3f}" for name, found in means.items())
    return picture(860, 300, f"Accuracy by labels: {told}", [panel])
