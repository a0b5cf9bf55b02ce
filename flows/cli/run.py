"""`siftline run`: one run at a time, with progress for people and one line per stage."""

import time
from pathlib import Path

from flows.cli.console import say, stage_progress
from flows.cli.look import print_summary
from flows.prefect_server import prefect_api
from warehouse import StageResult


def run_project(root: Path, *, simulated: bool, max_passes: int | None) -> None:
    """Run a project's pipeline under Prefect and print the summary.

    Raises:
        WarehouseBusy: another run of this project is at work.
    """
    from flows.project import Project

    began = time.monotonic()
    project = Project(root)
    with project.only_run(), prefect_api(project.state_path):
        from flows.cycle import OpenProject, run_cycle, watch

        if simulated:
            say("Annotator: simulated (answers come from the sample's gold column, not from people)")
        with stage_progress() as progress:
            watch(OpenProject(project=project, progress_of=progress.of, on_result=_announce))
            summary = run_cycle(str(project.root), simulated=simulated, max_passes=max_passes)
    print_summary(project, summary, seconds=time.monotonic() - began)


def _announce(result: StageResult) -> None:
    if not result.committed and result.stage != "annotate":
        return
    parts = [f"{n:,} {table}" for table, n in result.rows_written.items() if table != "models"]
    parts += [f"{key} {value}" for key, value in result.detail.items() if isinstance(value, int | float | str)]
    say(f"  {result.stage:<12} {', '.join(parts)[:150]}  ({result.seconds:.1f} s)")
