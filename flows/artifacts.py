"""What a run leaves in Prefect's view for people: the figures of the labeling functions as artifacts.

Import this module only inside `flows.prefect_server.prefect_api`, because Prefect reads its settings on import.
"""

import re

import httpx
from prefect.artifacts import create_table_artifact
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging import get_run_logger

from warehouse import Lake
from weak_labels.report import Report, lf_report


def publish_functions(lake: Lake, project: str) -> None:
    """Table artifacts of the functions, of pairs that say the same, and of items where functions disagree."""
    with lake.read() as reader:
        report = lf_report(reader)
    prefix = re.sub(r"[^a-z0-9]+", "-", project.lower()).strip("-") or "project"
    try:
        for name, rows, description in _tables(report):
            if rows:
                create_table_artifact(table=rows, key=f"{prefix}-{name}", description=description)
    except (PrefectHTTPStatusError, httpx.HTTPError) as error:
        # All work is committed by now; a server that is away must not make the run fail.
        get_run_logger().warning("The artifacts were not stored: %s. `siftline lf report` shows the same.", error)


def _tables(report: Report) -> list[tuple[str, list[dict[str, object]], str]]:
    functions: list[dict[str, object]] = [
        {
            "function": f.name,
            "votes for": ", ".join(f.polarity),
            "coverage": round(f.coverage, 4),
            "overlap": round(f.overlap, 4),
            "conflict": round(f.conflict, 4),
            "gold votes": f.gold_votes,
            "accuracy": ""
            if f.accuracy is None
            else f"{f.accuracy:.3f} ({f.accuracy_low:.2f} to {f.accuracy_high:.2f})",
            "estimated accuracy": "" if f.estimated_accuracy is None else round(f.estimated_accuracy, 3),
            "gain": "" if f.gain is None else round(f.gain, 4),
            "faults": f.faults,
        }
        for f in report.functions
    ]
    pairs: list[dict[str, object]] = [
        {"function": p.left, "says the same as": p.right, "items": p.items, "agreement": round(p.agreement, 3)}
        for p in report.pairs
    ]
    items: list[dict[str, object]] = [
        {
            "disagree with": d.against,
            "item": d.item_id,
            "votes": ", ".join(f"{name}: {label}" for name, label in d.votes.items()),
            "model": d.predicted,
            "people": d.gold,
            "text": d.text,
        }
        for d in report.disagreements
    ]
    return [
        ("labeling-functions", functions, "Labeling functions on the train split."),
        ("equal-functions", pairs, "Pairs of labeling functions that say the same."),
        ("disagreements", items, "Items where labeling functions disagree with each other, the model or people."),
    ]
