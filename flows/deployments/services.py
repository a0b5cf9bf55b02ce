"""Everything a project needs on one machine, in the background: what `siftline up` starts and `siftline down` stops.

Four processes: Prefect's server, the engine's server, Label Studio, and the one that runs the deployments. Starting
twice changes nothing; a dead one is started again, at its former address. Nothing here restarts what dies later: for
that there are the systemd units in `deploy/`.
"""

import hashlib
import os
import socket
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from engine.client.remote import info_sha256
from flows.project.project import Project
from flows.servers.background import Background, Running
from flows.servers.label_studio import studio_server
from flows.servers.ports import answers, take_port
from flows.servers.prefect_server import DATABASE, PYTHON, QUIET, check_api, configured_api_url, data_in, own_pages
from flows.servers.processes import has_lost
from flows.servers.running import wants_label_studio
from warehouse import ServiceError
from warehouse.catalog.address import is_plain_address
from warehouse.files.atomic_file import keep_from_git
from warehouse.files.scratch import in_use

PATIENCE_S = 2.0
"""So long another `up` or `down` is waited for without a word."""
LOST = "lost its database"
SERVING = "serve-"
"""How the name of the folder begins in which `siftline serve` starts runs: while it lives, a process serves them."""
PREFECT_PORT = 4200
"""Ports that may be taken by others between the look for a free one and the server's start."""


@dataclass(frozen=True, slots=True)
class Line:
    """What `siftline services` says of one process."""

    name: str
    state: str
    where: str
    log: str


def up(project: Project, told: Callable[[str], None] = lambda _: None) -> list[Line]:
    """Start what does not run yet; returns the state of all.

    Args:
        project: the project.
        told: called with a line for each that is started.

    Raises:
        ServiceError: one did not start; those before it run.
        SettingsError: Label Studio is asked for and not installed.
    """
    state = project.state_path
    state.mkdir(exist_ok=True, mode=0o700)
    keep_from_git(state)
    with _alone(state, told):
        _stop_moved(state, told)
        _stop_broken(state, told)
        environment = {**os.environ, **QUIET, "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO"}
        environment["PREFECT_API_URL"] = _prefect_up(project, environment, told)
        _engine_up(project, environment, told)
        if wants_label_studio(project.root, project.settings.annotate.service):
            studio = studio_server(project.root)
            if studio.status() is None:
                told("starting Label Studio")
            info = studio.start()
            environment |= {"LABEL_STUDIO_URL": info.url, "LABEL_STUDIO_API_KEY": info.api_key}
        deployments = Background("deployments", state)
        asks = _hash([*_addresses(environment), str(project.root), _schedule(project)])
        running = deployments.status()
        if running is not None and running.asks != asks:
            told("stopping the deployments, which were started with other settings or addresses")
            deployments.stop()
        ready = state / "services" / "deployments.ready"
        running = deployments.status()
        if running is not None:
            deployments.await_ready(running, ready.exists)
        else:
            told("starting the deployments")
            ready.unlink(missing_ok=True)
            command = [*PYTHON, "-m", "flows.cli.main", "serve", "--project", str(project.root)]
            environment["SIFTLINE_SERVE_READY"] = str(ready)
            deployments.start(command, environment, url="", ready=ready.exists, asks=asks)
    return status(project)


@contextmanager
def _alone(state: Path, told: Callable[[str], None]) -> Generator[None]:
    """One `up` or `down` of a project at a time; an `up` may wait minutes for a server that hangs."""
    lock = FileLock(str(state / "services.lock"))
    try:
        lock.acquire(timeout=PATIENCE_S)
    except Timeout:
        told("waiting for another siftline up or down of this project, which is at work")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _stop_moved(state: Path, told: Callable[[str], None]) -> None:
    """Stop what runs since before the project's folder was moved: Prefect's server opens its database by the path."""
    moved = [service for name in ("deployments", "engine", "prefect") if (service := Background(name, state)).moved()]
    if moved:
        told("stopping what was started before the folder was moved")
    for service in moved:
        service.stop()


def _stop_broken(state: Path, told: Callable[[str], None]) -> None:
    """Stop a Prefect server without its database, and the deployments, which a new one does not know."""
    if _lost_its_database(state):
        told("stopping Prefect's server, whose database was removed, and the deployments")
        for name in ("deployments", "prefect"):
            Background(name, state).stop()


def _lost_its_database(state: Path) -> bool:
    """Whether the project's Prefect server runs on a database that was removed: it answers, and keeps nothing."""
    running = Background("prefect", state).status()
    return running is not None and has_lost(running.pid, (_home(state) / DATABASE).resolve())


def _home(state: Path) -> Path:
    """Folder of the data of Prefect's server."""
    return state / "prefect"


def _addresses(environment: Mapping[str, str]) -> list[str]:
    return [environment.get(name, "") for name in ("PREFECT_API_URL", "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY")]


def _schedule(project: Project) -> str:
    """What the deployments take from the settings when they are made; runs read the rest themselves."""
    return project.settings.project.name + project.settings.schedule.model_dump_json()


def _hash(told: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def down(root: Path, told: Callable[[str], None] = lambda _: None) -> list[str]:
    """Stop all of it, the deployments first; returns the names of those that ran. Data and logs stay.

    Args:
        root: the project's folder; its settings may be wrong.
        told: called with a line when another command is waited for.

    Raises:
        ServiceError: one did not stop.
    """
    state = root.absolute() / ".siftline"
    if not state.is_dir():
        return []
    # Where nothing can be written no `up` starts anything, and there is no lock to take.
    with _alone(state, told) if os.access(state, os.W_OK) else nullcontext():
        first = [Background(name, state) for name in ("deployments", "engine")]
        services = [*first, studio_server(root).process, Background("prefect", state)]
        return [service.name for service in services if service.stop()]


def status(project: Project) -> list[Line]:
    """State of each process: runs, does not answer, lost its data, ended, is yours or away, or does not run."""
    state = project.state_path
    lines: list[Line] = []
    configured = configured_api_url()
    if configured is not None:
        found = "away"
        with suppress(ServiceError):
            check_api(configured)
            found = "yours"
        prefect = Line("prefect", found, configured, "")
    else:
        prefect = _line(Background("prefect", state), "/health")
        prefect = replace(prefect, state=LOST) if _lost_its_database(state) else prefect
    lines.append(replace(prefect, where=prefect.where.removesuffix("/api")))  # its pages; /api itself is none
    engine = project.engine_url
    if engine:
        last = Background("engine", state).last()
        if last is not None and last.url == engine:
            lines.append(_line(Background("engine", state), "/health"))
        else:
            lines.append(Line("engine", "yours" if answers(f"{engine}/health") else "away", engine, ""))
    studio = studio_server(project.root).process
    url = os.environ.get("LABEL_STUDIO_URL", "").rstrip("/")
    if studio.status() is not None or wants_label_studio(project.root, project.settings.annotate.service):
        lines.append(_line(studio, "/health"))
    elif url:
        if is_plain_address(url):
            lines.append(Line("label studio", "yours" if answers(f"{url}/health") else "away", url, ""))
        else:
            unusable = "LABEL_STUDIO_URL cannot be used; siftline doctor says why"
            lines.append(Line("label studio", "away", unusable, ""))
    deployments = Background("deployments", state)
    if deployments.status() is None and in_use(state, SERVING):
        lines.append(Line("deployments", "yours", "a siftline serve that up did not start", ""))
    else:
        lines.append(_line(deployments, ""))
    return lines


def _line(service: Background, health: str) -> Line:
    running = service.status()
    if running is None:
        return Line(service.name, "does not run" if service.last() is None else "ended", "", str(service.log))
    well = not health or answers(running.url + health)
    where = running.url or f"pid {running.pid}"
    return Line(service.name, "runs" if well else "does not answer", where, str(service.log))


def _prefect_up(project: Project, environment: Mapping[str, str], told: Callable[[str], None]) -> str:
    configured = configured_api_url()
    if configured is not None:
        return configured
    service = Background("prefect", project.state_path)
    running = service.status()
    if running is not None:
        return _known_up(service, running, f"{running.url}/health", told)
    told("starting Prefect's server")
    last = service.last()
    former = (urlsplit(last.url).port or 0) if last is not None else 0
    # Held from now on: of two that start at once, none comes too late for the port it picked.
    with take_port(PREFECT_PORT, former=former) as door:
        return _prefect_at(door, service, project, environment)


def _prefect_at(door: socket.socket, service: Background, project: Project, environment: Mapping[str, str]) -> str:
    home = _home(project.state_path)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    port = door.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    door.set_inheritable(True)
    command = [*PYTHON, "-m", "flows.servers.prefect_process", "taken", str(door.fileno())]
    variables = {
        **own_pages(port),
        # It copies its pages there when it starts; the default is beside its code, which others may own.
        "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),
        # In memory, as by default, places of runs at work are lost with the server, and are never free again.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        # Runs that ended 90 days ago are forgotten; by default they and their logs stay for ever.
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "true",
        **environment,
        **data_in(home),
        "PREFECT_UI_API_URL": url,
    }
    try:
        return service.start(command, variables, url=url, ready=lambda: answers(f"{url}/health")).url
    except ServiceError as error:
        raise ServiceError(
            f"{error}. If its data is damaged, delete {home}: it holds only the history of runs"
        ) from error


def _known_up(service: Background, running: Running, health: str, told: Callable[[str], None]) -> str:
    """Wait for a server that runs: it may be starting still, since before `up` was interrupted; returns its address."""
    if not answers(health):
        told(f"waiting for {service.name}, which runs and does not answer")
        service.await_ready(running, lambda: answers(health))
    return running.url


def _engine_up(project: Project, environment: Mapping[str, str], told: Callable[[str], None]) -> None:
    url = project.engine_url
    service = Background("engine", project.state_path)
    command = _engine_command(project, url) if urlsplit(url).hostname in ("127.0.0.1", "localhost") else []
    sha256 = info_sha256(command[command.index("--encoder") + 1]) if command else None
    asks = _hash([url, *command, *([] if sha256 is None else [sha256])])
    running = service.status()
    if running is not None and running.asks != asks:
        told("stopping the engine's server, which was started with other settings or another encoder")
        service.stop()
    running = service.status() if command else None
    if running is not None:
        _known_up(service, running, f"{url}/health", told)
    if running is not None or not command or answers(f"{url}/health"):
        return
    told("starting the engine's server")
    service.start(command, environment, url=url, ready=lambda: answers(f"{url}/health"), asks=asks)


def _engine_command(project: Project, url: str) -> list[str]:
    """`siftline engine serve` with all of [encoder] that a server computes by."""
    section = project.settings.encoder
    command = [*PYTHON, "-m", "flows.cli.main", "engine", "serve", "--encoder", project.encoder_name]
    command += ["--port", str(urlsplit(url).port or 80), "--precision", section.precision, "--device", section.device]
    if section.active is not None:
        command += ["--active", str(section.active)]
    if section.max_tokens is not None:
        command += ["--max-tokens", str(section.max_tokens)]
    return command
