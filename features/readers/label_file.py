"""Files of labels: an item and its class, or its classes.

Parquet, JSON (lines or an array) or CSV by the file's name, with the columns id, or item_id, or text, and label; ids
and what stands between the cells of a CSV are read as in sources. A label is a class name or a list of them; in CSV,
which knows no lists, a list is written as JSON, as exports write it: `["grain", "wheat"]`; `[]` is no class.
A gold file has the true labels, and only the scoring and the simulated annotator open it; a file of given labels has
those that people gave elsewhere, for `siftline import`. `features.readers.label_items` finds the items they are about.
"""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.errors import DataError
from warehouse.export.formats import without_mark

_LONGEST_CELL = 2**31 - 1
"""Characters; what the csv module takes by itself, 131,072, is less than a text beside the label may have."""

_BETWEEN_CELLS = ",;\t"

_NOT_GIVEN = ("reject", "ignore")
"""What Prodigy writes at `answer` beside a label that was suggested, and that the annotator did not give."""

_ANNOTATION = ("annotation_id", "created_at")
"""Where Label Studio's CSV and JSON-MIN say which of its annotations a row is."""

_READ = ("label", "annotator", "answer", *_ANNOTATION)
"""Columns that are read beside the one of ids or texts."""

_NAMED_CHARACTERS = 60

LOOKED_AT = 1_000
"""Rows without a text whose further cells are kept, to see whether one of them is the text."""

OTHER_TOOLS = "siftline docs label-studio 'Files of other tools'"


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenLabel:
    """One row of a file of labels.

    Attributes:
        item_id: empty where the row has none; then and without a text the row is about no item.
        content_hash: of the text; empty where the row has none.
        unmarked: the two without the ' that a CSV of Siftline puts before what begins like a formula.
        labels: class names; None where the row has no label.
        annotator: who gave it; empty where the file does not say.
        about: the id, or the beginning of the text, or which row it is, for messages.
        begin: the beginning of the text.
        annotation: the number of the annotation in Label Studio and when it was made; empty where the file has neither.
        unread: content hash by name of the cells that are not read, of the first rows without a text.
    """

    item_id: str
    content_hash: str
    unmarked: tuple[str, str]
    labels: tuple[str, ...] | None
    annotator: str
    about: str
    begin: str = ""
    annotation: tuple[str, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict[str, str])


def read_label_file(
    path: Path, *, ids: Iterable[str] = (), texts: Iterable[str] = (), what: str = "file"
) -> list[GivenLabel]:
    """Rows of a file of labels in its order.

    Args:
        path: the file. Beside `label`, one of the columns of ids or of texts has to be there, and `annotator` may be.
        ids: names of the column of ids, beside item_id and id; the first that is there is read.
        texts: names of the column of texts, beside text.
        what: the file's name in messages.

    Raises:
        DataError: it cannot be read, lacks a column, no row has an id or a text, or a label is neither a name nor a
            list of different names.
    """
    what = f"The {what} {path}"
    ids, texts = ("item_id", *ids, "id"), (*texts, "text")
    read = {*ids, *texts, *_READ}
    given: list[GivenLabel] = []
    for number, row in enumerate(_read(path, what, (*ids, *texts), wanted="id or text, and label"), 1):
        item_id, text = _whole(what, _id(_first(row, ids))), str(_first(row, texts))
        text = text if text.strip() else ""  # no record has such a text
        about = item_id or text[:_NAMED_CHARACTERS] or f"row {number}"
        label = None if row.get("answer") in _NOT_GIVEN else row.get("label")
        further = {} if text or number > LOOKED_AT else {name: row[name] for name in row if name not in read}
        given.append(
            GivenLabel(
                item_id=item_id,
                content_hash=_hash(text),
                unmarked=(without_mark(item_id), _hash(without_mark(text))),
                labels=None if label is None or label == "" else _names(what, about, label),
                annotator=without_mark(_whole(what, str(row.get("annotator") or ""))),
                about=about,
                begin=text[:_NAMED_CHARACTERS],
                annotation=tuple(str(row[name]) for name in _ANNOTATION if row.get(name)),
                unread={name: _hash(cell) for name, cell in further.items() if isinstance(cell, str) and cell},
            )
        )
    if given and not any(row.item_id or row.content_hash for row in given):
        raise DataError(f"{what} has neither id nor text in any row. Give each label the id of its item.")
    return given


def has_labels(path: Path, *, texts: Iterable[str]) -> bool:
    """Whether a file has rows with a column `label` beside one of texts, by its first row."""
    try:
        return next(iter(_read(path, str(path), tuple(texts), wanted="text and label")), None) is not None
    except DataError:
        return False


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() if text else ""


def _first(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    """What stands in the first of these columns that the row has; empty for none."""
    value = next((row[name] for name in names if name in row), None)
    return "" if value is None else value


def _read(path: Path, what: str, keys: tuple[str, ...], *, wanted: str) -> Iterable[dict[str, Any]]:
    """The rows of a file that has the column label and one of `keys`."""
    kind, read = _FORMATS.get(path.suffix.lower(), ("", _csv_rows))
    if not kind:
        raise DataError(
            f"{what} is not read: its name has to end in {', '.join(_FORMATS)}. How files of other tools become one of "
            f"these: {OTHER_TOOLS}."
        )
    try:
        yield from read(path, keys)
    except FileNotFoundError as error:
        raise DataError(f"{what} does not exist. Name a CSV, JSON, JSONL or Parquet file.") from error
    except (pa.ArrowException, OSError, ValueError, csv.Error, RecursionError) as error:
        way = ". Save it as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
        raise DataError(f"{what} cannot be read as {kind} with columns {wanted}: {error}{way}") from error


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


def _whole(what: str, text: str) -> str:
    """An id or a name without half a surrogate pair, which nothing can store and only JSON can write."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{what} has {text!r} in it, where a character lacks its half. Mend it there.") from error
    return text


def _names(what: str, item_id: object, label: object) -> tuple[str, ...]:
    label = _list_or_name(label) if isinstance(label, str) else label
    names = label if isinstance(label, list) else [label]
    if any(not isinstance(name, str) for name in names) or len(set(map(str, names))) != len(names):
        numbers = f" Names of numbers: {OTHER_TOOLS}." if any(isinstance(name, int | float) for name in names) else ""
        raise DataError(
            f"{what} has the label {label!r} for item '{item_id}'; a label is the name of a class, or a list of "
            f"different names where an item may have several.{numbers}"
        )
    return tuple(str(name) for name in names)


def _has(columns: Iterable[str], keys: tuple[str, ...]) -> bool:
    return "label" in columns and not set(keys).isdisjoint(columns)


def _way(columns: Iterable[str]) -> str:
    columns = [*columns]
    if {"annotations", "data"} <= {*columns}:
        return f"Export CSV or JSON-MIN from Label Studio in place of JSON, or take the line of: {OTHER_TOOLS}"
    if {"fields", "responses"} <= {*columns}:
        return (
            f"Argilla's JSON does not say which responses are drafts; its Parquet does, by the line of: {OTHER_TOOLS}"
        )
    lacks = "labels 'label'" if "label" not in columns else "ids 'id'"
    return f"Call the one with the {lacks}; for files of other tools: {OTHER_TOOLS}"


def _check(columns: Sequence[str], keys: tuple[str, ...]) -> None:
    if not _has(columns, keys):
        raise ValueError(f"it has the columns {', '.join(name or repr(name) for name in columns)}. {_way(columns)}")
    for name in (*keys, *_READ):
        if columns.count(name) > 1:
            raise ValueError(f"it has the column {name!r} {columns.count(name)} times. Rename all but one")


def _object(where: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        key, times = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"in {where} the field {key[:60]!r} stands {times} times. Keep one")
    return fields


def _parquet_rows(path: Path, keys: tuple[str, ...]) -> Iterable[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        _check(names, keys)
        classes = _class_names(file.schema_arrow)
        read = {*keys, *_READ}
        texts = [field.name for field in file.schema_arrow if _is_text(field.type) and field.name not in read]
        beside = file.iter_batches(LOOKED_AT, columns=[name for name in texts if names.count(name) == 1])
        further = next((batch.to_pylist() for batch in beside), [])
        row = 0
        for batch in file.iter_batches(columns=[name for name in dict.fromkeys((*keys, *_READ)) if name in names]):
            table = pa.Table.from_batches([batch])
            for place, name in enumerate(table.column_names):
                column = table.column(name)
                text = pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
                several = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
                numbers = bool(classes) and name == "label"
                if text or (name not in keys and not several and not numbers):
                    table = table.set_column(place, name, column.cast(pa.string()))
            for found in table.to_pylist():
                yield {
                    **(further[row] if row < len(further) else {}),
                    **found,
                    "label": _named(found["label"], classes),
                }
                row += 1


def _class_names(schema: pa.Schema) -> list[str]:
    """Names of the numbers in the column label, as Hugging Face's `datasets` keeps them in Parquet files."""
    try:
        kept: Any = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except ValueError:
        return []
    for key in ("info", "features", "label"):
        kept = kept.get(key) if isinstance(kept, dict) else None
    if isinstance(kept, dict) and isinstance(kept.get("feature"), dict):
        kept = kept["feature"]  # of a list
    names = kept.get("names") if isinstance(kept, dict) else None
    return [str(name) for name in names] if isinstance(names, list) else []


def _named(label: Any, classes: list[str]) -> Any:
    """The label with names in place of numbers; there -1 is none."""
    if not classes:
        return label
    if isinstance(label, list):
        return [_named(one, classes) for one in label]
    if not isinstance(label, int):
        return label
    return classes[label] if 0 <= label < len(classes) else None if label == -1 else str(label)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _json_lines(path: Path, keys: tuple[str, ...]) -> Iterable[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"line {number}"
                yield _json_row(where, json.loads(line, object_pairs_hook=partial(_object, where)), keys)


def _json_file(path: Path, keys: tuple[str, ...]) -> Iterable[dict[str, Any]]:
    """An array of objects, or one object a line: programs write both under this name."""
    with path.open(encoding="utf-8-sig") as file:
        begin = file.read(64).lstrip()[:1]
    if begin != "[":
        yield from _json_lines(path, keys)
        return
    rows: list[Any] = json.loads(path.read_text("utf-8-sig"), object_pairs_hook=partial(_object, "the array"))
    some = any(isinstance(row, dict) and "label" in row for row in rows)
    for number, row in enumerate(rows, 1):
        # Label Studio's JSON-MIN leaves the field out where a person gave no label, but a note or a rating.
        lacks = some and isinstance(row, dict) and "annotation_id" in row
        yield _json_row(f"entry {number}", {"label": None, **row} if lacks else row, keys)


def _json_row(where: str, row: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"{where} is no object")
    if not _has(row, keys):
        raise ValueError(f"{where} has the fields {', '.join(map(str, row))}. {_way(map(str, row))}")
    label = row["label"]
    return {**row, "label": label["choices"]} if isinstance(label, dict) and [*label] == ["choices"] else row


def _csv_rows(path: Path, keys: tuple[str, ...]) -> Iterable[dict[str, Any]]:
    # The limit is one for the whole process, so it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    with path.open(encoding="utf-8-sig", newline="") as lines:
        first = lines.readline()
        lines.seek(0)
        heads = {mark: next(csv.reader([first], delimiter=mark), []) for mark in _BETWEEN_CELLS}
        mark = max(heads, key=lambda mark: (_has(heads[mark], keys), len(heads[mark])))
        rows = csv.DictReader(lines, delimiter=mark, strict=True)
        _check(rows.fieldnames or (), keys)
        for row in rows:
            if None in row or None in row.values():
                raise ValueError(f"the row that ends in line {rows.line_num} has more or fewer cells than the header")
            yield row


def _list_or_name(label: str) -> Any:
    """The list that a text is: a JSON list, as a cell of CSV or a field of metadata has it, or Label Studio's
    `{"choices": [...]}`; what only begins like one is a name, such as `[urgent]`.
    """
    try:
        found = json.loads(label) if label.startswith(("[", '{"choices":')) else label
    except (ValueError, RecursionError):
        return label
    return found["choices"] if isinstance(found, dict) else found


_Rows = Callable[[Path, tuple[str, ...]], Iterable[dict[str, Any]]]

_FORMATS: dict[str, tuple[str, _Rows]] = {
    ".csv": ("CSV", _csv_rows),
    ".tsv": ("CSV", _csv_rows),
    ".jsonl": ("JSON lines", _json_lines),
    ".ndjson": ("JSON lines", _json_lines),
    ".json": ("JSON", _json_file),
    ".parquet": ("Parquet", _parquet_rows),
}
"""What a file is, by the end of its name, and how it is read."""
