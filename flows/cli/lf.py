"""`siftline lf`: try labeling functions before they vote, and look at those that do."""

from pathlib import Path

from flows.cli.console import excerpt, out, print_table
from flows.project import Project
from weak_labels.diagnostics import lf_report, preview
from weak_labels.functions import load_functions


def preview_functions(root: Path, file: Path | None, items: int) -> None:
    """Print what every function of a file hits on some items."""
    project = Project(root)
    functions = load_functions(file, project.classes) if file else project.functions
    with project.read_lake() as lake:
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


def report_functions(root: Path) -> None:
    """Print the figures of every function on the train split."""
    project = Project(root)
    with project.read_lake() as lake:
        rows = lf_report(lake)
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
    print_table(columns, shown)
    if not rows:
        out.print("No votes yet: siftline run")
