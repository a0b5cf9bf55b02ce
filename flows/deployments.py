"""The deployments of a project: which flow runs when, with what, and that only one of each runs at a time.

`serve` runs them from one process, without a work pool; `deploy` hands the same ones to a work pool, whose workers then
run them; `prefect.yaml` at the top of the repository does so with Prefect's own command. Import this module only where
Prefect is configured already, like `flows.pipelines`.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError, TerminationSignal
from prefect.flows import Flow
from prefect.runner import Runner
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType

from flows import pipelines
from flows.prefect_server import local_api_url
from flows.project import Project
from flows.trigger import deployment_name
from warehouse import ServiceError, SettingsError, siftline_version

FLOWS: tuple[Flow[Any, Any], ...] = (pipelines.cycle, pipelines.collect, pipelines.refresh, pipelines.maintenance)
START_S = 300
"""How long a run may take to begin before its place is given to the next; also how long a dead run keeps its place."""
HEARTBEAT_S = 60
POLL_S = 5


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


def deploy(project: Project, pool: str) -> list[str]:
    """Hand a project's deployments to a work pool.

    Returns:
        Their names, as `prefect deployment run` takes them.

    Raises:
        ServiceError: the server refused them; it names no such pool, or is away.
        SettingsError: another project has deployments of this name there.
    """

    async def all_of_them() -> list[str]:
        names: list[str] = []
        for deployment in deployments_of(project, pool=pool):
            await _make_way(deployment, project)
            await deployment.aapply()
            names.append(f"{deployment.flow_name}/{deployment.name}")
        return names

    return _asked(all_of_them)


def serve(project: Project, ready: Callable[[list[str]], None]) -> None:
    """Run a project's deployments from this process until SIGTERM or Ctrl-C; runs at work are stopped with it.

    Schedules stay as they are when it ends, so that runs that came due meanwhile are seen as late.

    Args:
        project: the project.
        ready: called with the names of the deployments when the server knows them.

    Raises:
        ServiceError: the server refused them, or is away.
        SettingsError: another project has deployments of this name there.
    """
    runner = Runner(
        name=f"siftline-{deployment_name(project.settings.project.name)}",
        query_seconds=POLL_S,
        heartbeat_seconds=HEARTBEAT_S,
        pause_on_shutdown=False,
    )

    async def register() -> list[str]:
        names: list[str] = []
        for deployment in deployments_of(project):
            await _make_way(deployment, project)
            await runner.aadd_deployment(deployment)
            names.append(f"{deployment.flow_name}/{deployment.name}")
        return names

    ready(_asked(register))
    try:
        asyncio.run(runner.start())
    except TerminationSignal:
        return


async def _make_way(deployment: RunnerDeployment, project: Project) -> None:
    """Look what the server knows under a deployment's name before it is made.

    Schedules of one that has none any more are removed; Prefect would keep them. On the server that `siftline up`
    started for this project, another folder is the one from which it was moved or copied.

    Raises:
        SettingsError: it belongs to another project folder.
    """
    name = f"{deployment.flow_name}/{deployment.name}"
    async with get_client() as client:
        try:
            known = await client.read_deployment_by_name(name)
        except ObjectNotFound:
            return
        ours, theirs = deployment.parameters["project"], known.parameters.get("project", "")
        own = local_api_url(project.state_path) == os.environ.get("PREFECT_API_URL")
        if theirs and not own and Path(theirs).resolve() != Path(ours).resolve():
            raise SettingsError(
                f"Prefect's server has the deployment {name} for the project in {theirs}, not for {ours}. Give one of "
                f"them another [project] name; if it was moved: prefect deployment delete {name}"
            )
        for schedule in [] if deployment.schedules else known.schedules:
            await client.delete_deployment_schedule(known.id, schedule.id)


def _asked(question: Callable[[], Any]) -> list[str]:
    try:
        return asyncio.run(question())
    except PrefectHTTPStatusError as error:
        raise ServiceError(f"Prefect's server refused the deployments: {error}") from error
    except httpx.HTTPError as error:
        raise ServiceError(f"Prefect's server went away while the deployments were made: {error}") from error
