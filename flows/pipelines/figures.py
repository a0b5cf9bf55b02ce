"""The tables of a run that people see in Prefect, read from the warehouse for `artifacts`."""

import base64
import re
from collections.abc import Sequence

from flows.report.visible import one_line
from warehouse import Reader
from weak_labels.analysis.lf_report import Report

Rows = list[dict[str, object]]
FIGURES = 200
"""Metrics, cycles and end models that are shown at most."""
NAMED_POINTS = 12
"""Points of the curve that have their figures beside them at most; those of more would lie on each other."""
_MARKUP = re.compile(r"[\\`*~<\[\]&]|(?<![^\W_])_|_(?![^\W_])|^[#>]|^[+-](?=[\s-]|$)")


def cells(rows: Rows) -> Rows:
    """Rows whose texts Prefect's page shows as they are: it takes each for Markdown, and asks for images in it."""
    return [{k: _cell(v) if isinstance(v, str) else v for k, v in row.items()} for row in rows]


def _cell(text: str) -> str:
    """A text on one line, where lists, headings and tables cannot begin in the middle."""
    line = _MARKUP.sub(r"\\\g<0>", one_line(text))
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", line)


def figures(reader: Reader) -> list[tuple[str, Rows, str]]:
    """Queue, learning curve and metrics: name, rows and description of each."""
    queue = reader.rows("SELECT cycle, tasks, planned, sent, waiting, answered FROM queue_progress ORDER BY cycle")
    cycles = "Annotation tasks by cycle and state" + _last(queue)
    curve = reader.rows(
        "SELECT gold_labels, trained_on, round(test_accuracy, 4), round(random_accuracy, 4), split "
        "FROM cycle_summary ORDER BY cycle"
    )
    models = "End models in their order" + _last(curve)
    comparable = "FROM metrics WHERE series <> 'end_model'"  # the curve shows those
    metrics = reader.rows(
        f"SELECT series, name, split, labels, round(avg(value), 4) {comparable} GROUP BY ALL "
        f"ORDER BY labels DESC, series, name, split LIMIT {FIGURES}"
    )
    known = int(reader.scalar(f"SELECT count(DISTINCT (series, name, split, labels)) {comparable}"))
    all_of = "All figures" if known <= FIGURES else f"The {FIGURES} of {known:,} figures with the most labels"
    simulated = int(reader.scalar("SELECT count(*) FROM gold_labels WHERE simulated"))
    whose = f" {simulated:,} of the present labels are the simulated annotator's." if simulated else ""
    return [
        (
            "queue",
            _named(("cycle", "tasks", "planned", "sent", "waiting", "answered"), queue[-FIGURES:]),
            f"{cycles}.",
        ),
        (
            "learning-curve",
            _named(("gold labels", "trained on", "accuracy", "random pick", "split"), curve[-FIGURES:]),
            f"{models}: labels they learned from, and accuracy on the split that is scored, if any." + whose,
        ),
        (
            "metrics",
            _named(("series", "metric", "split", "labels", "value"), metrics),
            f"{all_of}, seeds averaged.{whose}",
        ),
    ]


def _last(rows: Sequence[object]) -> str:
    """That they are the last ones, where there are more; every run keeps its own copy of them."""
    return f", the last {FIGURES} of {len(rows):,}" if len(rows) > FIGURES else ""


def _named(names: Sequence[str], rows: Sequence[Sequence[object]]) -> Rows:
    return [{name: "" if value is None else value for name, value in zip(names, row, strict=True)} for row in rows]


def curve_picture(curve: Rows) -> str:
    """The learning curve as an SVG in a data address; at another one, a browser would have to reach it."""
    scored = {float(str(row["gold labels"])): row["accuracy"] for row in curve if row["accuracy"] != ""}
    split = next((str(row["split"]) for row in curve if row["accuracy"] != ""), "")
    points = sorted((labels, float(str(value))) for labels, value in scored.items())
    if len(points) < 2:
        return ""
    (first, last), values = (points[0][0], points[-1][0]), [value for _, value in points]
    low, high = min(values) - 0.01, min(1.0, max(values) + 0.01)
    places = [
        (60 + 520 * (x - first) / max(1.0, last - first), 260 - 220 * (y - low) / max(1e-9, high - low))
        for x, y in points
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    named = {len(points) - 1 - step for step in range(0, len(points), -(-len(points) // NAMED_POINTS))}
    marks = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#1d4ed8"/>'
        + (
            f'<text x="{x:.1f}" y="{y - 10:.1f}" text-anchor="middle">{value:.3f}</text>'
            f'<text x="{x:.1f}" y="282" text-anchor="middle">{labels:.0f}</text>'
            if place in named
            else ""
        )
        for place, ((x, y), (labels, value)) in enumerate(zip(places, points, strict=True))
    )
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 310" width="640" height="310" '
        'font-family="sans-serif" font-size="12"><rect width="640" height="310" fill="white"/>'
        '<text x="60" y="20" font-size="14">'
        f"{split.capitalize()} accuracy by number of gold labels</text>"
        '<path d="M60 35V260H580" fill="none" stroke="#94a3b8"/>'
        f'<polyline points="{line}" fill="none" stroke="#1d4ed8" stroke-width="2"/>{marks}'
        '<text x="320" y="304" text-anchor="middle">gold labels</text></svg>'
    )
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def functions(report: Report) -> list[tuple[str, Rows, str]]:
    """Labeling functions, equal pairs of them and disagreements: name, rows and description of each.

    The columns that may be long stand last: Prefect's page shows the first six hundred pixels of a table.
    """
    rows: Rows = [
        {
            "function": f.name,
            "coverage": round(f.coverage, 4),
            "accuracy": ""
            if f.accuracy is None
            else f"{f.accuracy:.3f} ({f.accuracy_low:.2f} to {f.accuracy_high:.2f})",
            "estimated accuracy": "" if f.estimated_accuracy is None else round(f.estimated_accuracy, 3),
            "gold votes": f.gold_votes,
            "overlap": round(f.overlap, 4),
            "conflict": "" if f.conflict is None else round(f.conflict, 4),
            "gain": "" if f.gain is None else round(f.gain, 4),
            "faults": f.faults,
            "votes for": ", ".join(f.polarity),
        }
        for f in report.functions
    ]
    pairs: Rows = [
        {"function": p.left, "says the same as": p.right, "items": p.items, "agreement": round(p.agreement, 3)}
        for p in report.pairs
    ]
    items: Rows = [
        {
            "disagree with": d.against,
            "item": d.item_id,
            "model": d.predicted,
            "people": d.gold,
            "votes": ", ".join(f"{name}: {label}" for name, label in d.votes.items()),
            "text": d.text,
        }
        for d in report.disagreements
    ]
    return [
        ("labeling-functions", rows, "Labeling functions on the train split."),
        ("equal-functions", pairs, "Pairs of labeling functions that say the same."),
        ("disagreements", items, "Items where labeling functions disagree with each other, the model or people."),
    ]
