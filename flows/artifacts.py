"""What a run leaves in Prefect's view for people: what each stage did, the functions, the queue, the learning curve.

All work is committed before any of this, so a server that is away never makes a run fail here. Import this module only
where Prefect is configured already, like `flows.pipelines`.
"""

import base64
import time
from collections.abc import Sequence
from types import TracebackType
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_image_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging import get_run_logger

from flows.project import Project
from flows.stages import RunSummary
from flows.trigger import deployment_name
from warehouse import Progress, Reader
from warehouse.maintain import Maintained
from weak_labels.report import Report, lf_report

Rows = list[dict[str, object]]
_AWAY = (PrefectHTTPStatusError, httpx.HTTPError)
PROGRESS_EVERY_S = 5.0


class StageProgress:
    """A `Progress` of a stage that also keeps a progress artifact, for stages that take longer than some seconds."""

    def __init__(self, stage: str, also: Progress) -> None:
        self._stage = stage
        self._also = also
        self._told_at = time.monotonic()
        self._artifact: UUID | None = None

    def __enter__(self) -> Progress:
        return self._show

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._artifact is not None:
            self._tell(100.0, "done")

    def _show(self, done: int, total: int) -> None:
        self._also(done, total)
        now = time.monotonic()
        if total > 0 and now - self._told_at >= PROGRESS_EVERY_S:
            self._told_at = now
            self._tell(100.0 * done / total, f"{done:,} of {total:,}")

    def _tell(self, percent: float, words: str) -> None:
        try:
            if self._artifact is None:
                created = create_progress_artifact(progress=percent, description=f"{self._stage}: {words}")
                assert isinstance(created, UUID)
                self._artifact = created
            else:
                update_progress_artifact(self._artifact, progress=percent, description=f"{self._stage}: {words}")
        except _AWAY:
            self._told_at = time.monotonic() + 60.0  # the run's own log says it; ask again in a minute


def publish_run(project: Project, summary: RunSummary) -> None:
    """Artifacts of a run that ended well: stages, queue, learning curve, metrics, labeling functions."""
    prefix = deployment_name(project.settings.project.name)
    with project.lake.read() as reader:
        tables = [("stages", _stages(summary), "What each stage of this run did."), *_figures(reader)]
        if any(result.stage in ("vote", "rivals") for result in summary.results):
            tables += _functions(lf_report(reader))
    try:
        for name, rows, description in tables:
            if rows:
                create_table_artifact(table=rows, key=f"{prefix}-{name}", description=description)
        if image := _plot(next((rows for name, rows, _ in tables if name == "learning-curve"), [])):
            create_image_artifact(image_url=image, key=f"{prefix}-learning-curve-image", description="Learning curve.")
    except _AWAY as error:
        get_run_logger().warning(
            "The artifacts were not stored: %s. `siftline status` and `siftline report` show the same.", error
        )


def publish_maintenance(project: str, done: Maintained) -> None:
    """Artifact of a maintenance: what was merged, removed and freed."""
    rows: Rows = [
        {
            "files merged": done.files_merged,
            "into": done.files_made,
            "rewritten": done.files_rewritten,
            "rows moved into files": done.rows_flushed,
            "snapshots expired": len(done.snapshots_expired),
            "files removed": done.files_removed,
        }
    ]
    try:
        create_table_artifact(table=rows, key=f"{deployment_name(project)}-maintenance", description="The warehouse.")
    except _AWAY as error:
        get_run_logger().warning("The artifact was not stored: %s", error)


def _stages(summary: RunSummary) -> Rows:
    return [
        {
            "stage": result.stage,
            "rows read": result.rows_read,
            "rows written": ", ".join(f"{n:,} {table}" for table, n in result.rows_written.items()),
            "counts": ", ".join(f"{k} {v:,}" for k, v in result.detail.items() if isinstance(v, int) and v),
            "seconds": round(result.seconds, 1),
        }
        for result in summary.results
    ]


def _figures(reader: Reader) -> list[tuple[str, Rows, str]]:
    queue = reader.rows(
        "SELECT cycle, tasks, planned, sent, waiting, answered, withdrawn FROM queue_progress ORDER BY cycle"
    )
    curve = reader.rows(
        "SELECT gold_labels, trained_on, round(test_accuracy, 4), round(random_accuracy, 4) FROM cycle_summary "
        "ORDER BY cycle"
    )
    metrics = reader.rows(
        "SELECT series, name, split, labels, round(avg(value), 4) FROM metrics GROUP BY ALL ORDER BY ALL LIMIT 200"
    )
    return [
        (
            "queue",
            _named(("cycle", "tasks", "planned", "sent", "waiting", "answered", "withdrawn"), queue),
            "Annotation tasks by cycle and state.",
        ),
        (
            "learning-curve",
            _named(("gold labels", "trained on", "test accuracy", "random pick"), curve),
            "End models in their order: labels they learned from, and accuracy where the project has a test split.",
        ),
        ("metrics", _named(("series", "metric", "split", "labels", "value"), metrics), "All figures, seeds averaged."),
    ]


def _named(names: Sequence[str], rows: Sequence[Sequence[object]]) -> Rows:
    return [{name: "" if value is None else value for name, value in zip(names, row, strict=True)} for row in rows]


def _plot(curve: Rows) -> str:
    """The learning curve as an SVG in a data address; at another one, a browser would have to reach it."""
    points = [
        (float(str(row["gold labels"])), float(str(row["test accuracy"])))
        for row in curve
        if row["test accuracy"] != ""
    ]
    if len(points) < 2:
        return ""
    (first, last), values = (points[0][0], points[-1][0]), [value for _, value in points]
    low, high = min(values) - 0.01, min(1.0, max(values) + 0.01)
    places = [
        (60 + 520 * (x - first) / max(1.0, last - first), 260 - 220 * (y - low) / max(1e-9, high - low))
        for x, y in points
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    marks = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#1d4ed8"/>'
        f'<text x="{x:.1f}" y="{y - 10:.1f}" text-anchor="middle">{value:.3f}</text>'
        f'<text x="{x:.1f}" y="282" text-anchor="middle">{labels:.0f}</text>'
        for (x, y), (labels, value) in zip(places, points, strict=True)
    )
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 310" width="640" height="310" '
        'font-family="sans-serif" font-size="12"><rect width="640" height="310" fill="white"/>'
        '<text x="60" y="20" font-size="14">Test accuracy by number of gold labels</text>'
        '<path d="M60 35V260H580" fill="none" stroke="#94a3b8"/>'
        f'<polyline points="{line}" fill="none" stroke="#1d4ed8" stroke-width="2"/>{marks}'
        '<text x="320" y="304" text-anchor="middle">gold labels</text></svg>'
    )
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _functions(report: Report) -> list[tuple[str, Rows, str]]:
    functions: Rows = [
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
    pairs: Rows = [
        {"function": p.left, "says the same as": p.right, "items": p.items, "agreement": round(p.agreement, 3)}
        for p in report.pairs
    ]
    items: Rows = [
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
