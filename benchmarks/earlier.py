"""What an earlier run left in a benchmark's output file, looked at before hours are spent on what cannot be kept."""

import json
from pathlib import Path
from typing import Any


def earlier_figures(output: Path | None, benchmark: str) -> dict[str, Any]:
    """The figures in the output file; none where there is no such file yet.

    Args:
        output: the file to be written; None where none is.
        benchmark: name that the file gives as its "benchmark".

    Raises:
        ValueError: the file is of something else, or its folder is not there.
    """
    if output is None:
        return {}
    if not output.parent.is_dir():
        raise ValueError(f"--output is {output}, whose folder is not there; make it first.")
    if not output.exists():
        return {}
    try:
        figures = json.loads(output.read_text("utf-8"))
    except (OSError, ValueError):
        figures = None
    if not isinstance(figures, dict) or figures.get("benchmark") != benchmark:
        raise ValueError(f"--output is {output}, which holds something else; give another name.")
    return figures
