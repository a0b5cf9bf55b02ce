"""The page docs/benchmarks/weak_labels.md, written from the JSON of `benchmarks.weak_labels`."""

import statistics
from typing import Any

from benchmarks.weak_labels_curve import crossover

BAR_SIZES = ("10", "30", "60", "120")
END_BARS = {"youtube": 0.90, "sms": 0.90, "trec": 0.66, "agnews": 0.84}


def page(figures: dict[str, Any], plot: str) -> str:
    """The page in Markdown, with what was measured and, for each bar, whether it is met; `plot` is the curve's file."""
    parts = figures["parts"]
    lines = [
        "# Weak labels",
        "",
        "Written by `python -m benchmarks.weak_labels`; the JSON beside it holds the same. All models learn from the",
        "train file's votes, or the valid file's where there is no train file (AG News); the test file is only scored.",
        "",
    ]
    for name, write in (("label", _label), ("end", _end), ("gold", _gold), ("selected", _selected), ("scale", _scale)):
        if parts.get(name):
            lines += [*write({place: found["figures"] for place, found in parts[name].items()}), ""]
            if name == "gold":
                lines += [f"![Test figure by gold labels]({plot})", ""]
            lines += [_measured(parts[name]), ""]
    missing = [name for name in ("label", "end", "gold", "selected", "scale") if not parts.get(name)]
    if missing:
        lines += [f"Not measured yet: {', '.join(missing)}.", ""]
    return "\n".join(lines)


def _measured(part: dict[str, Any]) -> str:
    times = ", ".join(f"{name} {found['seconds']} s" for name, found in part.items())
    machines = {f"{found['cores']} cores ({found['processor']})" for found in part.values()}
    commits = {found["commit"][:12] + "+" * found["uncommitted_changes"] for found in part.values()}
    plus = (
        "; a + stands for uncommitted changes" if any(found["uncommitted_changes"] for found in part.values()) else ""
    )
    return f"Measured in {times} on {' and '.join(sorted(machines))}, commit {', '.join(sorted(commits))}{plus}."


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---", *["---:"] * (len(head) - 1)], *rows)]


def _measure(place: str, found: dict[str, Any]) -> str:
    """F1 or accuracy; figures that were kept from before this was written beside them had F1 on sms alone."""
    return found.get("measure", "F1" if place == "sms" else "accuracy")


def _set(place: str, found: dict[str, Any]) -> str:
    return f"{place} (F1)" if _measure(place, found) == "F1" else place


def _met(met: bool) -> str:
    return "met" if met else "**not met**"


def _label(sets: dict[str, Any]) -> list[str]:
    names = list(dict.fromkeys(name for found in sets.values() for name in found["models"]))
    names += [name for found in sets.values() for name in (*found["stopped"], *found.get("failed", ()))]
    names = list(dict.fromkeys(names))
    scores = {name: {p: f["models"][name]["score"] for p, f in sets.items() if name in f["models"]} for name in names}
    rows: list[list[str]] = []
    for name in sorted(names, key=lambda name: (len(scores[name]), sum(scores[name].values())), reverse=True):
        of_sets = [found["models"].get(name) for found in sets.values()]
        away = ["failed" if name in found.get("failed", ()) else "stopped" for found in sets.values()]
        told = zip(of_sets, away, strict=True)
        cells = [f"{f['score']:.3f} ({f['covered_accuracy']:.3f})" if f else why for f, why in told]
        ended = [f for f in of_sets if f]
        whole = len(ended) == len(sets)
        mean = f"{statistics.fmean(f['score'] for f in ended):.4f}" if whole else ""
        covered = f"{statistics.fmean(f['covered_accuracy'] for f in ended):.4f}" if whole else ""
        rows.append([name, *cells, mean, covered, f"{sum(f['cpu_s'] for f in ended):.0f}"])
    below = [place for place in sets if scores["auto"][place] < scores["majority"][place]]
    ahead = [name for name in names if name not in ("auto", "anchored") and _not_behind(scores[name], scores["auto"])]
    by_f1 = ", ".join(place for place, found in sets.items() if _measure(place, found) == "F1")
    by_f1 = f" (F1 for {by_f1})" if by_f1 else ""
    limits = sorted({found["peer_limit_s"] for found in sets.values()})
    failed = [f"- {name} failed on {p}: {why}" for p, f in sets.items() for name, why in f.get("failed", {}).items()]
    return [
        "## Label model alone, test split",
        "",
        f"All rows{by_f1}, and in brackets accuracy on the covered ones. A row without a vote gets the model's",
        "most frequent class, for a peer the majority's. `stopped`: the peer had not ended after",
        f"{' or '.join(map(str, limits))} CPU seconds on that set; it is then compared on the others.",
        "",
        *_table(["model", *sets, "mean", "mean covered", "CPU s"], rows),
        "",
        f"- `auto` below soft majority on none of the sets shown: {_met(not below)}"
        + (f" ({', '.join(below)})" if below else ""),
        f"- mean of `auto` over the sets shown above every rival: {_met(not ahead)}"
        + (f" (not above {', '.join(ahead)})" if ahead else ""),
        *failed,
    ]


def _not_behind(rival: dict[str, float], ours: dict[str, float]) -> bool:
    """Whether the rival's mean is at least ours, over the sets on which it ended."""
    return bool(rival) and statistics.fmean(rival.values()) >= statistics.fmean(ours[place] for place in rival)


def _end(sets: dict[str, Any]) -> list[str]:
    told = next(iter(sets.values()))
    kinds = [kind for kind in told if kind != "measure" and not kind.startswith("calibration_error")]
    rows: list[list[str]] = []
    for place, found in sets.items():
        bar = END_BARS.get(place)
        verdict = "" if bar is None else _met(found[kinds[0]] >= bar)
        errors = (found.get("calibration_error"), found.get("calibration_error_of_default"))
        sure = [f"{error:.3f}" if error is not None else "not measured" for error in errors]
        scores = [f"{found[kind]:.3f}" for kind in kinds]
        rows.append([_set(place, found), *scores, "" if bar is None else f"{bar:.2f}", verdict, *sure])
    return [
        "## End model on weak labels alone, test split",
        "",
        "Training has one optimum and draws no random numbers: every seed gives the same figure. The calibration error",
        "of the first, and of auto, the default, is how far probabilities lie from the shares of right answers on the",
        "mean (15 bins).",
        "",
        *_table(["set", *kinds, "bar for the first", "", "its calibration error", "that of auto"], rows),
    ]


def _gold(sets: dict[str, Any]) -> list[str]:
    rows: list[list[str]] = []
    lost: list[str] = []
    columns = list(dict.fromkeys(size for found in sets.values() for size in found["sizes"]))
    for place, found in sets.items():
        sizes, weak = found["sizes"], found["weak_only"]
        means = {size: (f["weak_then_gold"]["mean"], f["gold_only"]["mean"]) for size, f in sizes.items()}
        cells = ["{:.3f} / {:.3f}".format(*means[size]) if size in means else "" for size in columns]
        at = crossover(sizes)
        rows.append([_set(place, found), f"{weak:.3f}", *cells, f"{at:.0f}" if at else f"above {max(map(int, sizes))}"])
        lost += [
            f"{place} at {size}" for size in BAR_SIZES if size in means and means[size][0] <= max(weak, means[size][1])
        ]
    return [
        "## Weak then gold / gold only, by gold labels picked at random",
        "",
        "Means of ten picks, test split. The last column is the number of labels at which gold alone is as good,",
        "between two sizes by their logarithms. Gold labels alone see vectors through a map (`feature_map.py`), as the",
        "product does without weak labels, and words where the other has them.",
        "",
        *_table(["set", "weak only", *columns, "crossover"], rows),
        "",
        f"- above weak only and gold only at {', '.join(BAR_SIZES)}: {_met(not lost)}"
        + (f" ({', '.join(lost)})" if lost else ""),
    ]


def _selected(sets: dict[str, Any]) -> list[str]:
    rows: list[list[str]] = []
    lost: list[str] = []
    columns = list(dict.fromkeys(size for found in sets.values() for size in found["sizes"]))
    for place, found in sets.items():
        weak, cells = found["weak_only"], list[str]()
        for size in columns:
            means = {name: figures["mean"] for name, figures in found["sizes"][size].items()}
            cells.append(" / ".join(f"{mean:.3f}" for mean in means.values()))
            if size in BAR_SIZES and means["weak_then_gold"] <= max(weak, *list(means.values())[1:]):
                lost.append(f"{place} at {size}")
        rows.append([_set(place, found), f"{weak:.3f}", *cells])
    missing = [place for place in END_BARS if place not in sets]
    return [
        "## Weak then gold / gold only / gold only at random, by gold labels that the selection asks for",
        "",
        "The strategy `value` picks from four fifths of the train rows, drawn anew for each of ten seeds, in batches",
        "that end at these sizes; the end model learns between them. The second figure is of gold labels alone on what",
        "was asked, the third on as many labels picked at random.",
        "",
        *_table(["set", "weak only", *columns], rows),
        "",
        f"- above weak only and both gold only at {', '.join(BAR_SIZES)}, on the sets shown: {_met(not lost)}"
        + (f" ({', '.join(lost)})" if lost else "")
        + (f"; not measured: {', '.join(missing)}" if missing else ""),
    ]


def _scale(sets: dict[str, Any]) -> list[str]:
    (found,) = sets.values()
    rows = [
        [kind, f"{f['seconds']:.1f}", f["used"], f"{f['accuracy']:.3f}"]
        for kind, f in found.items()
        if kind != "peak_gib"
    ]
    slowest = max(f["seconds"] for kind, f in found.items() if kind != "peak_gib")
    peak = found["peak_gib"]
    return [
        "## 1,000,000 items x 100 functions, 5% coverage, 4 classes",
        "",
        *_table(["model", "seconds", "used", "accuracy, covered"], rows),
        "",
        f"- under a minute: {_met(slowest < 60)}",
        f"- under 2 GB: {_met(peak < 1.86)} (peak {peak} GiB, votes and their making in it)",
    ]
