"""The bars of the demo: time of the first and second run, rows the second one adds, accuracy against its rivals.

    python -m benchmarks.demo [--output docs/benchmarks/demo.json]

Runs examples/reuters in a fresh copy by the very commands of `make demo`, and in another with the label model that a
project has where its settings name none: those of the demo name Snorkel's. Downloads and installs are not timed.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from flows.settings.settings import WeakLabelsSection
from warehouse import Lake, Reader

DEMO = Path(__file__).parents[1] / "examples" / "reuters"
RUN = ["-m", "flows.cli.main", "run", "--annotator", "simulated", "--project"]
LABEL_MODEL = "SIFTLINE_WEAK_LABELS__LABEL_MODEL"


def main() -> None:
    """Measure, print JSON and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    text = json.dumps(measure(), indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", "utf-8")


def measure() -> dict[str, Any]:
    """Run the demo twice in a copy and read the figures from its warehouse; once more with the default label model."""
    with _fresh_copy() as root:
        first_s = _timed(root)
        with Lake(root / "lake") as lake:
            before = lake.snapshot()
        second_s = _timed(root)
        with Lake(root / "lake") as lake, lake.read() as reader:
            accuracy = _accuracy(reader)
            stages = reader.rows(
                "SELECT stage, count(*), sum(seconds) FROM runs GROUP BY stage ORDER BY min(committed_at)"
            )
            snapshots_added = lake.snapshot() - before
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
        "snapshots_added_by_second_run": snapshots_added,
        "accuracy": accuracy,
        "accuracy_with_default_label_model": by_default,
        "stages": {stage: {"commits": n, "seconds": round(s, 1)} for stage, n, s in stages},
    }


@contextmanager
def _fresh_copy() -> Generator[Path]:
    """The demo's project with its data and nothing done yet."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "reuters"
        shutil.copytree(DEMO, root, ignore=shutil.ignore_patterns("lake", "tasks", ".siftline", "report.html", "data"))
        _siftline("samples", "get", "reuters-r8", "--output", str(root / "data"))
        yield root


def _accuracy(reader: Reader) -> dict[str, Any]:
    """Accuracy on the test split by series and number of labels."""
    rows = reader.rows(
        "SELECT series, labels, value FROM metrics WHERE name = 'accuracy' AND split = 'test' ORDER BY ALL"
    )
    figures: dict[str, dict[int, list[float]]] = {}
    for series, labels, value in rows:
        figures.setdefault(series, {}).setdefault(labels, []).append(value)
    return {
        series: {
            str(labels): {
                "mean": round(statistics.fmean(values), 4),
                "sd": round(statistics.stdev(values), 4) if len(values) > 1 else None,
                "seeds": len(values),
            }
            for labels, values in by_labels.items()
        }
        for series, by_labels in figures.items()
    }


def _timed(root: Path, **settings: str) -> float:
    began = time.monotonic()
    subprocess.run(
        [sys.executable, *RUN, str(root)], check=True, stdout=subprocess.DEVNULL, env={**os.environ, **settings}
    )
    return time.monotonic() - began


def _siftline(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "flows.cli.main", *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
