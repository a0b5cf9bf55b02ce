"""The data folder and its plain files, samples that Siftline downloads, and vectors that are kept between runs."""

import gzip
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from benchmarks.harness import CACHE, ROOT

VARIABLE = "SIFTLINE_DATA"

Row = tuple[str, str, tuple[int, ...]]
"""Text, label, and the votes of labeling functions, if there are any."""


def data_folder(given: Path | None, *holds: str) -> Path:
    """The folder that was asked for, else SIFTLINE_DATA, else shared/data beside the repository.

    Raises:
        FileNotFoundError: it has none of the folders `holds`.
    """
    folder = given or Path(os.environ.get(VARIABLE) or ROOT.parent / "shared" / "data")
    if not any((folder / name).is_dir() for name in holds):
        wanted = " or ".join(holds)
        raise FileNotFoundError(
            f"{folder} has no folder {wanted}. Name a data folder with --data DIR or in {VARIABLE}."
        )
    return folder


def tab_lines(path: Path) -> list[tuple[str, str]]:
    """Source and text of each line of a .tsv.gz file; a line without a tab has no source."""
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        parts = (line.rstrip("\n").rpartition("\t") for line in file)
        return [(source, text) for source, _, text in parts]


def label_lines(path: Path) -> list[Row]:
    """Lines of "label text", in latin-1."""
    rows = [line.partition(" ") for line in path.read_text("latin-1").split("\n") if line]
    return [(text, label, ()) for label, _, text in rows]


def sample(name: str) -> tuple[list[Row], list[Row]]:
    """Train and test rows of a sample set of `siftline samples`."""
    from features.ingest.samples import get_sample

    files = get_sample(name, CACHE / "selection" / name)
    gold = dict(zip(*(pq.read_table(files.gold).column(c).to_pylist() for c in ("id", "label")), strict=True))
    sides: dict[str, list[Row]] = {"train": [], "test": []}
    for row in pq.read_table(files.items).to_pylist():
        sides[row["split"]].append((row["text"], gold[row["id"]], ()))
    return sides["train"], sides["test"]


def vectors(texts: list[str], precision: str = "fp32") -> npt.NDArray[np.float32]:
    """Vectors [N, D] of the dense encoder at 128 tokens, computed once and kept in `.cache/`."""
    from engine.load import load_encoder  # torch takes a second to import; kept vectors need none

    digest = hashlib.sha256(json.dumps([precision, 128, *texts]).encode()).hexdigest()[:16]
    file = CACHE / "vectors" / f"{digest}.npy"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file.with_suffix(".part.npy"), load_encoder("dense", max_tokens=128, precision=precision).encode(texts))
        file.with_suffix(".part.npy").replace(file)
    return np.load(file, allow_pickle=False)
