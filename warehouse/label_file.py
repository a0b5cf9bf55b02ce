"""Files of labels: an item and its class, or its classes.

Parquet, JSON lines or CSV by the file's name, with the columns id and label; ids and what stands between the cells of a
CSV are read as in sources. A label is a class name or a list of them; in CSV, which knows no lists, a list is written
as JSON, as exports write it: `["grain", "wheat"]`; `[]` is no class.
A gold file has the true labels, and only the scoring and the simulated annotator open it; a file of given labels has
those that people gave elsewhere, for `siftline import`.
"""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.errors import DataError
from warehouse.protection import limited_process_memory

_LONGEST_CELL = 2**31 - 1
"""Characters; what the csv module takes by itself, 131,072, is less than a text beside the label may have."""

_BETWEEN_CELLS = ",;\t"
_MEMORY_BYTES, _MEMORY_RATIO = 1 << 30, 200
"""A file may take so much memory and 200 times its size; as Parquet, 700 bytes can hold terabytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenLabel:
    """One row of a file of given labels.

    Attributes:
        labels: class names; None where the row has no label.
        annotator: who gave it; empty where the file does not say.
    """

    item_id: str
    labels: tuple[str, ...] | None
    annotator: str


def read_label_file(path: Path) -> list[tuple[str, tuple[str, ...]]]:
    """Ids and class names of a gold file in its order.

    Raises:
        DataError: it cannot be read, lacks a column, or a label is neither a name nor a list of different names.
    """
    what = f"The gold file {path}"
    rows = _read(path, what, ("id",))
    return [(_id(row["id"]), _names(what, row["id"], row.get("label"))) for row in rows]


def read_given_labels(path: Path) -> list[GivenLabel]:
    """Rows of a file of given labels in its order; the column of ids may be called item_id, and annotator may be there.

    Raises:
        DataError: as `read_label_file`; or an id is missing.
    """
    what = f"The file {path}"
    given: list[GivenLabel] = []
    for number, row in enumerate(_read(path, what, ("item_id", "id")), 1):
        item_id, label = row["item_id"] if "item_id" in row else row["id"], row.get("label")
        if item_id in (None, ""):
            raise DataError(f"{what} has no id in row {number}. Give each label the id of its item.")
        none = label is None or label == ""
        labels = None if none else _names(what, item_id, label)
        given.append(GivenLabel(item_id=_id(item_id), labels=labels, annotator=str(row.get("annotator") or "")))
    return given


def _read(path: Path, what: str, ids: tuple[str, ...]) -> list[dict[str, Any]]:
    """The rows of a file that has the column label and one of `ids`."""
    read = {".jsonl": _json_lines, ".csv": _csv_rows}.get(path.suffix.lower(), _parquet_rows)
    try:
        with limited_process_memory(_MEMORY_BYTES + _MEMORY_RATIO * path.stat().st_size):
            return list(read(path, ids))
    except MemoryError as error:  # also Arrow's
        raise DataError(
            f"{what} takes more than {_MEMORY_RATIO} times its {path.stat().st_size:,} bytes of memory, as no file "
            "of labels does. If it is one all the same, write it as CSV."
        ) from error
    except (pa.ArrowException, OSError, ValueError, csv.Error, RecursionError) as error:
        kind = {".jsonl": "JSON lines", ".csv": "CSV"}.get(path.suffix.lower(), "Parquet")
        raise DataError(f"{what} cannot be read as {kind} with columns {ids[-1]} and label: {error}") from error


def one_class(path: Path, item_id: str, names: tuple[str, ...]) -> str:
    """The class of an item in a project where each has one.

    Raises:
        DataError: it has none or several.
    """
    if len(names) != 1:
        raise DataError(
            f"The file {path} gives item '{item_id}' {len(names)} classes, and in this project each item has one. "
            "Set multi_label = true under [project] where an item may have several or none."
        )
    return names[0]


def _id(value: object) -> str:
    """As ingest writes it: tools make floats of whole numbers where one is missing, and decimals."""
    return str(int(value) if isinstance(value, float | Decimal) and value % 1 == 0 else value)


def _names(what: str, item_id: object, label: object) -> tuple[str, ...]:
    names = label if isinstance(label, list) else [label]
    if any(not isinstance(name, str) for name in names) or len(set(map(str, names))) != len(names):
        raise DataError(
            f"{what} has the label {label!r} for item '{item_id}'; a label is the name of a class, or a list of "
            "different names where an item may have several."
        )
    return tuple(str(name) for name in names)


def _has(columns: Iterable[str], ids: tuple[str, ...]) -> bool:
    return "label" in columns and not set(ids).isdisjoint(columns)


def _parquet_rows(path: Path, ids: tuple[str, ...]) -> Iterable[dict[str, Any]]:
    names = pq.read_schema(path).names
    if not _has(names, ids):
        raise ValueError(f"it has the columns {', '.join(names)}")
    table = pq.read_table(path, columns=[name for name in (*ids, "label", "annotator") if name in names])
    for name in table.column_names:
        column = table.column(name)
        text = pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
        if text or (name not in ids and not pa.types.is_list(column.type) and not pa.types.is_large_list(column.type)):
            table = table.set_column(table.column_names.index(name), name, column.cast(pa.string()))
    return table.to_pylist()


def _json_lines(path: Path, ids: tuple[str, ...]) -> Iterable[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            row = json.loads(line) if line.strip() else None
            if row is None:
                continue
            if not isinstance(row, dict) or not _has(row, ids):
                raise ValueError(f"line {number} is no object with {ids[-1]} and label")
            yield row


def _csv_rows(path: Path, ids: tuple[str, ...]) -> Iterable[dict[str, Any]]:
    # The limit is one for the whole process, so it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    with path.open(encoding="utf-8-sig", newline="") as lines:
        first = lines.readline()
        lines.seek(0)
        fits = (mark for mark in _BETWEEN_CELLS if _has(next(csv.reader([first], delimiter=mark), []), ids))
        rows = csv.DictReader(lines, delimiter=next(fits, ","))
        if not _has(rows.fieldnames or (), ids):
            raise ValueError(f"it has the columns {', '.join(rows.fieldnames or ())}")
        for row in rows:
            yield {**row, "label": _list_or_name(row["label"] or "")}


def _list_or_name(label: str) -> Any:
    """A JSON list; what only begins like one is a name, such as `[urgent]`."""
    try:
        return json.loads(label) if label.startswith("[") else label
    except ValueError:
        return label
