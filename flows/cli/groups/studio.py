"""`siftline studio`: parses and calls."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import Commands, ProjectOption

app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None, help="A local Label Studio server.")


@app.command("up", epilog="Example: siftline studio up --project examples/reuters")
def studio_start(
    project: ProjectOption = Path(),
    load: Annotated[bool, typer.Option("--load", help="Run the project and send its queue there.")] = False,
) -> None:
    """Start a local Label Studio on loopback and print its address and log-in."""
    from flows.cli.studio import start

    start(project, load=load)


@app.command("status", epilog="Example: siftline studio status")
def studio_state(project: ProjectOption = Path()) -> None:
    """Say whether the local Label Studio runs, and where."""
    from flows.cli.studio import status

    status(project)


@app.command("down", epilog="Example: siftline studio down")
def studio_stop(project: ProjectOption = Path()) -> None:
    """Stop the local Label Studio; its data stays."""
    from flows.cli.studio import stop

    stop(project)
