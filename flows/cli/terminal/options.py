"""Options that several commands share, so that they read the same everywhere."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from warehouse import SettingsError

ProjectOption = Annotated[
    Path, typer.Option("--project", "-p", envvar="SIFTLINE_DIR", help="Project folder (holds siftline.toml).")
]
AtOption = Annotated[
    str | None,
    typer.Option("--at", help="Snapshot number or time (ISO, UTC unless it names its zone); left out: the newest."),
]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="File to write instead of the terminal.")]
WHOLE = 1000
"""Characters that no first sentence has."""
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is there already.")]


class Commands(TyperGroup):
    """A group whose list of commands has their whole first sentences, on two lines where one is too short."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list."""
        commands = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(WHOLE)) for name, command in commands])


group_of = partial(typer.Typer, cls=Commands, no_args_is_help=True, rich_markup_mode=None)
"""A group of commands within `siftline`, such as `siftline lf`; its `help` says what of."""


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
