"""Options that several commands share, so that they read the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

ProjectOption = Annotated[
    Path, typer.Option("--project", "-p", envvar="SIFTLINE_DIR", help="Project folder (holds siftline.toml).")
]
AtOption = Annotated[
    str, typer.Option("--at", help="Snapshot number or time (ISO, UTC unless it names its zone); left out: the newest.")
]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="File to write instead of the terminal.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is there already.")]
