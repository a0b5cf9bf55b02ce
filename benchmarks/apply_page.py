"""docs/benchmarks/apply.md, and the sentence in weak_labels/README.md, from the JSON of `benchmarks.apply`."""

from dataclasses import dataclass
from typing import Any

PEERS = {"pandas": "Snorkel PandasLFApplier", "dask": "Snorkel DaskLFApplier, processes"}
RUNS = {
    "first": "Siftline, lake to lake, first run",
    "changed": "Siftline, one of 20 functions changed",
    "nothing_new": "Siftline, nothing new",
}
LINEAR = 1.15
"""Time of a row at all rows over that at a quarter of them, up to which it counts as linear."""
TWENTIETH = 0.1
"""Share of the first run up to which one changed function of 20 costs about a twentieth."""
_NOT_MEASURED = "not measured"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """What is asked, what was measured, and whether it is met (None: a part is missing)."""

    what: str
    asked: str
    measured: str = _NOT_MEASURED
    met: bool | None = None

    @property
    def verdict(self) -> str:
        """In words."""
        return _NOT_MEASURED if self.met is None else "met" if self.met else "NOT MET"


def bars(parts: dict[str, Any]) -> list[Bar]:
    """The bars, for the parts that were measured."""
    found = {name: part["figures"] for name, part in parts.items()}
    whole, quarter = found.get("all"), found.get("quarter")
    bars: list[Bar] = []
    for kind, times in (("pandas", 50), ("dask", 20)):
        what = f"at least {times} times as fast as {PEERS[kind]}"
        bar = Bar(what=what, asked=f"{times}")
        if whole and kind in found:
            ratio = found[kind]["us_per_row"] / _us_per_row(whole, "first")
            bar = Bar(what=what, asked=f"{times}", measured=f"{ratio:.0f} times", met=ratio >= times)
        bars.append(bar)
    what = "peak memory under 2 GB"
    bar = Bar(what=what, asked="2 GB")
    if whole:
        peak = max(whole[run]["peak_bytes"] for run in RUNS) / 1e9
        bar = Bar(what=what, asked="2 GB", measured=f"{peak:.2f} GB", met=peak < 2)
    bars.append(bar)
    what, asked = "linear: time of a row at all rows over that at a quarter of them", f"{LINEAR}"
    bar = Bar(what=what, asked=asked)
    if whole and quarter:
        ratio = _us_per_row(whole, "first") / _us_per_row(quarter, "first")
        bar = Bar(what=what, asked=asked, measured=f"{ratio:.2f}", met=ratio <= LINEAR)
    bars.append(bar)
    what, asked = "one changed function of 20, share of the first run", f"{TWENTIETH}"
    bar = Bar(what=what, asked=asked)
    if whole:
        share = whole["changed"]["seconds"] / whole["first"]["seconds"]
        bar = Bar(what=what, asked=asked, measured=f"{share:.3f}", met=share <= TWENTIETH)
    bars.append(bar)
    what = "votes that differ from the peers'"
    bar = Bar(what=what, asked="0")
    if compared := [found[kind]["votes_that_differ"] for kind in PEERS if kind in found]:
        bar = Bar(what=what, asked="0", measured=str(max(compared)), met=max(compared) == 0)
    return [*bars, bar]


def page(figures: dict[str, Any]) -> str:
    """The page."""
    parts: dict[str, Any] = figures["parts"]
    lines = [
        "# Applying labeling functions",
        "",
        "Written by `python -m benchmarks.apply`; the JSON beside it holds the same. Ten keyword lists and ten regular",
        "expressions; the peers have them with Python's `re`. Siftline reads items from the warehouse and commits",
        "votes to it; the peers get a frame in memory and return a matrix. Each time is the median of three runs.",
        "",
        "| bar | measured | |",
        "|---|---:|---|",
        *(f"| {bar.what} | {bar.measured} | {_bold(bar)} |" for bar in bars(parts)),
        "",
        "| run | rows | seconds | µs/row | peak GB |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, mark in (("quarter", ", a quarter of the rows"), ("all", "")):
        if name not in parts:
            continue
        f = parts[name]["figures"]
        for run in [run for run in RUNS if run in f]:
            cells = [f"{f['rows']:,}", f"{f[run]['seconds']:.2f}", f"{_us_per_row(f, run):.2f}"]
            lines.append(f"| {RUNS[run]}{mark} | {' | '.join(cells)} | {f[run]['peak_bytes'] / 1e9:.2f} |")
    for kind in [kind for kind in PEERS if kind in parts]:
        f = parts[kind]["figures"]
        for rows, seconds in zip(f["rows"], f["seconds"], strict=True):
            lines.append(f"| {PEERS[kind]} | {rows:,} | {seconds:.2f} | {seconds / rows * 1e6:.1f} | |")
    lines.append("")
    if "all" in parts:
        f = parts["all"]["figures"]
        lines += [
            f"The {f['rows']:,} texts are {f['distinct_texts']:,} real sentences, where needed repeated with a number "
            "at the end."
        ]
    if peers := [parts[kind]["figures"] for kind in PEERS if kind in parts]:
        each = ", ".join(f"{kind} {parts[kind]['figures']['us_per_row']:.1f} µs" for kind in PEERS if kind in parts)
        lines += [
            f"Peers are linear in rows and were timed on the first {peers[0]['rows'][1]:,}. They are compared by the "
            f"time of a row between their two sizes, without what they take to start: {each}. PandasLFApplier has one "
            "process; Siftline and Dask may use all cores."
        ]
    lines += [""]
    for name, part in parts.items():
        versions = {**part["versions"], **part["figures"].get("versions", {})}
        lines.append(
            f"- {name}: `{part['command']}`, {part['part_seconds']} s; {part['processor']}, {part['cores']} cores, "
            f"Python {part['python']}, commit {part['commit'][:12]}"
            f"{' with uncommitted changes' if part['uncommitted_changes'] else ''}; "
            + ", ".join(f"{package} {version}" for package, version in versions.items())
        )
    return "\n".join(lines) + "\n"


def sentence(figures: dict[str, Any]) -> str:
    """What weak_labels/README.md says about speed."""
    parts: dict[str, Any] = figures["parts"]
    if "all" not in parts:
        return "Speed: `python -m benchmarks.apply` has not been run at size yet."
    f = parts["all"]["figures"]
    peak = max(f[run]["peak_bytes"] for run in RUNS) / 1e9
    told = [
        f"20 keyword and regex functions over {f['rows']:,} texts, lake to lake: {f['first']['seconds']:.1f} s, "
        f"one of them changed {f['changed']['seconds']:.1f} s, peak memory {peak:.2f} GB."
    ]
    peers = [
        f"{parts[kind]['figures']['us_per_row'] / _us_per_row(f, 'first'):.0f} times the speed of {PEERS[kind]}"
        for kind in PEERS
        if kind in parts
    ]
    if peers:
        told.append(f"By the time of a row {' and '.join(peers)}.")
    return " ".join([*told, "All figures: [docs/benchmarks/apply.md](../docs/benchmarks/apply.md)."])


def _us_per_row(figures: dict[str, Any], run: str) -> float:
    return figures[run]["seconds"] / figures["rows"] * 1e6


def _bold(bar: Bar) -> str:
    return "**not met**" if bar.met is False else bar.verdict
