"""`siftline lf`: try labeling functions before they vote, and look at those that do."""

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from features.ingest import ingest
from flows.cli.console import excerpt, out, print_table
from flows.cli.look import simulated_mark
from flows.project import Project
from warehouse import Lake
from weak_labels.diagnostics import lf_report, preview
from weak_labels.functions import load_functions


def preview_functions(root: Path, file: Path | None, items: int) -> None:
    """Print what every function of a file hits on some items."""
    project = Project(root)
    functions = load_functions(file, project.classes) if file else project.functions
    with _lake_with_items(project) as lake:
        previews = preview(lake, functions, project.vote_config, items=items, encode=project.encoder.encode)
    rows = [
        (
            p.name,
            p.hits,
            p.coverage,
            ", ".join(p.polarity),
            p.faults,
            " | ".join(excerpt(e.text, 60) for e in p.examples),
        )
        for p in previews
    ]
    print_table(["function", "hits", "coverage", "votes for", "faults", "examples"], rows, title=f"{items} items")


@contextmanager
def _lake_with_items(project: Project) -> Generator[Lake]:
    """The project's warehouse; before the first run, a passing one with the items of the sources."""
    if project.lake_path.exists():
        with project.read_lake() as lake:
            yield lake
        return
    with tempfile.TemporaryDirectory() as folder, Lake(Path(folder) / "lake") as lake:
        ingest(lake, project.ingest_config)
        yield lake


def report_functions(root: Path) -> None:
    """Print the figures of every function on the train split."""
    project = Project(root)
    with project.read_lake() as lake, lake.read() as reader:
        rows = lf_report(lake)
        mark = simulated_mark(reader)
    shown = [
        (
            r.name,
            ", ".join(r.polarity),
            r.coverage,
            r.overlap,
            r.conflict,
            r.gold_votes,
            r.accuracy,
            "-" if r.accuracy_low is None else f"{r.accuracy_low:.2f} to {r.accuracy_high:.2f}",
            r.faults,
        )
        for r in rows
    ]
    columns = ["function", "votes for", "coverage", "overlap", "conflict", "gold", "accuracy", "95% interval", "faults"]
    print_table(columns, shown, title="labeling functions" + mark)
    if not rows:
        out.print("No votes yet: siftline run")
