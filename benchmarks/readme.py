"""Writes figures from the benchmarks' JSON into the documents, so that nobody types them.

    python -m benchmarks.readme

README.md gets the demo's, the selection's and the verdicts on the encoder's claim; weak_labels/README.md a sentence of
docs/benchmarks/apply.json; the encoder's go to docs/benchmarks/engine.md with its picture engine.svg, and into
engine/README.md. The pages in docs/benchmarks and the selection's picture are written from the JSON beside them.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import (
    apply_page,
    claims,
    drawn_functions,
    engine_report,
    int8_page,
    label_studio,
    prefect_memory,
    selection_report,
    serving_report,
    soak_page,
    warehouse_page,
    warehouse_reads,
    weak_labels_report,
)
from benchmarks.engine_plot import frontier

ROOT = Path(__file__).parents[1]
START = "<!-- demo figures: python -m benchmarks.readme -->"
ENGINE_START = "<!-- engine figures: python -m benchmarks.readme -->"
CLAIMS_START = "<!-- claim figures: python -m benchmarks.readme -->"
SELECTION_START = "<!-- selection figures: python -m benchmarks.readme -->"
APPLY_START = "<!-- apply figures: python -m benchmarks.readme -->"
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
    by_default = figures["accuracy_with_default_label_model"]
    picked, chosen = (", ".join(_cell(by_default[of][key]) for key in accuracy[of]) for of in ("random", "siftline"))
    seeds = next(iter(accuracy["random"].values()))["seeds"]
    versions = figures["versions"]
    lines += [
        "",
        f"{_above(accuracy['siftline'], accuracy['random'])} With all {int(count):,} gold labels the end model, a "
        f"linear one on the encoder's vectors, reaches {ceiling['mean']:.3f}. Random pick: mean and standard "
        f"deviation of {seeds} seeds. First run "
        f"{figures['first_run_s']:.0f} s, second run (nothing new) {figures['second_run_s']:.0f} s, without installs, "
        f"on {figures['cores']} cores ({figures['processor']}), Python {figures['python']}, torch {versions['torch']}, "
        f"duckdb {versions['duckdb']}; `{figures['command']}` at commit {figures['commit'][:7]}, "
        f"raw figures in [docs/benchmarks/demo.json](docs/benchmarks/demo.json).",
        "",
        f"The demo's settings name Snorkel's label model. With the default, `auto`, the column of Siftline reads "
        f"{chosen}, that of random picks {picked}.",
    ]
    return "\n".join(lines)


def _above(ours: dict[str, Any], random: dict[str, Any]) -> str:
    """Where Siftline's one run is above the random picks, and where by more than two of their standard deviations."""
    lead = {int(n): ours[n]["mean"] - random[n]["mean"] for n in random if n in ours}
    above = [n for n in sorted(lead) if lead[n] > 0]
    far = [n for n in above if lead[n] > 2 * random[str(n)]["sd"]]
    return (
        f"Siftline's run is above the random picks' mean with {_listed(above)} labels, by more than two of their "
        f"standard deviations with {_listed(far)}."
    )


def _listed(counts: list[int]) -> str:
    return " and ".join(filter(None, (", ".join(map(str, counts[:-1])), *map(str, counts[-1:])))) or "none"


def filled(readme: str, figures: dict[str, Any]) -> str:
    """The README with its figures replaced."""
    return _between(readme, START, table(figures), "README.md")


def claims_filled(readme: str, folder: Path) -> str:
    """The README with the table of the encoder's claim, from the three files that it is judged by."""
    engine, int8, serving = (
        json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("engine", "int8", "serving")
    )
    return _between(readme, CLAIMS_START, claims.table(engine, int8, serving), "README.md")


def selection_filled(readme: str, figures: dict[str, Any]) -> str:
    """The README with what the selection is worth on other texts."""
    return _between(readme, SELECTION_START, selection_report.sentence(figures), "README.md")


def engine_filled(readme: str, figures: dict[str, Any]) -> str:
    """engine/README.md with its figures replaced."""
    return _between(readme, ENGINE_START, engine_report.block(figures), "engine/README.md")


def apply_filled(readme: str, figures: dict[str, Any]) -> str:
    """weak_labels/README.md with its figures replaced."""
    return _between(readme, APPLY_START, apply_page.sentence(figures), "weak_labels/README.md")


def _between(readme: str, start: str, content: str, name: str) -> str:
    before, _, rest = readme.partition(start)
    _, _, after = rest.partition(END)
    assert after, f"{name} lacks the marks {start} and {END}"
    return f"{before}{start}\n\n{content}\n\n{END}{after}"


PAGES: Mapping[str, Callable[[dict[str, Any]], str]] = {
    "apply": apply_page.page,
    "drawn": drawn_functions.page,
    "engine": engine_report.page,
    "int8": int8_page.page,
    "label_studio": label_studio.page,
    "prefect-memory": prefect_memory.page,
    "selection": selection_report.page,
    "serving": serving_report.page,
    "soak": soak_page.page,
    "warehouse": warehouse_page.page,
    "warehouse-reads": warehouse_reads.page,
    "weak_labels": partial(weak_labels_report.page, plot="weak_labels.svg"),
}
"""What writes docs/benchmarks/NAME.md from NAME.json; each benchmark does so too when it has measured."""


def main() -> None:
    """Rewrite the documents."""
    folder = ROOT / "docs" / "benchmarks"
    read = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}
    path = ROOT / "README.md"
    readme = filled(path.read_text("utf-8"), read["demo"])
    path.write_text(claims_filled(selection_filled(readme, read["selection"]), folder), "utf-8")
    path = ROOT / "weak_labels" / "README.md"
    path.write_text(apply_filled(path.read_text("utf-8"), read["apply"]), "utf-8")
    write_engine(read["engine"], folder, ROOT / "engine" / "README.md")
    for name, picture in selection_report.plots(read["selection"]).items():
        (folder / name).write_text(picture, "utf-8")
    for name in PAGES.keys() & read.keys():
        (folder / f"{name}.md").write_text(PAGES[name](read[name]), "utf-8")


def write_engine(figures: dict[str, Any], folder: Path, readme: Path) -> None:
    """Write the encoder's page and picture, and its figures into the engine's README.

    Args:
        figures: of `benchmarks.engine`.
        folder: takes engine.md and engine.svg.
        readme: has the marks.
    """
    (folder / "engine.md").write_text(engine_report.page(figures), "utf-8")
    if "quality" in figures["parts"]:
        (folder / "engine.svg").write_text(frontier(figures), "utf-8")
    readme.write_text(engine_filled(readme.read_text("utf-8"), figures), "utf-8")


if __name__ == "__main__":
    main()
