"""`siftline studio`: a local Label Studio server for a project."""

import os
import shlex
from contextlib import suppress
from pathlib import Path

from flows.cli.serving import folder_of
from flows.cli.terminal.console import out, say
from flows.project.project import Project
from flows.servers.label_studio import studio_server
from warehouse import WarehouseNotFound


def start(root: Path, *, load: bool) -> None:
    """Start the server and print its address, its log-in and how to use it."""
    project = Project(root)
    studio = studio_server(project.root)
    if studio.status() is None:
        say("starting Label Studio; the first start of all takes half a minute or more")
    info = studio.start()
    if load:
        os.environ["LABEL_STUDIO_URL"], os.environ["LABEL_STUDIO_API_KEY"] = info.url, info.api_key
        _load_queue(root, project)
    out.print(f"Label Studio: {info.url}")
    out.print(f"log-in: {info.username}  password: {info.password}")
    out.print("To work with it from here:" if load else "To send the queue there:")
    out.print(f"  export LABEL_STUDIO_URL={info.url} LABEL_STUDIO_API_KEY={info.api_key}")
    out.print(f"  siftline run --project {shlex.quote(str(root))}")
    out.print(f"Stop it with: siftline studio down --project {shlex.quote(str(root))}")


def _load_queue(root: Path, project: Project) -> None:
    """Run the project against the server; where the budget is spent, one more batch is selected, and this is said."""
    from flows.cli.run import run_project
    from flows.cli.status import reconcile_queue, waiting_tasks

    section = project.settings.select
    queued = waiting = 0
    # There is no warehouse before a project's first run.
    with suppress(WarehouseNotFound), project.read_lake() as lake, lake.read() as reader:
        queued = reader.scalar("SELECT count(*) FROM queue")
        waiting = waiting_tasks(reader)
    if not waiting and queued >= section.budget:
        out.print(f"The budget of {section.budget} labels is spent; {section.batch} more are selected for the server.")
        os.environ["SIFTLINE_SELECT__BUDGET"] = str(queued + section.batch)
    run_project(root, simulated=False, max_passes=None)
    reconcile_queue(root)


def status(root: Path) -> None:
    """Print the address of the running server, or that none runs."""
    info = studio_server(folder_of(root)).status()
    if info is None:
        out.print("Label Studio does not run")
    else:
        out.print(f"Label Studio runs at {info.url} (pid {info.pid}), log-in {info.username}")


def stop(root: Path) -> None:
    """Stop the server."""
    stopped = studio_server(folder_of(root)).process.stop()
    out.print("Label Studio stopped" if stopped else "Label Studio was not running")
