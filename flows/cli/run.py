"""`siftline run`: one run at a time, with progress for people and one line per stage."""

import gc
import os
import time
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from flows.cli.status import project_hint
from flows.cli.terminal.console import EndNow, fitted, say, stage_progress
from flows.pipelines.time_limits import said_stop
from flows.servers.prefect_server import (
    behind,
    configured_api_url,
    disk_full,
    local_api_url,
    log_in_hint,
    other_version,
    prefect_api,
)
from warehouse import ServiceError, StageResult
from warehouse.schema.tables import rows_in_words

if TYPE_CHECKING:
    from flows.project.project import Project


@said_stop()
def run_project(root: Path, *, simulated: bool, max_passes: int | None) -> None:
    """Run a project's pipeline under Prefect and print the summary.

    Raises:
        WarehouseBusy: another run of this project is at work.
        EndNow: Prefect's server went away in the middle.
        SettingsError: there is no gold to simulate with, or Prefect's server is of a version that its client refuses.
    """
    from flows.project.project import Project

    began = time.monotonic()
    project = Project(root)
    if simulated:
        project.simulated_annotator()  # without gold it is refused here, before Prefect's server starts
    with suppress(ServiceError):  # a server that is away may be back when tasks are sent
        _ = project.service
    server = configured_api_url() or local_api_url(project.state_path)
    say(f"Starting a run of {project.root.name}" + ("" if server else " (Prefect's server first, some seconds)"))
    with project.only_run(), prefect_api(project.state_path, meanwhile=partial(_get_ready, project)):
        from prefect.exceptions import PrefectHTTPStatusError, TerminationSignal

        from flows.pipelines.flows import OpenProject, cycle, watch

        if simulated:
            say("Annotator: simulated (answers come from the sample's gold column, not people)")
        with stage_progress() as progress:
            watch(OpenProject(project=project, progress_of=progress.of, on_result=Announcer(project.root), told=say))
            try:
                summary = cycle(str(project.root), simulated=simulated, max_passes=max_passes)
            except TerminationSignal as stop:
                raise KeyboardInterrupt from stop
            except (PrefectHTTPStatusError, httpx.HTTPError) as error:
                raise _went_away(error, project.state_path) from error
            except RuntimeError as error:  # Prefect's client, where its server is away or of another version
                if str(error).startswith("Failed to reach API"):
                    raise _went_away(behind(error), project.state_path) from error
                if str(error).startswith("Found incompatible versions"):
                    raise other_version(error, os.environ["PREFECT_API_URL"]) from error
                raise
    from flows.cli.summary import print_summary

    print_summary(project, summary, seconds=time.monotonic() - began)


def _get_ready(project: "Project") -> None:
    """Import what the run needs, and refuse what it would stop at, before anybody waits for the server."""
    gc.disable()  # of all that is imported, which it would go over again and again, nothing is free
    try:
        import_module("flows.pipelines.flows")
        with suppress(OSError):  # told where it is loaded
            if b"snorkel" in (project.root / project.settings.weak_labels.functions).read_bytes():
                import_module("snorkel.labeling")
        import_module("flows.pipelines.stages").check_ahead(project)
    finally:
        gc.enable()


def _went_away(error: Exception, state: Path) -> EndNow:
    if full := disk_full(state):
        return EndNow(str(full))
    if hint := log_in_hint(error):
        return EndNow(f"Prefect's server refused this run: {error}{hint}.")
    return EndNow(
        f"Prefect's server went away or could not work ({error}). What was committed is kept; run again. If it stays "
        "so, and `siftline up` started that server: siftline down, then siftline up."
    )


class Announcer:
    """One line per stage that did something, under a heading per pass."""

    def __init__(self, root: Path = Path()) -> None:
        self._root = root
        self._passes = 0

    def __call__(self, result: StageResult) -> None:
        """Print the line of a stage that is done."""
        if result.stage == "ingest":
            self._passes += 1
            say(f"pass {self._passes}")
        shown = result.counted()
        if not result.committed and not shown:
            return
        written = rows_in_words({table: n for table, n in result.rows_written.items() if table != "models"})
        told, took = ", ".join(f"{key} {n}" for key, n in shown.items()), f"({result.seconds:.1f} s)"
        line = f"  {result.stage:<12}{written:<28}  {told}  {took}"
        if fitted(line) == line:
            say(line)
        else:  # the counts below what was written
            say(fitted(f"  {result.stage:<12}{written or told}  {took}", indent=14))
            if written and told:
                say(fitted(f"{'':14}{told}", indent=14))
        if result.stage == "ingest" and result.detail.get("quarantined"):
            say(f"  What was not read, and why: siftline questions what-was-not-read{project_hint(self._root)}")
        for name in ("reason", "advice"):
            if name in result.detail:
                say(fitted(f"  {' '.join(result.detail[name].split())}"))  # it may quote a record
