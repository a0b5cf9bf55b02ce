"""`siftline serve`, `deploy`, `up`, `down`, `services`: the schedule of a project, and the servers around it."""

import os
from pathlib import Path

from flows.cli.status import project_hint, shown_path
from flows.cli.terminal.console import EndNow, out, print_table, say
from flows.project.project import Project
from flows.servers.prefect_server import require_api
from flows.settings.settings_file import FILE_NAME, load_settings
from warehouse import ServiceError


def serve_deployments(root: Path) -> None:
    """Run a project's deployments until SIGTERM or Ctrl-C."""
    project = Project(root)
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "INFO")
    url = require_api(project.state_path)
    from flows.deployments.deployments import serve

    def ready(times: dict[str, str]) -> None:
        _say_schedule(times)
        say(f"Serving them from here, seen at {url.removesuffix('/api')}. Stop with Ctrl-C or SIGTERM.")
        if path := os.environ.get("SIFTLINE_SERVE_READY"):
            Path(path).touch()

    try:
        serve(project, ready)
    except ServiceError as error:
        raise EndNow(str(error)) from error


def deploy_to_pool(root: Path, pool: str) -> None:
    """Hand a project's deployments to a work pool."""
    project = Project(root)
    url = require_api(project.state_path)
    from flows.deployments.deployments import deploy

    _say_schedule(deploy(project, pool))
    out.print(f"Deployed to the work pool {pool} at {url.removesuffix('/api')}. Run them with:")
    out.print(f"  prefect worker start --pool {pool}")


def _say_schedule(times: dict[str, str]) -> None:
    for name, when in times.items():
        say(f"  {name:<32} {when}")


def start_all(root: Path) -> None:
    """Start what does not run yet and print the state of all."""
    from flows.deployments.services import up

    project = Project(root)
    up(project, say)
    show_services(root)


def stop_all(root: Path) -> None:
    """Stop all of it."""
    from flows.deployments.services import down

    stopped = down(folder_of(root), say)
    out.print(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


def folder_of(root: Path) -> Path:
    """The folder of a project; what runs in it can be stopped before wrong settings are mended.

    Raises:
        SettingsError: nothing in it is a project's.
    """
    if not any((root / name).exists() for name in (FILE_NAME, ".siftline", ".studio")):
        load_settings(root)  # says how to make or name one
    return root.absolute()


def show_services(root: Path) -> None:
    """Print the state of each process, and where to look at it."""
    from flows.deployments.services import LOST, status

    lines = status(Project(root))
    print_table(
        ["service", "state", "where", "log"],
        [(x.name, x.state, x.where, x.log and shown_path(Path(x.log))) for x in lines],
    )
    states, hint = {x.state for x in lines}, project_hint(root)
    if "ended" in states:
        say(f"To start again what ended: siftline up{hint}")
    if "does not answer" in states:
        say(f"To start anew what does not answer: siftline down{hint}, then siftline up{hint}")
    if LOST in states:
        say("Prefect's database was removed; its server forgets all runs when it ends.")
        say(f"To begin anew: siftline up{hint}")
    if "away" in states:
        say(f"What to do about one that is away: siftline doctor{hint}")
