"""`siftline predict`: what the end model says of texts that are not in the warehouse, and stay outside it."""

import shutil
import sys
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from flows.cli.data.sql import form_by_suffix
from flows.cli.embed import tell_without_text
from flows.cli.terminal.console import excerpt, out, print_table, say, stage_progress
from flows.report.text import counted
from warehouse import SettingsError
from warehouse.files.atomic_file import replaced_file

if TYPE_CHECKING:
    import pyarrow as pa

    from engine.protocol import Vectors
    from flows.project.prediction import TextPredictor

STANDARD_INPUT = "-"


def predict_texts(root: Path, texts: list[str], *, ask: bool = False) -> None:
    """Print the label of each text, and how sure the end model is of it."""
    from flows.project.prediction import check_texts

    check_texts(texts)
    predictor = _opened(root, ask=ask)
    with redirect_stdout(sys.stderr):  # what functions print is no answer
        said = predictor.predict(texts)
    rows = zip(said.labels, said.confidence.tolist(), map(excerpt, texts), strict=True)
    print_table(["label", "confidence", "text"], [(label or None, sure, text) for label, sure, text in rows])
    _tell_failed(predictor)


def predict_file(
    root: Path, file: Path, output: Path | None, text_field: str, id_field: str | None, *, ask: bool = False
) -> None:
    """Write the labels of a file of texts, and print how many there are of each class.

    Args:
        root: folder of the project.
        file: the texts; `STANDARD_INPUT` for JSON lines from there.
        output: Parquet, CSV or JSON lines by its suffix; None for JSON lines on standard output.
        text_field: field or column with the text.
        id_field: field or column with the id; None numbers the records.
        ask: call functions made by `prompt` too.
    """
    import pyarrow as pa

    from features.embedding.file import embed_file, read_through

    form = form_by_suffix(output) if output else "json"
    with TemporaryDirectory() as passing:
        file = _given(file, Path(passing))
        made = Path(passing) / "said.parquet"
        source = read_through(file, text_field=text_field, id_field=id_field, output=output or made)
        predictor = _opened(root, ask=ask)
        project = predictor.project
        label = pa.list_(pa.string()) if project.multi_label else pa.string()
        probs = pa.struct([(name, pa.float32()) for name in project.classes])
        sure = defaultdict[str, list[float]](list)

        def columns(texts: list[str], vectors: "Vectors") -> list["pa.Array"]:
            with redirect_stdout(sys.stderr):
                said = predictor.predict_encoded(texts, vectors)
            for one, confidence in zip(said.labels, said.confidence.tolist(), strict=True):
                sure[", ".join(one) if isinstance(one, list) else one].append(confidence)
            by_class = [pa.array(column, pa.float32()) for column in said.probs.T]
            confidences = pa.array(said.confidence, pa.float32())
            return [pa.array(said.labels, label), confidences, pa.StructArray.from_arrays(by_class, fields=[*probs])]

        with stage_progress() as progress:
            count = embed_file(
                source if form == "parquet" else replace(source, output=made),
                project.encoder,
                progress=progress.of("predict"),
                schema=pa.schema(
                    [("id", pa.string()), ("label", label), ("confidence", pa.float32()), ("probs", probs)]
                ),
                columns=columns,
            )
        if form != "parquet":
            _write(made, output, form)
    if output:
        rows = sorted((-len(all_of), name, sum(all_of) / len(all_of)) for name, all_of in sure.items())
        print_table(["label", "texts", "mean confidence"], [(name or None, -less, mean) for less, name, mean in rows])
        out.print(f"{counted(count, 'text')}: {output}")
    tell_without_text(source.without_text)
    _tell_failed(predictor)


def _given(file: Path, passing: Path) -> Path:
    """The file; of standard input a copy, since it is read through before anything is computed."""
    if str(file) != STANDARD_INPUT:
        return file
    if sys.stdin.isatty():
        raise SettingsError("--input - reads JSON lines from a pipe, and there is none. Name a file, or give texts.")
    copy = passing / "stdin.jsonl"
    with copy.open("wb") as handle:
        shutil.copyfileobj(sys.stdin.buffer, handle)
    return copy


def _write(made: Path, output: Path | None, form: str) -> None:
    """What was said, as CSV or JSON lines."""
    import pyarrow.parquet as pq

    from warehouse.export.formats import rows_of, write_csv, write_json

    said = pq.ParquetFile(made)

    @contextmanager
    def target() -> Generator[Any]:
        if output is None:
            yield sys.stdout
            return
        with replaced_file(output) as temporary, temporary.open("w", encoding="utf-8", newline="") as handle:
            yield handle

    with target() as handle:
        (write_csv if form == "csv" else write_json)(handle, said.schema_arrow.names, rows_of(said.iter_batches()))


def _opened(root: Path, *, ask: bool) -> "TextPredictor":
    from flows.project.prediction import TextPredictor

    predictor = TextPredictor(root, ask=ask)
    say(f"learned from: {predictor.learned_from}")
    for note in predictor.notes:
        say(note)
    return predictor


def _tell_failed(predictor: "TextPredictor") -> None:
    for name, (count, first) in predictor.failed.items():
        say(f"The labeling function '{name}' failed on texts, and has no vote on them: {count:,}, the first: {first}")
