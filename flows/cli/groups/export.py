"""`siftline export`: parses and calls."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli.options import AtOption, Commands, ForceOption, ProjectOption

app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None, help="Results as files, with a manifest.")


@app.command("training-set", epilog="Example: siftline export training-set --output labels --format jsonl")
def export_training_files(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")],
    format: Annotated[
        Literal["parquet", "jsonl", "csv", "datasets"],
        typer.Option(
            help="csv: a ' stands before cells a spreadsheet would take for a formula; datasets: for Hugging Face "
            "load_dataset."
        ),
    ] = "parquet",
    where: Annotated[str | None, typer.Option(help="SQL condition on training_set.")] = None,
    at: AtOption = None,
    project: ProjectOption = Path(),
    force: ForceOption = False,
) -> None:
    """Write the labelled data set and a manifest that says exactly what it is."""
    from flows.cli.history import export_training

    export_training(project, output, format, at, where, force=force)
