"""`siftline samples`: real data to try things on."""

from pathlib import Path

from features.ingest.samples import SAMPLES, get_sample
from flows.cli.terminal.console import out, print_table, stage_progress


def list_samples() -> None:
    """Print the samples."""
    print_table(["name", "description"], [(name, sample.description) for name, sample in SAMPLES.items()])


def fetch_sample(name: str, output: Path) -> None:
    """Fetch a sample and print the files."""
    with stage_progress() as progress:
        files = get_sample(name, output, progress=progress.of("samples"))
    out.print(f"{files.rows:,} items: {files.items}")
    out.print(f"gold labels, for the simulated annotator and for scoring only: {files.gold}")
    out.print(f"classes: {', '.join(files.classes)}")
