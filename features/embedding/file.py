"""Any file of texts becomes a Parquet file of vectors, or of what is made of these, whole or not at all."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from engine.protocol import Encoder, Vectors
from features.embedding.stage import encode_named
from features.ingest.stage import read_source
from features.readers.record import Fault, Record, fault
from features.readers.source import MissingColumns, SourceConfig, SourceFile, find_files
from warehouse import DataError, Progress, SettingsError, matrix_to_list_array, silent
from warehouse.files.atomic_file import replaced_file

FILE_TEXTS = 4096
FILE_RECORD_BYTES = 16 << 20
SHOWN_FAULTS = 10
WITHOUT_TEXT = ("empty_text", "null_text")
"""Reasons for which a record of a file is left out, as ingest puts it aside; any other refuses the file."""
_FILE_SCHEMA = pa.schema([("id", pa.string()), ("vector", pa.list_(pa.float32()))])


def _as_vectors(texts: list[str], vectors: Vectors) -> list[pa.Array]:
    return [matrix_to_list_array(vectors)]


@dataclass(frozen=True, kw_only=True, slots=True)
class TextFile:
    """A file of texts that was read to the end and is good, and where what is made of it goes.

    Attributes:
        config: which fields are text and id.
        file: the file.
        output: Parquet file to write.
        count: how many records have a text.
        without_text: how many have none; they are left out.
    """

    config: SourceConfig
    file: SourceFile
    output: Path
    count: int
    without_text: int


def read_through(source: Path, *, text_field: str, id_field: str | None, output: Path) -> TextFile:
    """Look at a file of texts before anything is loaded or computed for it.

    Args:
        source: JSONL, CSV, TSV (each also .gz) or Parquet.
        text_field: field or column with the text.
        id_field: field or column with the id; None numbers the records by line or row, from 1.
        output: Parquet file to write; it appears whole or not at all.

    Raises:
        SettingsError: the source does not exist, has no such column or no text, or the output cannot be written.
        DataError: records cannot be read; names the lines or rows of the first of them.
    """
    if not source.is_file():
        what = "is not a file" if source.exists() else "does not exist"
        raise SettingsError(f"The input {source} {what}. Name a JSONL, CSV, TSV or Parquet file.")
    config = SourceConfig(
        name=source.name, path=str(source), text=text_field, id=id_field, max_record_bytes=FILE_RECORD_BYTES
    )
    [file] = find_files(config, Path())
    if not output.parent.is_dir() or output.is_dir():
        raise SettingsError(f"{output} cannot be written: name a file in a folder that exists.")
    if output.exists() and output.samefile(source):
        raise SettingsError(f"{output} is the input itself. Name another output.")
    total, without_text = _checked_count(config, file)
    if without_text and not total:
        raise SettingsError(
            f"{file.name} has no text in the field '{config.text}', in none of {without_text} records. Name another "
            "with --text-field."
        )
    return TextFile(config=config, file=file, output=output, count=total, without_text=without_text)


def embed_file(
    source: TextFile,
    encoder: Encoder,
    *,
    progress: Progress = silent,
    schema: pa.Schema = _FILE_SCHEMA,
    columns: Callable[[list[str], Vectors], list[pa.Array]] = _as_vectors,
) -> int:
    """Embed a file of texts and write Parquet with the columns `id` and `vector`, or others that are made of these.

    Args:
        source: the texts.
        encoder: gives the vectors.
        progress: told the texts done of all texts.
        schema: of the output; the first column is `id`.
        columns: its other columns, of some texts [N] and their vectors [N, D].

    Returns:
        Number of rows written.

    Raises:
        SettingsError: the output cannot be written.
        DataError: records cannot be encoded, or no longer be read; names the first of them.
    """
    progress(0, source.count)
    done = 0
    with replaced_file(source.output) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        records = _records(source.config, source.file)
        while batch := list(islice(records, FILE_TEXTS)):
            texts = [record.text for record in batch]
            where = [f"{source.file.name} {_place(source.file, record)}" for record in batch]
            vectors = encode_named(encoder, texts, where, progress, done, source.count).vectors
            ids = [str(record.position) if record.id is None else record.id for record in batch]
            writer.write_table(pa.table([pa.array(ids, pa.string()), *columns(texts, vectors)], schema=schema))
            done += len(batch)
    return done


def _checked_count(config: SourceConfig, file: SourceFile) -> tuple[int, int]:
    """How many records with a text the file holds and how many without, once all are known to be readable."""
    count = without_text = bad = 0
    first: list[Fault] = []
    for entry in _entries(config, file):
        if isinstance(entry, Record):
            count += 1
            continue
        if entry.reason in WITHOUT_TEXT:
            without_text += 1
            continue
        bad += 1
        if bad <= SHOWN_FAULTS:
            first.append(entry)
    if bad:
        raise _unreadable(config, file, first, bad)
    return count, without_text


def _unreadable(config: SourceConfig, file: SourceFile, first: Sequence[Fault], bad: int) -> DataError:
    named = "; ".join(f"{_place(file, one)}: {one.detail} ({one.reason})" for one in first)
    more = f"; and {bad - len(first)} more" if bad > len(first) else ""
    return DataError(
        f"{file.name} {named}{more}. Mend or remove what is named; nothing was written. Texts are read from the field "
        f"'{config.text}' (--text-field)."
    )


def _place(file: SourceFile, entry: Record | Fault) -> str:
    return f"{'row' if file.format == 'parquet' else 'line'} {entry.position}"


def _records(config: SourceConfig, file: SourceFile) -> Iterator[Record]:
    for entry in _entries(config, file):
        if isinstance(entry, Record):
            yield entry
        elif entry.reason not in WITHOUT_TEXT:
            raise _unreadable(config, file, [entry], 1)


def _entries(config: SourceConfig, file: SourceFile) -> Iterator[Record | Fault]:
    try:
        for _, entry in read_source(config, (file,), Path(), lambda _: None):
            if isinstance(entry, Record) and entry.id is None and config.id is not None:
                yield fault(entry.position, "bad_id", f"the field '{config.id}' is empty", entry.raw)
            else:
                yield entry
    except MissingColumns as error:
        raise SettingsError(
            f"Give --text-field and --id-field columns of {file.name}: it has no column {error.missing}. It has: "
            f"{error.found}."
        ) from error
    except SettingsError as error:
        raise SettingsError(f"{error} These are --text-field and --id-field.") from error
