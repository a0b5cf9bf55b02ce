"""Rows in the forms that people take away: CSV, JSON lines and Parquet, written whole or not at all.

What `siftline sql` prints and what an export writes are the same forms, so they are made in one place. A text from a
record can begin like a formula, and a spreadsheet would run it; no CSV of Siftline holds such a cell.
"""

import csv
import itertools
import json
import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.errors import SettingsError
from warehouse.files.atomic_file import refuse_special, replaced_file

ROW_GROUP_ROWS = 100_000
_FORMULA = tuple("=+-@\t\r\n" + "\uff1d\uff0b\uff0d\uff20")
"""The wide ones are formulas too where a spreadsheet is set to Chinese or Japanese. Source:
https://owasp.org/www-community/attacks/CSV_Injection"""


@contextmanager
def new_file(path: Path, *, force: bool = False) -> Generator[Path]:
    """A file to fill that takes its place only when the block ends without an error.

    Args:
        path: the place; its folder must exist.
        force: replace a file that is there.

    Raises:
        SettingsError: the place is taken, no place for a file, cannot be written, or its folder does not exist.
    """
    if str(path) == "-":
        raise SettingsError("- would be a file of that name. For standard output leave --output out.")
    path = path.absolute()
    refuse_special(path)
    if path.is_dir():
        raise SettingsError(f"{path} is a folder; name a file to write.")
    _refuse_taken(path, force=force)
    if not path.parent.is_dir():
        raise SettingsError(f"The folder {path.parent} does not exist; make it first, or name another place.")
    with replaced_file(path) as temporary:
        yield temporary
        _refuse_taken(path, force=force)  # another command may have written one there meanwhile


def _refuse_taken(path: Path, *, force: bool) -> None:
    if path.exists() and not force:
        raise SettingsError(f"{path} exists already; nothing was written. Name another place, or give --force.")


def numbered(names: Sequence[str]) -> list[str]:
    """Names of columns, the later of equal ones with a number as DuckDB's COPY gives it: label, label_1, label_2."""
    found: list[str] = []
    taken: set[str] = set()
    for name in names:
        further = (f"{name}_{number}" for number in itertools.count(1))
        new = next(new for new in itertools.chain([name], further) if new.lower() not in taken)
        taken.add(new.lower())
        found.append(new)
    return found


def write_csv(target: TextIO, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as CSV. Lists and structs become JSON, and no cell is a formula."""
    writer = csv.writer(target)
    writer.writerow([csv_cell(name) for name in numbered(columns)])
    writer.writerows([csv_cell(value) for value in row] for row in rows)


def write_json(target: TextIO, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as JSON objects, one per line."""
    names = numbered(columns)
    for row in rows:
        target.write(json.dumps(plain(dict(zip(names, row, strict=True))), ensure_ascii=False) + "\n")


def rows_of(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[Any, ...]]:
    """The rows of batches, as `write_csv` and `write_json` take them."""
    for batch in batches:
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def write_parquet(target: Path | IO[bytes], stream: pa.RecordBatchReader) -> None:
    """Write a stream of batches as one Parquet file.

    Equal rows give equal bytes, however the stream was cut: row groups are filled to a fixed size.
    """
    fields = zip(stream.schema, numbered(stream.schema.names), strict=True)
    schema = pa.schema([field.with_name(name) for field, name in fields], stream.schema.metadata)
    kept = schema.empty_table()
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for batch in stream:
            kept = pa.concat_tables([kept, pa.Table.from_arrays(batch.columns, schema=schema)])
            while kept.num_rows >= ROW_GROUP_ROWS:
                writer.write_table(kept.slice(0, ROW_GROUP_ROWS).combine_chunks(), row_group_size=ROW_GROUP_ROWS)
                kept = kept.slice(ROW_GROUP_ROWS)
        if kept.num_rows:
            writer.write_table(kept.combine_chunks(), row_group_size=ROW_GROUP_ROWS)


def plain(value: Any) -> Any:
    """A value as JSON has it: what is no number becomes null, what JSON does not know becomes text."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Decimal):
        return int(value) if value == int(value) else float(value)
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def csv_cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: text that begins like one gets a ' before it."""
    if isinstance(value, dict | list | tuple | bytes):
        return json.dumps(plain(value), ensure_ascii=False)
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def without_mark(cell: str) -> str:
    """The text that `csv_cell` may have put a ' before; any other cell as it is."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell
