"""The bars of the demo: time of the first and second run, rows the second one adds, accuracy against its rivals.

    python -m benchmarks.demo [--output docs/benchmarks/demo.json]

Runs examples/reuters in a fresh copy by the very commands of `make demo`, and in another with the label model that a
project has where its settings name none: those of the demo name Snorkel's. Downloads and installs are not timed.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import ROOT, Figures, command, environment, mean_and_sd, write_json
from benchmarks.pages import render
from flows.settings.settings import WeakLabelsSection
from warehouse import Lake, Reader

DEMO = ROOT / "examples" / "reuters"
NOT_COPIED = ("lake", "tasks", ".siftline", "report.html", "data")
LABEL_MODEL = "SIFTLINE_WEAK_LABELS__LABEL_MODEL"
SERIES = ("siftline", "random", "gold_only", "random_gold_only")


def table(figures: Figures) -> str:
    """The README's table and its caption."""
    ours, random = figures["accuracy"]["siftline"], figures["accuracy"]["random"]
    lead = {int(n): (ours[n]["mean"] - random[n]["mean"], random[n]["sd"]) for n in random if n in ours}
    above = sorted(n for n, (by, _) in lead.items() if by > 0)
    far = [n for n in above if lead[n][0] > 2 * lead[n][1]]
    return render("demo.md.j2", figures, series=SERIES, cell=_cell, above=above, far=far)


def _cell(figure: Figures | None) -> str:
    if figure is None:
        return ""
    return f"{figure['mean']:.3f}" + (f" ± {figure['sd']:.3f}" if figure["sd"] is not None else "")


def main() -> None:
    """Measure, print JSON and write it where asked."""
    given = command(__doc__).parse_args()
    figures = _measure()
    print(json.dumps(figures, indent=2))
    if given.output:
        write_json(figures, given.output)


def _measure() -> Figures:
    """Run the demo twice in a copy and read the figures from its warehouse; once more with the default label model."""
    with _fresh_copy() as root:
        first_s = _timed(root)
        with Lake(root / "lake") as lake:
            before = lake.snapshot()
        second_s = _timed(root)
        with Lake(root / "lake") as lake, lake.read() as reader:
            accuracy, added = _accuracy(reader), lake.snapshot() - before
            stages = reader.rows(
                "SELECT stage, count(*), sum(seconds) FROM runs GROUP BY stage ORDER BY min(committed_at)"
            )
    with _fresh_copy() as root:
        _timed(root, **{LABEL_MODEL: WeakLabelsSection().label_model})
        with Lake(root / "lake") as lake, lake.read() as reader:
            by_default = _accuracy(reader)
    return {
        "benchmark": "demo",
        "command": "python -m benchmarks.demo",
        **environment(),
        "first_run_s": round(first_s, 1),
        "second_run_s": round(second_s, 1),
        "second_over_first": round(second_s / first_s, 3),
        "snapshots_added_by_second_run": added,
        "accuracy": accuracy,
        "accuracy_with_default_label_model": by_default,
        "stages": {stage: {"commits": n, "seconds": round(s, 1)} for stage, n, s in stages},
    }


@contextmanager
def _fresh_copy() -> Generator[Path]:
    """The demo's project with its data and nothing done yet."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "reuters"
        shutil.copytree(DEMO, root, ignore=shutil.ignore_patterns(*NOT_COPIED))
        _siftline("samples", "get", "reuters-r8", "--output", str(root / "data"))
        yield root


def _accuracy(reader: Reader) -> Figures:
    """Accuracy on the test split by series and number of labels."""
    sql = "SELECT series, labels, value FROM metrics WHERE name = 'accuracy' AND split = 'test' ORDER BY ALL"
    values: dict[str, dict[str, list[float]]] = {}
    for series, labels, value in reader.rows(sql):
        values.setdefault(series, {}).setdefault(str(labels), []).append(value)
    return {
        series: {
            n: mean_and_sd(of) | {"seeds": len(of)} | ({"sd": None} if len(of) < 2 else {}) for n, of in by.items()
        }
        for series, by in values.items()
    }


def _timed(root: Path, **settings: str) -> float:
    began = time.monotonic()
    _siftline("run", "--annotator", "simulated", "--project", str(root), **settings)
    return time.monotonic() - began


def _siftline(*arguments: str, **settings: str) -> None:
    call = [sys.executable, "-m", "flows.cli.main", *arguments]
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **settings})


if __name__ == "__main__":
    main()
