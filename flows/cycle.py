"""The Prefect flow of a run: every stage a task, every pass visible, only Transient errors retried.

Import this module only inside `flows.prefect_server.prefect_api`, because Prefect reads its settings on import.
Tasks take a folder and a stage name; the open project stays in this process.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger

from engine.errors import UnavailableError
from flows.artifacts import publish_functions
from flows.project import Project
from flows.stages import STAGES, RunSummary, run_passes
from warehouse import Progress, StageResult, Transient, silent


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenProject:
    """A project that is open in this process, and who watches it."""

    project: Project
    progress_of: Callable[[str], Progress] = lambda _: silent
    on_result: Callable[[StageResult], None] = lambda _: None


_open: dict[str, OpenProject] = {}


def watch(opened: OpenProject) -> None:
    """Let the tasks of this process use an open project and report to its watchers."""
    _open[str(opened.project.root)] = opened


def _opened(root: str) -> OpenProject:
    if root not in _open:
        watch(OpenProject(project=Project(Path(root))))
    return _open[root]


def _is_transient(_: Any, __: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.data, Transient | UnavailableError)


@task(
    name="stage",
    task_run_name="{stage}",
    retries=3,
    retry_delay_seconds=[1, 5, 20],
    retry_jitter_factor=0.5,
    retry_condition_fn=_is_transient,
    persist_result=False,
)
def stage_task(root: str, stage: str) -> StageResult:
    """Run one stage of the project in a folder."""
    opened = _opened(root)
    result = STAGES[stage](opened.project, opened.progress_of(stage))
    written = ", ".join(f"{n} {table}" for table, n in result.rows_written.items())
    get_run_logger().info("%s: %s in %.1f s", stage, written or "nothing to do", result.seconds)
    opened.on_result(result)
    return result


@flow(name="siftline", flow_run_name="siftline {root}", persist_result=False, validate_parameters=False)
def run_cycle(root: str, simulated: bool = False, max_passes: int | None = None) -> RunSummary:
    """Run a project until there is nothing left to do or people have to answer.

    Args:
        root: project folder.
        simulated: let the simulated annotator answer.
        max_passes: stop after this many passes; None for no limit.
    """
    summary = run_passes(lambda stage: stage_task(root, stage), simulated=simulated, max_passes=max_passes)
    project = _opened(root).project
    publish_functions(project.lake, project.settings.project.name)
    return summary
