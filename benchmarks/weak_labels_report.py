"""The page docs/benchmarks/weak_labels.md, written from the JSON of `benchmarks.weak_labels`."""

import statistics
from typing import Any

END_BARS = {"youtube": 0.90, "sms": 0.90, "trec": 0.66, "agnews": 0.84}


def page(figures: dict[str, Any]) -> str:
    """The page in Markdown, with the parts that were measured and, for each bar, whether it is met."""
    parts = figures["parts"]
    lines = [
        "# Weak labels",
        "",
        "Written by `python -m benchmarks.weak_labels`; the JSON beside it holds the same.",
        "",
    ]
    for name, write in (("label", _label), ("end", _end), ("gold", _gold), ("scale", _scale)):
        if name in parts:
            lines += [*write(parts[name]["figures"]), "", _measured(parts[name]), ""]
    missing = [name for name in ("label", "end", "gold", "scale") if name not in parts]
    if missing:
        lines += [f"Not measured yet: {', '.join(missing)}.", ""]
    return "\n".join(lines)


def _measured(part: dict[str, Any]) -> str:
    changes = " with uncommitted changes" if part["uncommitted_changes"] else ""
    machine = f"{part['cores']} cores ({part['processor']})"
    return f"Measured in {part['seconds']} s on {machine}, commit {part['commit'][:12]}{changes}."


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---", *["---:"] * (len(head) - 1)], *rows)]


def _met(met: bool) -> str:
    return "met" if met else "**not met**"


def _label(sets: dict[str, Any]) -> list[str]:
    names = list(next(iter(sets.values()))["models"])
    scores = {name: [found["models"][name]["score"] for found in sets.values()] for name in names}
    means = {name: statistics.fmean(values) for name, values in scores.items()}
    rows = []
    for name in sorted(names, key=lambda name: -means[name]):
        covered = [found["models"][name]["covered_accuracy"] for found in sets.values()]
        cells = [f"{score:.3f} ({right:.3f})" for score, right in zip(scores[name], covered, strict=True)]
        rows.append([name, *cells, f"{means[name]:.4f}", f"{statistics.fmean(covered):.4f}"])
    pairs = zip(sets, scores["auto"], scores["majority"], strict=True)
    below = [place for place, ours, plain in pairs if ours < plain]
    rivals = [name for name in names if name not in ("auto", "anchored")]
    ahead = [name for name in rivals if means[name] >= means["auto"]]
    return [
        "## Label model alone, test split",
        "",
        "All rows, and in brackets accuracy on the covered ones. A row without a vote gets the model's most frequent",
        "class, for a peer the majority's.",
        "",
        *_table(["model", *sets, "mean", "mean covered"], rows),
        "",
        f"- `auto` below soft majority on none of the sets shown: {_met(not below)}"
        + (f" ({', '.join(below)})" if below else ""),
        f"- mean of `auto` over the sets shown above every rival: {_met(not ahead)}"
        + (f" (not above {', '.join(ahead)})" if ahead else ""),
    ]


def _end(sets: dict[str, Any]) -> list[str]:
    kinds = list(next(iter(sets.values())))
    rows: list[list[str]] = []
    for place, found in sets.items():
        bar = END_BARS.get(place)
        verdict = "" if bar is None else _met(found[kinds[0]] >= bar)
        rows.append([place, *(f"{found[kind]:.3f}" for kind in kinds), "" if bar is None else f"{bar:.2f}", verdict])
    return [
        "## End model on weak labels alone, test split",
        "",
        "Training has one optimum and draws no random numbers: every seed gives the same figure.",
        "",
        *_table(["set", *kinds, "bar for the first", ""], rows),
    ]


def _gold(sets: dict[str, Any]) -> list[str]:
    rows = []
    for place, sizes in sets.items():
        crossed = [
            size for size, found in sizes.items() if found["gold_only"]["mean"] >= found["weak_then_gold"]["mean"]
        ]
        cells = [f"{f['weak_then_gold']['mean']:.3f} / {f['gold_only']['mean']:.3f}" for f in sizes.values()]
        rows.append([place, *cells, crossed[0] if crossed else f"above {max(map(int, sizes))}"])
    sizes = list(next(iter(sets.values())))
    return [
        "## Weak then gold / gold only, by gold labels picked at random",
        "",
        "Means of ten picks, test split. The last column is the first size at which gold alone is as good.",
        "",
        *_table(["set", *sizes, "crossover"], rows),
    ]


def _scale(found: dict[str, Any]) -> list[str]:
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
