"""What is told to Prefect beside the schedule: runs that are due before their time, and runs that died without telling.

Import this module only where Prefect is configured already, like `flows.pipelines.flows`.
"""

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.logging import get_run_logger
from prefect.runtime import deployment as this_deployment
from prefect.states import Cancelled, Crashed

from flows.project.project import Project
from flows.project.recovery import RunRecord
from flows.report.text import counted
from warehouse import ServiceError, WarehouseBusy

BEGIN_S = 60.0
"""So long a run may wait for somebody who runs the deployments."""
AGAIN_S = 3600.0
"""So long after its end a run that failed is not started again for the same news."""
COLLECT_S = 600.0
"""So long a collect is waited for; one whose process was killed never ends for Prefect."""
PASSES = "The service or the lock may be back by then: the next run goes on from here."
"""In the message of a run that failed for a reason that may pass."""


@dataclass(frozen=True, kw_only=True, slots=True)
class News:
    """What came in that the models do not know.

    Attributes:
        labels: answers collected since the end model was last trained.
        records: records stored since vectors were last made.
        since: token of the last training; changes when the models have learned.
        finished: tasks so far where all are answered, so that annotators wait, and the budget allows more; else 0.
    """

    labels: int
    records: int
    since: str
    finished: int


def deployment_name(project: str) -> str:
    """The name of a project's deployments and the start of its artifacts' keys, in which Prefect takes a-z, 0-9 and -.

    A name with anything else ends in a hash of it, so that two of them stay two.
    """
    name = re.sub(r"[^a-z0-9]+", "-", project.lower()).strip("-") or "project"
    return name if name == project else f"{name}-{hashlib.sha256(project.encode()).hexdigest()[:8]}"


def news_of(project: Project) -> News:
    """Count what came in since the models last learned."""
    with project.lake.read() as reader:
        last = "coalesce((SELECT max(committed_at) FROM runs WHERE stage = ?), '-infinity'::TIMESTAMPTZ)"
        trained = reader.rows(
            "SELECT token FROM runs WHERE stage = 'end_model' ORDER BY committed_at DESC, token LIMIT 1"
        )
        tasks, unanswered = reader.rows("SELECT count(*), count(*) FILTER (state <> 'answered') FROM queue")[0]
        return News(
            labels=reader.scalar(f"SELECT count(*) FROM annotations WHERE committed_at > {last}", ["end_model"]),
            records=reader.scalar(f"SELECT count(*) FROM items WHERE committed_at > {last}", ["embed"]),
            since=trained[0][0] if trained else "",
            finished=0 if unanswered or tasks >= project.settings.select.budget else tasks,
        )


def start_cycle_if_due(project: Project) -> str:
    """Start the project's cycle deployment when enough answers or records came, or all open tasks are answered.

    The same news start it once: the key of the run names what the models know and how often the threshold is passed.

    Returns:
        Words to add to a message; empty when no cycle is due.
    """
    schedule = project.settings.schedule
    news = news_of(project)
    reasons: list[str] = []
    passed: list[int] = []
    for count, enough, name in (
        (news.labels, schedule.new_labels, "new answer"),
        (news.records, schedule.new_records, "new record"),
    ):
        passed.append(count // enough if enough else 0)
        if passed[-1]:
            reasons.append(f"{counted(count, name)} (at {enough:,} it is due)")
    waiting = news.finished if schedule.new_labels and news.labels else 0
    if waiting and not passed[0]:
        reasons.insert(0, f"all {counted(waiting, 'task')} answered")
    if not reasons:
        return ""
    # The deployments of a project have one name; run by hand, it is the one that `siftline serve` gives.
    name = f"cycle/{this_deployment.name or deployment_name(project.settings.project.name)}"
    key = f"{name} after {news.since[:12] or 'nothing'} {passed[0]} {passed[1]} {waiting}"
    try:
        run = _started(name, key)
    except ObjectNotFound:
        return f"; a cycle is due, {' and '.join(reasons)}, but there is no deployment {name}: siftline serve"
    except (PrefectHTTPStatusError, httpx.HTTPError) as error:
        get_run_logger().warning("A cycle is due, and could not be started: %s. The next collect tries again.", error)
        return "; a cycle is due, and could not be started"
    if run.state is not None and run.state.is_completed():
        return ""  # it has been, and left news such as skipped answers, from which nothing is learned
    if run.state is not None and run.state.is_failed():
        return f"; a cycle is due, {' and '.join(reasons)}: run {run.id} failed, another one waits for an hour"
    return f"; a cycle is due, {' and '.join(reasons)}: started as run {run.id}"


def _started(name: str, key: str) -> FlowRun:
    """The run that Prefect has for a key; another one where that one came to nothing, `AGAIN_S` later if it failed."""
    while True:
        run = run_deployment(name, timeout=0, as_subflow=False, idempotency_key=key, tags=["due"])
        assert isinstance(run, FlowRun)
        if run.state is None or not run.state.is_final() or run.state.is_completed():
            return run
        ended_s = (datetime.now(UTC) - run.state.timestamp).total_seconds()
        if run.state.is_failed() and abs(ended_s) < AGAIN_S:  # by a clock that was ahead it ends in a year
            return run
        key = f"{name} after run {run.id}"


def run_collect(project: Project, say: Callable[[str], None]) -> bool:
    """Run the project's collect deployment now and wait for its end; it starts a cycle when one is due.

    Args:
        project: the project.
        say: told what came of it.

    Returns:
        False where Prefect cannot run it now: it is away, has no such deployment, nobody serves it, or it does not end.

    Raises:
        WarehouseBusy: another run is at work.
        ServiceError: it crashed, or failed for a reason that may pass.
    """
    name = f"collect/{deployment_name(project.settings.project.name)}"
    try:
        run = run_deployment(name, timeout=BEGIN_S, poll_interval=1, as_subflow=False, tags=["hint"])
        assert isinstance(run, FlowRun)
        with get_client(sync_client=True) as client:
            if run.state is None or run.state.is_scheduled() or run.state.is_pending():
                client.set_flow_run_state(run.id, Cancelled(message=f"Nobody ran it within {BEGIN_S:.0f} s."))
                say(f"Nobody runs the deployment {name}: siftline serve")
                return False
            deadline = time.monotonic() + COLLECT_S
            while run.state is not None and not run.state.is_final():
                if time.monotonic() > deadline:
                    say(f"Run {run.id} of {name} has not ended in {COLLECT_S:.0f} s; its process may have been killed")
                    return False
                time.sleep(1.0)
                run = client.read_flow_run(run.id)
    except ObjectNotFound:
        say(f"There is no deployment {name}: siftline serve")
        return False
    except (PrefectHTTPStatusError, httpx.HTTPError) as error:
        say(f"Prefect's server could not run {name}: {error}")
        return False
    words = (run.state.message if run.state else None) or "no word of its end"
    if run.state is not None and run.state.is_cancelled():
        raise WarehouseBusy(words)
    if run.state is not None and (run.state.is_crashed() or PASSES in words):
        raise ServiceError(words)
    say(words)
    return True


def close_in_prefect(dead: RunRecord, by: str) -> None:
    """Mark a run that was taken over as crashed where Prefect still believes that it runs."""
    try:
        run = UUID(dead.run)
    except ValueError:
        return
    message = f"Taken over by run {by}: it {dead.end()}"
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(run).state
            if state is None or not state.is_final():
                client.set_flow_run_state(run, Crashed(message=message), force=True)
    except ObjectNotFound:
        return  # another server's run
    except (PrefectHTTPStatusError, httpx.HTTPError) as error:
        get_run_logger().warning("Prefect was not told that run %s is over: %s", run, error)
