"""Files of true labels, which only the scoring and the simulated annotator open: an id and its class, or its classes.

Parquet, JSON lines or CSV by the file's name, with the columns id and label. A label is a class name or a list of them;
in CSV, which knows no lists, a list is written as JSON, as exports write it: `["grain", "wheat"]`; `[]` is no class.
"""

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.errors import DataError

_LONGEST_CELL = 2**31 - 1
"""Characters; what the csv module takes by itself, 131,072, is less than a text beside the label may have."""


def read_label_file(path: Path) -> list[tuple[str, tuple[str, ...]]]:
    """Ids and class names in the order of the file.

    Raises:
        DataError: it cannot be read, lacks a column, or a label is neither a name nor a list of different names.
    """
    read = {".jsonl": _json_lines, ".csv": _csv_rows}.get(path.suffix.lower(), _parquet_rows)
    try:
        rows = list(read(path))
    except (pa.ArrowException, OSError, ValueError, csv.Error, RecursionError) as error:
        kind = {".jsonl": "JSON lines", ".csv": "CSV"}.get(path.suffix.lower(), "Parquet")
        raise DataError(f"The gold file {path} cannot be read as {kind} with columns id and label: {error}") from error
    return [(str(item_id), _names(path, item_id, label)) for item_id, label in rows]


def one_class(path: Path, item_id: str, names: tuple[str, ...]) -> str:
    """The class of an item in a project where each has one.

    Raises:
        DataError: it has none or several.
    """
    if len(names) != 1:
        raise DataError(
            f"The gold file {path} gives item '{item_id}' {len(names)} classes, and in this project each item has one. "
            "Set multi_label = true under [project] where an item may have several or none."
        )
    return names[0]


def _names(path: Path, item_id: object, label: object) -> tuple[str, ...]:
    names = label if isinstance(label, list) else [label]
    if any(not isinstance(name, str) for name in names) or len(set(map(str, names))) != len(names):
        raise DataError(
            f"The gold file {path} has the label {label!r} for item '{item_id}'; a label is the name of a class, or a "
            "list of different names where an item may have several."
        )
    return tuple(str(name) for name in names)


def _parquet_rows(path: Path) -> Iterable[tuple[Any, Any]]:
    names = pq.read_schema(path).names
    if not {"id", "label"} <= set(names):
        raise ValueError(f"it has the columns {', '.join(names)}")
    table = pq.read_table(path, columns=["id", "label"])
    label = table.column("label")
    if not pa.types.is_list(label.type) and not pa.types.is_large_list(label.type):
        label = label.cast(pa.string())
    return zip(table.column("id").cast(pa.string()).to_pylist(), label.to_pylist(), strict=True)


def _json_lines(path: Path) -> Iterable[tuple[Any, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            row = json.loads(line) if line.strip() else None
            if row is None:
                continue
            if not isinstance(row, dict) or not {"id", "label"} <= set(row):
                raise ValueError(f"line {number} is no object with id and label")
            yield row["id"], row["label"]


def _csv_rows(path: Path) -> Iterable[tuple[Any, Any]]:
    # The limit is one for the whole process, so it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines)
        if not {"id", "label"} <= set(rows.fieldnames or ()):
            raise ValueError(f"it has the columns {', '.join(rows.fieldnames or ())}")
        for row in rows:
            label = row["label"] or ""
            yield row["id"], _list_or_name(label)


def _list_or_name(label: str) -> Any:
    """A JSON list; what only begins like one is a name, such as `[urgent]`."""
    try:
        return json.loads(label) if label.startswith("[") else label
    except ValueError:
        return label
