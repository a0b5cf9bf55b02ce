"""Options that several commands share, so that they read the same everywhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from warehouse import SettingsError

ProjectOption = Annotated[
    Path, typer.Option("--project", "-p", envvar="SIFTLINE_DIR", help="Project folder (holds siftline.toml).")
]
AtOption = Annotated[
    str | None,
    typer.Option("--at", help="Snapshot number or time (ISO, UTC unless it names its zone); left out: the newest."),
]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="File to write instead of the terminal.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is there already.")]


def ending_in(suffix: str) -> Callable[[Path | None], Path | None]:
    """Callback of an option for a file that has one form only, so that its name does not promise another.

    Raises:
        SettingsError: raised by the callback where the name ends in something else.
    """

    def check(output: Path | None) -> Path | None:
        if output is not None and output.suffix.lower() != suffix:
            raise SettingsError(f"--output is {output}; this writes one form only, so end the name in {suffix}.")
        return output

    return check
