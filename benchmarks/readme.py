"""Writes the README's figures from the benchmark JSON, so that no number in it is typed by hand.

python -m benchmarks.readme
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
START = "<!-- demo figures: python -m benchmarks.readme -->"
END = "<!-- end -->"


SERIES = ("siftline", "random", "gold_only", "random_gold_only")


def _cell(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return ""
    return f"{figure['mean']:.3f}" + (f" ± {figure['sd']:.3f}" if figure["sd"] is not None else "")


def table(figures: dict[str, Any]) -> str:
    """The README's table and its caption from the demo benchmark's JSON."""
    accuracy = figures["accuracy"]
    lines = [
        "| labels | Siftline | random pick, same pipeline | same labels, no weak labels | random, no weak labels |",
        "|---:|---:|---:|---:|---:|",
    ]
    for labels in sorted(map(int, accuracy["siftline"])):
        key = str(labels)
        cells = [_cell(accuracy.get(series, {}).get(key)) for series in SERIES]
        lines.append(f"| {labels or '0 (weak labels only)'} | " + " | ".join(cells) + " |")
    [(count, ceiling)] = accuracy["all_gold"].items()
    seeds = next(iter(accuracy["random"].values()))["seeds"]
    versions = figures["versions"]
    lines += [
        "",
        f"With all {int(count):,} gold labels the end model reaches {ceiling['mean']:.3f}. Random pick: mean and "
        f"standard deviation of {seeds} seeds. First run {figures['first_run_s']:.0f} s, second run (nothing new) "
        f"{figures['second_run_s']:.0f} s, without installs, on {figures['cores']} cores ({figures['processor']}), "
        f"Python {figures['python']}, torch {versions['torch']}, duckdb {versions['duckdb']}; "
        f"`{figures['command']}`, raw figures in [docs/benchmarks/demo.json](docs/benchmarks/demo.json).",
    ]
    return "\n".join(lines)


def filled(readme: str, figures: dict[str, Any]) -> str:
    """The README with its figures replaced."""
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    assert after, f"README.md lacks the marks {START} and {END}"
    return f"{before}{START}\n\n{table(figures)}\n\n{END}{after}"


def main() -> None:
    """Rewrite README.md."""
    figures = json.loads((ROOT / "docs" / "benchmarks" / "demo.json").read_text("utf-8"))
    path = ROOT / "README.md"
    path.write_text(filled(path.read_text("utf-8"), figures), "utf-8")


if __name__ == "__main__":
    main()
