"""The deployments of a project: which flow runs when, with what, and that only one of each runs at a time.

`serve` runs them from one process, without a work pool; `deploy` hands the same ones to a work pool, whose workers then
run them; `prefect.yaml` at the top of the repository does so with Prefect's own command. Import this module only where
Prefect is configured already, like `flows.pipelines.flows`.
"""

import asyncio
import os
import signal
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments.runner import DeploymentApplyError, RunnerDeployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError, TerminationSignal
from prefect.flows import Flow
from prefect.logging import get_logger
from prefect.runner import Runner
from prefect.schedules import Cron
from prefect.states import Crashed
from prefect.types.entrypoint import EntrypointType

from flows.deployments.services import SERVING
from flows.pipelines import flows
from flows.pipelines.triggers import deployment_name
from flows.project.project import Project
from flows.servers.clock import Clock
from flows.servers.prefect_server import behind, local_api_url, log_in_hint, other_version
from warehouse import ServiceError, SettingsError, WarehouseBusy, siftline_version
from warehouse.files.scratch import scratch_folder

FLOWS: tuple[Flow[Any, Any], ...] = (flows.cycle, flows.collect, flows.refresh, flows.maintenance)
START_S = 300
"""How long a run may take to begin before its place is given to the next; also how long a dead run keeps its place."""
HEARTBEAT_S = 60
POLL_S = 5
AT_ONCE = 50
"""So many runs Prefect's server sets the state of at once, at most."""
LOOK_S = 60.0
"""Time between two looks whether the server still knows the deployments that are served, and at the clock."""


def deployments_of(project: Project, *, pool: str | None = None) -> list[RunnerDeployment]:
    """The deployments of a project, from [schedule] in its settings.

    Args:
        project: the project; its folder is the deployments' parameter.
        pool: work pool to hand them to; None for `serve`.
    """
    schedule = project.settings.schedule
    name = deployment_name(project.settings.project.name)
    made: list[RunnerDeployment] = []
    for flow in FLOWS:
        cron: str = getattr(schedule, flow.name)
        made.append(
            RunnerDeployment.from_flow(
                flow,
                name=name,
                schedules=[Cron(cron, timezone=schedule.timezone)] if cron else [],
                parameters={"project": str(project.root)},
                description=flow.description,
                tags=["siftline", name],
                version=siftline_version(),
                concurrency_limit=ConcurrencyLimitConfig(
                    limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW, grace_period_seconds=START_S
                ),
                work_pool_name=pool,
                entrypoint_type=EntrypointType.MODULE_PATH,
            )
        )
    return made


def deploy(project: Project, pool: str) -> dict[str, str]:
    """Hand a project's deployments to a work pool.

    Returns:
        By their names, as `prefect deployment run` takes them, when they run.

    Raises:
        ServiceError: the server refused them, or is away.
        SettingsError: there is no such pool, or another project has deployments of this name there.
    """

    async def all_of_them() -> dict[str, str]:
        await _check_pool(pool)
        deployments = deployments_of(project, pool=pool)
        await _make_way(deployments, project)
        for deployment in deployments:
            await deployment.aapply()
        await _drop_former(project)
        return _times(deployments, project)

    return _asked(all_of_them)


def serve(project: Project, ready: Callable[[dict[str, str]], None]) -> None:
    """Run a project's deployments from this process until SIGTERM or Ctrl-C; runs at work are stopped with it.

    Schedules stay as they are when it ends, so that runs that came due meanwhile are seen as late.

    Args:
        project: the project.
        ready: called with the names of the deployments, and when each runs, when the server knows them.

    Raises:
        ServiceError: the server refused them, or is away, also later; or it knows none of them any more.
        SettingsError: another project has deployments of this name there.
    """

    left: Sequence[UUID] = ()
    made: Sequence[UUID] = ()
    forgotten = False

    async def register(runner: Runner) -> dict[str, str]:
        nonlocal left, made
        deployments = deployments_of(project)
        await _make_way(deployments, project)
        made = [await runner.aadd_deployment(deployment) for deployment in deployments]
        await _drop_former(project)
        left = await close_dead_runs(project, await begun_runs(made))
        return _times(deployments, project)

    async def look() -> None:
        nonlocal forgotten
        await _until_forgotten(made)
        forgotten = True
        os.kill(os.getpid(), signal.SIGTERM)  # stops runs at work as a supervisor does

    async def work(runner: Runner) -> None:
        beside = [
            asyncio.create_task(task)
            for task in (close_when_idle(project, left), look(), make_anew_when_set_back(project), keep_up(made))
        ]
        try:
            await runner.start()
        finally:
            for task in beside:
                task.cancel()

    with _runner(project) as runner:
        ready(_asked(partial(register, runner)))
        try:
            asyncio.run(work(runner))
        except TerminationSignal:
            pass
        except ExceptionGroup as group:
            if group.split(_of_a_server_that_is_away)[1] is not None:
                raise
            raise ServiceError(
                "Prefect's server did not answer for some minutes, so the schedule is not served any more, and runs at "
                "work were stopped; what they committed is kept. When it is back, start this again."
            ) from group
    if forgotten:
        raise ServiceError(
            "Prefect's server knows none of the deployments any more, as when its database is another one, so nothing "
            "would come due. Start this again to make them anew."
        )


def _of_a_server_that_is_away(error: BaseException) -> bool:
    """Whether the runner ended by this because its polls failed three times in a row."""
    return isinstance(error, httpx.HTTPError) or "Service exceeded error threshold" in str(error)


@contextmanager
def _runner(project: Project) -> Generator[Runner]:
    """Prefect's runner in an empty folder of its own, in which it starts its runs.

    Prefect looks for their modules first where they are started, and a project may have a `features.py` of its own. The
    runner's own folder is by default below one for all users of the machine, where only the first of them may write.
    """
    project.state_path.mkdir(exist_ok=True, mode=0o700)
    before = tempfile.gettempdir()
    with scratch_folder(project.state_path, SERVING) as folder:
        if paths := os.environ.get("PYTHONPATH"):  # a relative one would lead elsewhere from there
            os.environ["PYTHONPATH"] = os.pathsep.join(str(Path(p).absolute()) for p in paths.split(os.pathsep) if p)
        os.chdir(folder)
        os.environ["PYTHONSAFEPATH"] = "1"
        tempfile.tempdir = str(folder)  # the runner takes no other word for it
        try:
            runner = Runner(
                name=f"siftline-{deployment_name(project.settings.project.name)}",
                query_seconds=POLL_S,
                heartbeat_seconds=HEARTBEAT_S,
                pause_on_shutdown=False,
            )
        finally:
            tempfile.tempdir = before
        yield runner


async def _check_pool(name: str) -> None:
    """Refuse a work pool that is not there; for deployments that it knows, Prefect's server answers with a bare 500."""
    async with get_client() as client:
        try:
            await client.read_work_pool(name)
        except ObjectNotFound:
            known = [pool.name for pool in await client.read_work_pools()]
            raise SettingsError(
                f"Prefect's server has no work pool '{name}'; it has {', '.join(known) or 'none'}. To make it: "
                f"prefect work-pool create {name} --type process"
            ) from None


async def _make_way(deployments: Sequence[RunnerDeployment], project: Project) -> None:
    """Look what the server knows under the deployments' names before they are made.

    One that somebody paused stays so; Prefect would let it go on, also when a supervisor starts the schedule again.
    Schedules of one that has none any more are removed; Prefect would keep them. Tags that somebody added stay, and in
    the same work pool the queue and the job variables, which Prefect would take away. On the server that `siftline up`
    started for this project, another folder is the one from which it was moved or copied.

    Raises:
        SettingsError: some belong to another project folder.
    """
    idle: list[tuple[UUID, UUID]] = []
    others: dict[str, str] = {}
    async with get_client() as client:
        for deployment in deployments:
            try:
                known = await client.read_deployment_by_name(_full_name(deployment))
            except ObjectNotFound:
                continue
            theirs = str(known.parameters.get("project", ""))
            if theirs and not _has_own_server(project) and Path(theirs).resolve() != project.root.resolve():
                others[_full_name(deployment)] = theirs
            deployment.paused = known.paused or (bool(known.schedules) and not any(s.active for s in known.schedules))
            deployment.tags = [*deployment.tags, *(tag for tag in known.tags if tag not in deployment.tags)]
            if deployment.work_pool_name and deployment.work_pool_name == known.work_pool_name:
                deployment.work_queue_name = known.work_queue_name
                deployment.job_variables = known.job_variables or {}
            if not deployment.schedules:
                idle += [(known.id, schedule.id) for schedule in known.schedules]
        if others:
            name, theirs = next(iter(others.items()))
            ways = "; ".join(f"prefect deployment delete {name}" for name in others)
            raise SettingsError(
                f"Prefect's server has the deployment {name} for the project in {theirs}, not for {project.root}. Give "
                f"one of them another [project] name; if it was moved: {ways}"
            )
        for deployment_id, schedule_id in idle:
            await client.delete_deployment_schedule(deployment_id, schedule_id)


def _full_name(deployment: RunnerDeployment) -> str:
    return f"{deployment.flow_name}/{deployment.name}"


def _times(deployments: Sequence[RunnerDeployment], project: Project) -> dict[str, str]:
    """By their names, when deployments run."""
    schedule = project.settings.schedule
    times: dict[str, str] = {}
    for deployment in deployments:
        cron = getattr(schedule, str(deployment.flow_name))
        when = f"{cron} ({schedule.timezone})" if cron else "never by itself"
        times[_full_name(deployment)] = f"{when}, paused in Prefect" if cron and deployment.paused else when
    return times


async def begun_runs(deployments: Sequence[UUID]) -> list[UUID]:
    """Runs of deployments that have begun, as Prefect's server knows, and have not ended."""
    begun = FlowRunFilter.model_validate(
        {"deployment_id": {"any_": deployments}, "state": {"type": {"any_": ["PENDING", "RUNNING"]}}}
    )
    async with get_client() as client:
        return [run.id for run in await client.read_flow_runs(flow_run_filter=begun)]


async def close_dead_runs(project: Project, runs: Sequence[UUID]) -> Sequence[UUID]:
    """Mark runs that began before anybody served their deployments as crashed, so that they give up the one place.

    Prefect's server gives a dead run's place to the next after a while, but not where it was started anew meanwhile, as
    after a power cut: then it would cancel every later run.

    Returns:
        The runs, where one is at work, which may be one of them; nothing was done then.
    """
    try:
        with project.only_run():
            async with get_client() as client:
                for run in runs:
                    with suppress(ObjectNotFound):
                        state = (await client.read_flow_run(run)).state
                        if state is None or not state.is_final():
                            words = "Its process was gone when the schedule was served again. The next run goes on."
                            await client.set_flow_run_state(run, Crashed(message=words), force=True)
            return ()
    except WarehouseBusy:
        return runs


async def _until_forgotten(deployments: Sequence[UUID]) -> None:
    """Return when the server knows none of some deployments; the runner would go on, and nothing would come due."""
    of_ours = DeploymentFilter.model_validate({"id": {"any_": deployments}})
    known = True
    while known:
        await asyncio.sleep(LOOK_S)
        with suppress(PrefectHTTPStatusError, httpx.HTTPError):
            async with get_client() as client:
                known = bool(await client.read_deployments(deployment_filter=of_ours, limit=1))


async def make_anew_when_set_back(project: Project, *, every_s: float = LOOK_S) -> None:
    """Make the deployments anew whenever the clock was set back.

    The server has put runs on its list by then, at times that come again, and would put none before them.
    """
    clock, due = Clock(), False
    while True:
        await asyncio.sleep(every_s)
        due = clock.was_set_back() or due
        if due:
            with suppress(PrefectHTTPStatusError, DeploymentApplyError, httpx.HTTPError, SettingsError):
                deployments = deployments_of(project)
                await _make_way(deployments, project)
                for deployment in deployments:
                    await deployment.aapply()
                due = False
                get_logger("siftline").info("The clock was set back, so the deployments were made anew.")


async def cancel_overdue(deployments: Sequence[UUID]) -> None:
    """Cancel runs of the schedule that came due while nobody began them, but for the latest of each deployment.

    That one does all there is to do. The runner gets through one a second, the oldest first, and a run that is
    started by hand after a weekend would wait behind them.
    """
    cancelled = {"type": "CANCELLED", "message": "It came due while nobody ran it, and a later run does its work."}
    waiting = {"type": {"any_": ["SCHEDULED"]}}
    async with get_client() as client:
        for deployment in deployments:
            due = {"before_": datetime.now(UTC)}
            overdue = FlowRunFilter.model_validate(
                {"deployment_id": {"any_": [deployment]}, "state": waiting, "next_scheduled_start_time": due}
            )
            found: list[FlowRun] = []
            while more := await client.read_flow_runs(
                flow_run_filter=overdue, sort=FlowRunSort.EXPECTED_START_TIME_DESC, offset=1 + len(found)
            ):
                found += more
            runs = [str(run.id) for run in found if run.auto_scheduled]
            for start in range(0, len(runs), AT_ONCE):
                these = {"id": {"any_": runs[start : start + AT_ONCE]}, "state": waiting}
                body = {"flow_runs": these, "state": cancelled}
                path: Any = "/flow_runs/bulk_set_state"  # Prefect's client has no name for it
                (await client.request("POST", path, json=body)).raise_for_status()


async def keep_up(deployments: Sequence[UUID], *, every_s: float = LOOK_S) -> None:
    """`cancel_overdue` now and each minute: a machine that slept wakes without a word."""
    while True:
        with suppress(PrefectHTTPStatusError, httpx.HTTPError):
            await cancel_overdue(deployments)
        await asyncio.sleep(every_s)


async def close_when_idle(project: Project, runs: Sequence[UUID], *, every_s: float = POLL_S) -> None:
    """`close_dead_runs` as soon as no run is at work."""
    while runs:
        await asyncio.sleep(every_s)
        with suppress(PrefectHTTPStatusError, httpx.HTTPError):
            runs = await close_dead_runs(project, runs)


async def _drop_former(project: Project) -> None:
    """Delete the deployments that a project had under a former name: their runs would come due, and nobody begin them.

    Only on the server that `siftline up` started for it: elsewhere another host may have a project in such a folder.
    """
    if not _has_own_server(project):
        return
    name = deployment_name(project.settings.project.name)
    async with get_client() as client:
        for known in await client.read_deployments():
            ours = {"siftline", known.name} <= set(known.tags) and known.parameters.get("project") == str(project.root)
            if ours and known.name != name:
                await client.delete_deployment(known.id)


def _has_own_server(project: Project) -> bool:
    return local_api_url(project.state_path) == os.environ.get("PREFECT_API_URL")


def _asked(question: Callable[[], Any]) -> dict[str, str]:
    async def asked() -> dict[str, str]:
        async with get_client() as client:
            try:
                await client.raise_for_api_version_mismatch()
            except RuntimeError as error:
                if str(error).startswith("Failed to reach API"):
                    raise behind(error) from error
                raise other_version(error, str(client.api_url)) from error
        return await question()

    try:
        return asyncio.run(asked())
    except (PrefectHTTPStatusError, DeploymentApplyError) as error:
        raise ServiceError(f"Prefect's server refused the deployments: {error}{log_in_hint(error)}") from error
    except httpx.HTTPError as error:
        raise ServiceError(f"Prefect's server went away while the deployments were made: {error}") from error
