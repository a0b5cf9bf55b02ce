"""The Prefect flows: cycle, collect, refresh and maintenance, each stage a task.

Import this module only where Prefect is configured already (`flows.servers.prefect_server.prefect_api`, or a process
that Prefect itself started), because Prefect reads its settings on import. Flows and tasks take a folder and names; the
open project stays in this process.

A run that finds another one at work ends as Cancelled, which wakes nobody. A stage that fails with a Transient error is
tried again, with jitter; any other error ends the run as Failed, with a message that says which stage, what and what to
do. What was committed is kept, and the next run goes on from there (`flows.project.recovery`).
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NoReturn
from uuid import UUID

from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import Abort, TerminationSignal
from prefect.logging import get_run_logger
from prefect.runtime import flow_run as this_flow_run
from prefect.states import Cancelled, Completed, Failed
from pydantic import Field

from active.queue.collect import refusals
from engine.errors import EngineError, UnavailableError
from flows.pipelines.artifacts import StageProgress, publish_maintenance, publish_run
from flows.pipelines.stages import GATHER, REFRESH, STAGES, RunStage, RunSummary, check_ahead, run_passes, run_stages
from flows.pipelines.time_limits import Signals, prompt_stop, time_limit, too_long
from flows.pipelines.triggers import PASSES, close_in_prefect, start_cycle_if_due
from flows.project.project import Project
from flows.project.recovery import RunRecord, recorded
from flows.report.visible import one_line
from warehouse import Progress, SettingsError, SiftlineError, StageResult, Transient, WarehouseBusy, silent
from warehouse.maintenance.compaction import maintain
from warehouse.schema.tables import rows_in_words

PATIENCE_S = 900.0
"""How long a cycle waits for the short runs beside it, such as a collect that came due with it and has much to read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenProject:
    """A project that is open in this process, and who watches it."""

    project: Project
    progress_of: Callable[[str], Progress] = lambda _: silent
    on_result: Callable[[StageResult], None] = lambda _: None
    told: Callable[[str], None] = lambda _: None
    results: dict[str, StageResult] = field(default_factory=dict[str, StageResult])
    """Newest result of each stage: a task that returns a state, for its message, cannot hand over a value as well."""


_open: dict[str, OpenProject] = {}


def watch(opened: OpenProject) -> None:
    """Let the runs of this process use an open project and report to its watchers."""
    _open[str(opened.project.root)] = opened


def _opened(project: str) -> OpenProject:
    return _open[_root(project)]


def _root(project: str) -> str:
    return str(Path(project).expanduser().absolute())


@contextmanager
def _at_work(project: str) -> Generator[OpenProject]:
    """The project in a folder for one run: the one that is watched, else opened anew.

    A process may run several flows, one after the other, and settings and functions may be others by then.

    Raises:
        SettingsError: the settings are missing or wrong, or this is not the main thread.
    """
    root = _root(project)
    if threading.current_thread() is not threading.main_thread():
        raise SettingsError(
            "Siftline's flows run in the main thread of a process only, where signals and timeout_min can stop them, "
            'and not in a task. To have several run at once, start their deployments: run_deployment("cycle/NAME").'
        )
    if root in _open:
        yield _open[root]
        return
    opened = OpenProject(project=Project(Path(root)))
    watch(opened)
    if _is_of_this_process():
        os.chdir(root)  # Prefect starts it anywhere
    try:
        yield opened
    finally:
        del _open[root]
        if "lake" in vars(opened.project):
            opened.project.lake.close()


def _is_of_this_process() -> bool:
    """Whether Prefect started this process for the flow run at work, and not for one around it or none."""
    return os.environ.get("PREFECT__FLOW_RUN_ID") == str(this_flow_run.id)


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
def stage_task(project: str, stage: str) -> State[None]:
    """Run one stage of the project in a folder; the state's message tells its row counts."""
    opened = _opened(project)
    with StageProgress(stage, opened.progress_of(stage)) as progress:
        result = STAGES[stage](opened.project, progress)
    level = logging.WARNING if told_besides(result) else logging.INFO
    get_run_logger().log(level, "%s: %s", stage, words_of(result))
    opened.results[stage] = result
    opened.on_result(result)
    return Completed(message=words_of(result))


def words_of(result: StageResult) -> str:
    """What a stage did, on one line."""
    written = rows_in_words(result.rows_written)
    counts = ", ".join(f"{key} {n}" for key, n in result.counted().items())
    read = f"{result.rows_read:,} rows read, " if result.rows_read else ""
    said = f"{read}{written} written" if written else "nothing new"
    # It may quote a record: one that holds a line end would write a line of its own into the log.
    more = map(one_line, told_besides(result))
    return ". ".join([f"{said}{f' ({counts})' if counts else ''} in {result.seconds:.1f} s", *more])


def told_besides(result: StageResult) -> list[str]:
    """What somebody should look at though the stage did not fail, such as a function that is switched off."""
    advice = [result.detail["advice"]] if "advice" in result.detail else []
    return advice + (refusals(result) if result.stage == "collect" else [])


# `retries=0`: with PREFECT_FLOWS_DEFAULT_RETRIES of a profile, Prefect would wait for a retry that nobody begins, since
# a process that it started for a run ends with it.
@flow(name="cycle", flow_run_name="cycle of {project}", retries=0, persist_result=False, validate_parameters=False)
def cycle(project: str, simulated: bool = False, max_passes: Annotated[int, Field(ge=1)] | None = None) -> Any:
    """The whole pipeline, until there is nothing left to do or people have to answer.

    Args:
        project: project folder.
        simulated: let the simulated annotator answer.
        max_passes: stop after this many passes; None for no limit.
    """

    def work(run_stage: RunStage) -> RunSummary:
        check_ahead(_opened(project).project)
        return run_passes(run_stage, simulated=simulated, max_passes=max_passes)

    return _run("cycle", project, work, PATIENCE_S)


@flow(name="collect", flow_run_name="collect of {project}", retries=0, persist_result=False, validate_parameters=False)
def collect(project: str) -> Any:
    """New records and new answers; starts a cycle when enough of them came.

    Args:
        project: project folder.
    """
    return _run("collect", project, lambda stage: run_stages(stage, GATHER), 0.0)


@flow(name="refresh", flow_run_name="refresh of {project}", retries=0, persist_result=False, validate_parameters=False)
def refresh(project: str) -> Any:
    """Models and values from what is in the warehouse; asks nobody for anything.

    Args:
        project: project folder.
    """
    return _run("refresh", project, lambda stage: run_stages(stage, REFRESH), PATIENCE_S)


@flow(
    name="maintenance",
    flow_run_name="maintenance of {project}",
    retries=0,
    persist_result=False,
    validate_parameters=False,
)
def maintenance(project: str) -> Any:
    """Compaction of the warehouse and expiry of old snapshots, beside readers and runs.

    Args:
        project: project folder.
    """
    try:
        with _at_work(project) as opened:
            schedule = opened.project.settings.schedule
            limit_s = schedule.timeout_min * 60
            with prompt_stop() as signals, time_limit(limit_s), _meant(signals, limit_s):
                done = maintain(opened.project.lake, expire_older_than_days=schedule.expire_days)
            name = opened.project.settings.project.name
    except (SiftlineError, EngineError) as error:
        return _failed("maintenance", error)
    publish_maintenance(name, done)
    words = (
        f"{done.files_merged} files merged, {done.rows_superseded} rows of superseded models deleted, "
        f"{len(done.snapshots_expired)} snapshots expired, {done.files_removed} files removed"
    )
    get_run_logger().info("%s", words)
    return Completed(message=words)


class _At:
    """Where a run is, in words."""

    words = "the beginning"


@contextmanager
def _meant(signals: Signals, limit_s: float) -> Generator[None]:
    """Raise what a signal meant where another error came of it."""
    try:
        yield
    except Exception as error:
        number = signals.meant(error)
        if number == signal.SIGTERM:
            raise TerminationSignal(signal.SIGTERM) from error
        if number == signal.SIGINT:
            raise KeyboardInterrupt from error
        if number == signal.SIGALRM:
            raise too_long(limit_s) from error
        raise


@contextmanager
def _alone(opened: OpenProject, flow_name: str, patience_s: float, at: _At) -> Generator[RunStage]:
    """The run lock, the bounds of time, and the record of this run; tells what it takes over, and runs its stages.

    Raises:
        WarehouseBusy: another run of this project is at work, before anything else.
    """
    log = get_run_logger()
    project = opened.project
    run = str(this_flow_run.id)

    def taken(dead: Sequence[RunRecord]) -> None:
        # What ended those before it may be mended since; the table `runs` tells of each.
        words = f"Going on after {dead[-1].words()}. What it committed is kept; the rest is done now."
        log.warning("%s", one_line(words))
        opened.told(words)
        for record in dead:
            close_in_prefect(record, run)

    with ExitStack() as stack:
        stack.enter_context(project.only_run(patience_s=patience_s))
        signals = stack.enter_context(prompt_stop())
        limit_s = project.settings.schedule.timeout_min * 60
        stack.enter_context(time_limit(limit_s))
        note = stack.enter_context(recorded(project, flow_name, run, taken))
        stack.enter_context(_meant(signals, limit_s))

        def run_stage(stage: str) -> StageResult:
            at.words = f"stage {stage}"
            note(stage)
            stage_task(str(project.root), stage)
            return opened.results[stage]

        yield run_stage


def _run(flow_name: str, folder: str, work: Callable[[RunStage], RunSummary], patience_s: float) -> Any:
    at = _At()
    entered = False
    try:
        with _at_work(folder) as opened:
            with _alone(opened, flow_name, patience_s, at) as run_stage:
                entered = True
                summary = work(run_stage)
            at.words = "its end, after all stages"
            if flow_name != "collect" or summary.rows_written:  # a collect runs often, and mostly finds nothing
                publish_run(opened.project, summary)
            words = f"{summary.rows_written:,} rows written in {len(summary.results)} stages"
            if flow_name == "collect":
                words += start_cycle_if_due(opened.project)
    except WarehouseBusy as error:
        if entered:
            return _failed(flow_name, error, at)
        _leave(str(error))
    except (SiftlineError, EngineError) as error:
        return _failed(flow_name, error, at)
    return Completed(message=words, data=summary)


def _leave(words: str) -> NoReturn:
    """End this run as Cancelled."""
    get_run_logger().info("%s", words)
    _end(Cancelled(message=words))


def _end(state: State[Any]) -> NoReturn:
    """End this run without a traceback; returning that state would be logged as an error of Prefect's engine."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(this_flow_run.id), state)
    leave = Abort(state.message)
    leave.state = state  # pyright: ignore[reportAttributeAccessIssue] - Prefect's engine looks for it there
    raise leave


def failed_in_words(flow_name: str, error: Exception, at: str = "") -> str:
    """How a run failed by type: where, what, and what to do.

    Args:
        flow_name: what failed.
        error: what ended it; a full stop is put behind words without one, as Python's own are.
        at: where it was, such as "stage vote"; empty where that is not known.
    """
    help_words = (
        PASSES
        if isinstance(error, Transient | UnavailableError)
        else "Someone must mend this; until then every run stops here. What was committed is kept."
    )
    where = f" at {at}" if at else ""
    what = str(error).rstrip()
    stop = "" if what.endswith((".", "!", "?")) else "."
    return f"{flow_name} failed{where}: {what}{stop} {help_words}"


def _failed(flow_name: str, error: Exception, at: _At | None = None) -> State[Any]:
    """The end of a run that failed by type."""
    words = failed_in_words(flow_name, error, at.words if at is not None else "")
    get_run_logger().error("%s", one_line(words))
    if _is_of_this_process():  # nobody waits for what it returns
        _end(Failed(message=words))
    return Failed(message=words, data=error)
