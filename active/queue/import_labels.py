"""Labels that people gave elsewhere: a file of them becomes answers, in force until their item's text is edited.

They stand under a project of their own, so that neither the queue nor a service that never saw them takes them for its
answers.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from active.annotation.service import SIMULATED
from active.queue.outbox import QueueConfig, Row
from features.readers.label_file import OTHER_TOOLS, GivenLabel, one_class, read_label_file
from features.readers.label_items import labelled_items, no_item_in_words
from warehouse import Append, DataError, Lake, Reader, ServiceError, ServiceRefused, SettingsError, StageResult, Upsert
from warehouse.export.formats import without_mark
from warehouse.text import perhaps_meant

ELSEWHERE = "(imported)"
"""Project of imported labels, and `asked_before.why` of what they are about."""

NO_ITEM = "ids that are no items"
NO_TEXT = "texts that are no item's"
HELD_OUT = "items of valid and test"
UNLABELLED = "rows without a label"
UNNAMED = "rows with neither id nor text"
NUMBERS = "annotators by number"
ACCOUNTS = "accounts of Label Studio"
MOVED = "labels that were here by number"
NOT_ASKED = "why accounts are not known"

Accounts = Callable[[Mapping[str, Sequence[tuple[str, ...]]]], Mapping[str, str]]
"""Names of the accounts with some numbers, each given with some of its annotations: their number and when they were
made. A number of which it cannot tell is left out."""

_NAMED = 3
_SEVERAL = 'Several of them are a list, such as ["grain", "wheat"]. '


def import_labels(
    lake: Lake,
    path: Path,
    config: QueueConfig,
    *,
    annotator: str = "imported",
    ids: Iterable[str] = (),
    texts: Iterable[str] = (),
    withdraw: bool = False,
    accounts: Accounts | None = None,
) -> StageResult:
    """Store the labels of a file as answers; those that are stored already change nothing.

    Which items a label is about: see `features.readers.label_items`. A label that the file does not have any more
    stays. Left out, and told in `detail`: rows without a label, or with neither id nor text, ids and texts that are no
    items (import the file again once they are there), and items of the splits valid and test, from which nobody learns.

    Args:
        lake: the warehouse.
        path: a file of given labels, see `features.readers.label_file`.
        config: the classes, and whether an item may have several.
        annotator: who gave the labels of which the file does not say.
        ids: further names of its column of ids.
        texts: further names of its column of texts.
        withdraw: take back what earlier imports have of the file's annotators about its items, in place of storing.
        accounts: asked who the annotators are where Label Studio's export has their numbers; what an earlier import has
            of them by number becomes theirs by name.

    Raises:
        DataError: the file cannot be read, names a class that there is not, gives one annotator two labels for an item,
            or has no label of any item of the warehouse, or ids beside texts that other items have in a column that
            is not read. Nothing is stored.
    """
    rows = read_label_file(path, ids=ids, texts=texts)
    counts = {UNLABELLED: 0}
    if not withdraw:
        rows, counts[UNLABELLED] = _chosen(path, rows, config)
    counts[UNNAMED] = sum(not row.item_id and not row.content_hash for row in rows)
    rows = [row for row in rows if row.item_id or row.content_hash]
    numbers = _numbers(rows)
    named, why = _named(numbers, accounts)
    rows = [replace(row, annotator=named.get(row.annotator, row.annotator)) for row in rows]
    with lake.read() as reader:
        stored = labelled_items(reader, rows)
        stored.check_ids(path, rows)
        about = [(row, stored.about(row)) for row in rows]
        meant = {item_id for _, item_ids in about for item_id in item_ids}
        if rows and not meant:
            raise DataError(no_item_in_words(path, rows, reader))
        before = _before(reader, meant)
    counts[NO_ITEM] = len({row.item_id for row, item_ids in about if not item_ids and not row.content_hash})
    counts[NO_TEXT] = len({row.content_hash for row, item_ids in about if not item_ids and row.content_hash})
    counts[HELD_OUT] = sum(before.items[item_id].split != "train" for item_id in meant)
    said = _said(path, about, config, annotator, withdraw=withdraw)
    new: list[Row] = []
    asked: dict[str, Row] = {}
    moved = 0
    former = {name: number for number, name in named.items()}
    for (item_id, who), chosen in sorted(said.items()):
        item, known = before.items[item_id], before.answers.get((item_id, who))
        if item.split != "train":
            continue
        by_number = before.answers.get((item_id, former.get(who, "")))
        if by_number is not None and by_number["action"] == "labelled":
            new.append(_withdrawn(by_number))
            moved += not withdraw
        if withdraw:
            if known is not None and known["action"] == "labelled":
                new.append(_withdrawn(known))
            continue
        round, seen = item.rounds[-1] if item.rounds else (0, "")
        if seen != item.content_hash:
            round += 1
            asked[item_id] = _asked(item_id, round, item.content_hash)
        row = _annotation(config, item_id, who, round, chosen, known)
        if row is not None:
            new.append(row)
    left = sorted(numbers.keys() - named.keys(), key=int)
    told = {
        NUMBERS: ", ".join(left[:_NAMED]) + (", ..." if left[_NAMED:] else ""),
        ACCOUNTS: len(named),
        MOVED: moved,
        NOT_ASKED: why,
    }
    detail: dict[str, Any] = {"file": path.name, **{what: count for what, count in told.items() if count}}
    detail |= {what: count for what, count in counts.items() if count}
    new_answers = [[row["item_id"], row["annotator"], row["class_id"], row["class_ids"], row["task_id"]] for row in new]
    with lake.stage("import", version=2, inputs=("annotations",), params={"said": new_answers}) as stage:
        if not new:
            return stage.nothing(**detail)
        writes: list[Append | Upsert] = [Append("annotations", pa.Table.from_pylist(new))]
        if asked:
            writes.append(Upsert("asked_before", pa.Table.from_pylist(list(asked.values()))))
        return stage.commit(writes, rows_read=len(rows), detail=detail)


def _numbers(rows: Iterable[GivenLabel]) -> dict[str, list[tuple[str, ...]]]:
    """Some annotations of each annotator whom Label Studio's export names by the number of the account."""
    found: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for row in rows:
        if row.annotator.isdecimal() and len(row.annotation) == 2 and len(found[row.annotator]) < _NAMED:
            found[row.annotator].append(row.annotation)
    return found


def _named(
    numbers: Mapping[str, Sequence[tuple[str, ...]]], accounts: Accounts | None
) -> tuple[Mapping[str, str], str]:
    """Names by number, and why Label Studio could not be asked; a file of labels waits for no server."""
    try:
        return accounts(numbers) if accounts and numbers else {}, ""
    except (ServiceError, ServiceRefused, SettingsError) as error:
        return {}, str(error)


def _chosen(path: Path, rows: list[GivenLabel], config: QueueConfig) -> tuple[list[GivenLabel], int]:
    """The rows that have a label, which is one that there is; and how many have none."""
    unknown: dict[str, int] = defaultdict(int)
    rows = [replace(row, labels=row.labels and tuple(_known(name, config) for name in row.labels)) for row in rows]
    for row in rows:
        for name in row.labels or ():
            if name not in config.classes:
                unknown[name] += 1
    if unknown:
        raise DataError(_unknown_in_words(path, unknown, config))
    # A list without a class says of an item of one class that nobody labelled it, as doccano has it.
    labelled = [row for row in rows if row.labels or (row.labels is not None and config.multi_label)]
    return labelled, len(rows) - len(labelled)


def _known(name: str, config: QueueConfig) -> str:
    return name if name in config.classes else without_mark(name)


def _said(
    path: Path,
    about: list[tuple[GivenLabel, list[str]]],
    config: QueueConfig,
    annotator: str,
    *,
    withdraw: bool,
) -> dict[tuple[str, str], list[int]]:
    """Class ids by item and annotator; none where labels are withdrawn."""
    numbers = {name: number for number, name in enumerate(config.classes)}
    said: dict[tuple[str, str], list[int]] = {}
    twice: dict[tuple[str, str], str] = {}
    for row, item_ids in about:
        names = () if withdraw else row.labels or ()
        if not withdraw and not config.multi_label:
            names = (one_class(path, row.about, names),)
        chosen = sorted(numbers[name] for name in names)
        for item_id in item_ids:
            key = (item_id, row.annotator or annotator)
            if said.setdefault(key, chosen) != chosen:
                twice.setdefault(key, row.about)
    if twice:
        named = [f"'{about}' by '{who}'" for (_, who), about in list(twice.items())[:_NAMED]]
        more = f" and {len(twice) - _NAMED} more" if len(twice) > _NAMED else ""
        as_list = f"Several classes of one item are one list (rows of one each: {OTHER_TOOLS}). "
        raise DataError(
            f"{path} gives one item two labels of one person: {', '.join(named)}{more}. "
            f"{as_list if config.multi_label else ''}Leave one of them, or say in a column `annotator` who gave which. "
            "Nothing was stored."
        )
    return said


def _unknown_in_words(path: Path, unknown: Mapping[str, int], config: QueueConfig) -> str:
    parts: list[str] = []
    for name, times in sorted(unknown.items(), key=lambda found: (-found[1], found[0]))[:5]:
        parts.append(f"{name!r} ({'once' if times == 1 else f'{times} times'}{perhaps_meant(name, config.classes)})")
    more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
    numbers = f"Names of numbers: {OTHER_TOOLS}. " if all(name.isdecimal() for name in unknown) else ""
    return (
        f"{path} has labels that are no classes: {', '.join(parts)}{more}. The classes are: "
        f"{', '.join(config.classes)}. {_SEVERAL if config.multi_label else ''}{numbers}Mend the file, or add the "
        "class at the end of [project] classes. Nothing was stored."
    )


@dataclass(frozen=True, slots=True)
class _Item:
    """An item's content hash and split, and the rounds of earlier imports with the hash that each was about."""

    content_hash: str
    split: str
    rounds: list[tuple[int, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Before:
    """What the warehouse knows of the file's items, and the imported labels by item and annotator."""

    items: dict[str, _Item]
    answers: dict[tuple[str, str], Row]


def _before(reader: Reader, item_ids: set[str]) -> _Before:
    ids, wanted = sorted(item_ids), "item_id IN (SELECT unnest(?::VARCHAR[]))"
    found = reader.rows(f"SELECT item_id, content_hash, split FROM items WHERE {wanted}", [ids])
    items = {str(item_id): _Item(content_hash, split, []) for item_id, content_hash, split in found}
    rounds = f"SELECT item_id, round, content_hash FROM asked_before WHERE project = ? AND {wanted} ORDER BY round"
    for item_id, round, content_hash in reader.rows(rounds, [ELSEWHERE, ids]):
        items[item_id].rounds.append((int(round), str(content_hash)))
    answers = reader.arrow(f"SELECT * FROM current_annotations WHERE project = ? AND {wanted}", [ELSEWHERE, ids])
    by_person = {(row["item_id"], row["annotator"]): row for row in answers.to_pylist()}
    return _Before(items=items, answers=by_person)


def _asked(item_id: str, round: int, content_hash: str) -> Row:
    return {
        "item_id": item_id,
        "project": ELSEWHERE,
        "round": round,
        "task_id": str(round),
        "content_hash": content_hash,
        "why": "imported",
    }


def _annotation(
    config: QueueConfig, item_id: str, annotator: str, round: int, chosen: list[int], before: Row | None
) -> Row | None:
    """The answer as a row; None where it is stored already."""
    now = datetime.now(UTC)
    row: Row = {
        "annotation_id": annotator,
        "item_id": item_id,
        "project": ELSEWHERE,
        "task_id": str(round),
        "annotator": annotator,
        "action": "labelled",
        "class_id": -1 if config.multi_label else chosen[0],
        "class_ids": chosen if config.multi_label else None,
        "simulated": annotator == SIMULATED,
        "created_at": before["created_at"] if before else now,
        "updated_at": max(now, before["updated_at"]) if before else now,
        "seconds": 0.0,
    }
    same = before and all(before[name] == row[name] for name in ("class_id", "class_ids", "task_id"))
    return None if same else row


def _withdrawn(before: Row) -> Row:
    """The answer as one that is taken back."""
    names = ("annotation_id", "item_id", "project", "task_id", "annotator", "simulated", "created_at")
    kept = {name: before[name] for name in names}
    now = max(datetime.now(UTC), before["updated_at"])
    return {**kept, "action": "deleted", "class_id": -1, "class_ids": None, "updated_at": now, "seconds": 0.0}
