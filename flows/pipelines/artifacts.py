"""What a run leaves in Prefect's view for people: what each stage did, the functions, the queue, the learning curve.

All work is committed before any of this, so a server that is away never makes a run fail here. Import this module only
where Prefect is configured already, like `flows.pipelines.flows`.
"""

import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import (
    Artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.pipelines.figures import Rows, cells, curve_picture, figures, functions
from flows.pipelines.stages import RunSummary
from flows.pipelines.triggers import deployment_name
from flows.project.project import Project
from warehouse import Progress, Reader
from warehouse.maintenance.compaction import Maintained
from warehouse.schema.tables import rows_in_words
from weak_labels.analysis.lf_report import lf_report

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
        told, words = round(percent, 1), f"{self._stage}: {words}"  # its page shows all digits there are
        try:
            with _asked_twice():
                if self._artifact is None:
                    created = create_progress_artifact(progress=told, description=words)
                    assert isinstance(created, UUID)
                    self._artifact = created
                else:
                    update_progress_artifact(self._artifact, progress=told, description=words)
        except _AWAY:
            self._told_at = time.monotonic() + 60.0  # the run's own log says it; ask again in a minute


def publish_run(project: Project, summary: RunSummary) -> None:
    """Artifacts of a run that ended well: stages, queue, learning curve, metrics, labeling functions."""
    prefix = deployment_name(project.settings.project.name)
    with project.lake.read() as reader:
        tables = [("stages", _stages(summary), "What each stage of this run did."), *figures(reader)]
        looked_at = {result.stage for result in summary.results}
        if looked_at & {"vote", "rivals"} and _came_after(reader, f"{prefix}-labeling-functions"):
            tables += functions(lf_report(reader))
    try:
        with _asked_twice():
            for name, rows, description in tables:
                if rows:
                    create_table_artifact(table=cells(rows), key=f"{prefix}-{name}", description=description)
                # Below an image artifact its address stands as a link, here of kilobytes and across the page.
                if name == "learning-curve" and (image := curve_picture(rows)):
                    picture = f"![Learning curve]({image})"
                    create_markdown_artifact(picture, key=f"{prefix}-{name}-image", description=description)
    except _AWAY as error:
        get_run_logger().warning(
            "The artifacts were not stored: %s. `siftline status` and `siftline report` show the same.", error
        )


def _came_after(reader: Reader, key: str) -> bool:
    """Whether anything was committed since Prefect has this artifact: the functions of a million records take seconds.

    What a run committed that then failed, or whose server was away, came after too.
    """
    try:
        with _asked_twice():
            newest: Any = Artifact.get(key)
    except _AWAY:
        return False  # nor could one be stored
    since = newest and newest.updated
    return since is None or bool(reader.scalar("SELECT max(committed_at) > ? FROM runs", [since]))


def publish_maintenance(project: str, done: Maintained) -> None:
    """Artifact of a maintenance: what was merged, removed and freed."""
    rows: Rows = [
        {
            "files merged": done.files_merged,
            "into": done.files_made,
            "rewritten": done.files_rewritten,
            "rows moved into files": done.rows_flushed,
            "rows of superseded models deleted": done.rows_superseded,
            "snapshots expired": len(done.snapshots_expired),
            "files removed": done.files_removed,
        }
    ]
    try:
        with _asked_twice():
            key = f"{deployment_name(project)}-maintenance"
            create_table_artifact(table=rows, key=key, description="The warehouse.")
    except _AWAY as error:
        get_run_logger().warning("The artifact was not stored: %s", error)


def _stages(summary: RunSummary) -> Rows:
    return [
        {
            "stage": result.stage,
            "rows read": result.rows_read,
            "rows written": rows_in_words(result.rows_written),
            "counts": ", ".join(f"{key} {n}" for key, n in result.counted().items()),
            "seconds": round(result.seconds, 1),
        }
        for result in summary.results
    ]


def _asked_twice() -> AbstractContextManager[Any]:
    """By default Prefect's client asks a server that is away for a minute, and the run would stand still."""
    return temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1})
