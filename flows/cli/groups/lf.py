"""`siftline lf`: parses and calls."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import Commands, ProjectOption, ending_in

app = typer.Typer(
    cls=Commands, no_args_is_help=True, rich_markup_mode=None, help="Labeling functions: try them, look at them."
)


@app.command("preview", epilog="Example: siftline lf preview labeling_functions.py --items 100")
def lf_preview(
    file: Annotated[Path | None, typer.Argument(help="File of functions; the project's own if left out.")] = None,
    project: ProjectOption = Path(),
    items: Annotated[int, typer.Option(min=0, help="How many items to try, a fixed random pick; 0 for all.")] = 100,
    ask: Annotated[bool, typer.Option("--ask", help="Also ask the language model, which may cost money.")] = False,
) -> None:
    """Try labeling functions on some items and show what they hit; nothing is written."""
    from flows.cli.lf import preview_functions

    preview_functions(project, file, items or None, ask=ask)


@app.command("report", epilog='Example: siftline lf report --where "length(content) < 100"')
def lf_report(
    project: ProjectOption = Path(),
    where: Annotated[
        str | None, typer.Option(help="Only items of the train split for which this SQL over the table items is true.")
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Items to show where functions disagree, of each kind.")] = 5,
) -> None:
    """Show how far each function reaches, how right it is, what it adds, and where functions disagree."""
    from flows.cli.lf import report_functions

    report_functions(project, where, examples)


@app.command("suggest", epilog="Example: siftline lf suggest --output suggested_functions.py")
def lf_suggest(
    project: ProjectOption = Path(),
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", callback=ending_in(".py"), help="File to write; suggested_functions.py if left out."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write candidate functions, from people's labels and clusters, to a file to keep or drop them in."""
    from flows.cli.lf import suggest_functions

    suggest_functions(project, output, force=force)
