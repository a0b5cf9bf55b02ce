"""The page docs/benchmarks/weak_labels.md and its picture, from the figures of `benchmarks.weak_labels`."""

import math
import statistics
from typing import Any

from benchmarks.harness import Figures
from benchmarks.pages import HEIGHT, Panel, picture, render

BAR_SIZES = ("10", "30", "60", "120")
END_BARS = {"youtube": 0.90, "sms": 0.90, "trec": 0.66, "agnews": 0.84}
PARTS = ("label", "end", "gold", "selected", "scale")
LINES = {"blue": "weak then gold", "red": "gold alone", "grey dashed": "weak alone"}


def pages(figures: Figures, plot: str = "weak_labels.svg") -> dict[str, str]:
    """The page, with a verdict for each bar, and the curve of gold labels."""
    parts = {name: figures["parts"].get(name, {}) for name in PARTS}
    found = {name: {place: one["figures"] for place, one in part.items()} for name, part in parts.items()}
    more: Figures = {"plot": plot, "crossover": crossover, "measure": _measure, "machines": _machines}
    more |= {"end_bars": END_BARS, "bar_sizes": BAR_SIZES, **_label_models(found["label"])}
    for part, name in (("gold", "gold"), ("selected", "asked")):
        sizes = dict.fromkeys(size for one in found[part].values() for size in one["sizes"])
        more |= {f"{name}_sizes": list(sizes), f"{name}_lost": _not_above(found[part])}
    written = {".md": render("weak_labels.md.j2", parts, **more)}
    return {**written, **({".svg": _curve(found["gold"])} if found["gold"] else {})}


def _label_models(sets: Figures) -> Figures:
    """Rows of the label models, the best first, and where `auto` is below the majority or a rival ahead of it."""
    names = dict.fromkeys(name for found in sets.values() for name in found["models"])
    names |= dict.fromkeys(n for found in sets.values() for n in (*found["stopped"], *found.get("failed", ())))
    scores = {n: {p: found["models"][n]["score"] for p, found in sets.items() if n in found["models"]} for n in names}
    rows: list[tuple[Any, ...]] = []
    for name in sorted(names, key=lambda name: (len(scores[name]), sum(scores[name].values())), reverse=True):
        cells = [
            found["models"].get(name) or ("failed" if name in found.get("failed", ()) else "stopped")
            for found in sets.values()
        ]
        ended = [cell for cell in cells if isinstance(cell, dict)]
        means = [
            statistics.fmean(c[key] for c in ended) for key in ("score", "covered_accuracy") if len(ended) == len(sets)
        ]
        rows.append((name, cells, *(means or (None, None)), sum(cell["cpu_s"] for cell in ended)))
    rivals = [name for name in names if name not in ("auto", "anchored") and scores[name]]
    ours = {name: statistics.fmean(scores["auto"][place] for place in scores[name]) for name in rivals}
    return {
        "models": rows,
        "by_f1": [place for place, found in sets.items() if _measure(place, found) == "F1"],
        "limits": sorted({found["peer_limit_s"] for found in sets.values()}),
        "below": [place for place in sets if scores["auto"][place] < scores["majority"][place]],
        "ahead": [name for name in rivals if statistics.fmean(scores[name].values()) >= ours[name]],
    }


def _measure(place: str, found: Figures) -> str:
    """F1 or accuracy; figures from before this was written beside them had F1 on sms alone."""
    return found.get("measure", "F1" if place == "sms" else "accuracy")


def _not_above(sets: Figures) -> list[str]:
    """Sets and sizes at which labels on top of weak ones are not above weak labels alone and the others."""
    lost: list[str] = []
    for place, found in sets.items():
        for size, by_kind in found["sizes"].items():
            both, *others = (figures["mean"] for figures in by_kind.values())
            lost += [f"{place} at {size}"] if size in BAR_SIZES and both <= max(found["weak_only"], *others) else []
    return lost


def _machines(part: Figures) -> str:
    machines = sorted({f"{found['cores']} cores ({found['processor']})" for found in part.values()})
    commits = sorted({found["commit"][:12] + "+" * found["uncommitted_changes"] for found in part.values()})
    plus = "; a + stands for uncommitted changes" if any("+" in commit for commit in commits) else ""
    return f"{' and '.join(machines)}, commit {', '.join(commits)}{plus}"


def crossover(sizes: Figures) -> float | None:
    """Gold labels at which gold alone draws level, between two sizes by their logarithms; None if at no size."""
    before: tuple[float, float] | None = None
    for size, found in sizes.items():
        place, ahead = math.log(int(size)), found["weak_then_gold"]["mean"] - found["gold_only"]["mean"]
        if ahead <= 0:
            if before is None:
                return float(size)
            return math.exp(before[0] + (place - before[0]) * before[1] / (before[1] - ahead))
        before = (place, ahead)
    return None


def _curve(sets: Figures) -> str:
    """Weak then gold beside gold alone and weak alone, with the size at which they cross; one panel a set."""
    panels: list[Panel] = []
    told: list[str] = []
    for number, (name, found) in enumerate(sets.items()):
        sizes = {math.log(int(size)): by_kind for size, by_kind in found["sizes"].items()}
        curves = [[by[kind]["mean"] for by in sizes.values()] for kind in ("weak_then_gold", "gold_only")]
        at = (56 + number % 2 * 490, number // 2 * HEIGHT, 400)
        x_ticks = dict(zip(sizes, found["sizes"], strict=True))
        title = f"{name}, {_measure(name, found)} by gold labels"
        panel = Panel(title, at, x_ticks, [*curves[0], *curves[1], found["weak_only"]])
        panel.level(found["weak_only"], "grey dashed")
        for values, style in zip(curves, LINES, strict=False):
            panel.curve(list(zip(sizes, values, strict=True)), style)
        level = crossover(found["sizes"])
        if level is not None:
            panel.upright(math.log(level), "brown dashed", f"level at {level:.0f}")
        panel.legend(LINES)
        panels.append(panel)
        told.append(f"{name}: gold alone draws level {f'at {level:.0f} labels' if level else 'at none of the sizes'}")
    return picture(980, HEIGHT * math.ceil(len(sets) / 2), "Test figure by gold labels. " + "; ".join(told), panels)
