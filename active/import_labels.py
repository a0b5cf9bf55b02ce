"""Labels that people gave elsewhere: a file of them becomes answers, in force until their item's text is edited.

They stand under a project of their own, so that neither the queue nor a service that never saw them takes them for its
answers (docs/decisions/0157).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from active.outbox import QueueConfig, Row
from active.service import SIMULATED, perhaps_meant
from warehouse import Append, DataError, Lake, Reader, StageResult, Upsert
from warehouse.label_file import one_class, read_given_labels

ELSEWHERE = "(imported)"
"""Project of imported labels, and `asked_before.why` of what they are about."""

NO_ITEM = "ids that are no items"
HELD_OUT = "items of valid and test"
UNLABELLED = "rows without a label"

Said = dict[tuple[str, str], list[int]]
"""Class ids by item and annotator."""


def import_labels(lake: Lake, path: Path, config: QueueConfig, *, annotator: str = "imported") -> StageResult:
    """Store the labels of a file as answers; those that are stored already change nothing.

    A label that the file does not have any more stays. Left out, and told in `detail`: rows without a label, ids that
    are no items (import the file again once they are there), and items of the splits valid and test, from which nobody
    learns.

    Args:
        lake: the warehouse.
        path: a file of given labels, see `warehouse.label_file`.
        config: the classes, and whether an item may have several.
        annotator: who gave the labels of which the file does not say.

    Raises:
        DataError: the file cannot be read, names a class that there is not, gives one annotator two labels for an item,
            or has no label of any item of the warehouse. Nothing is stored.
    """
    said, unlabelled = _read(path, config, annotator)
    item_ids = sorted({item_id for item_id, _ in said})
    with lake.read() as reader:
        before = _before(reader, item_ids)
    unknown = [item_id for item_id in item_ids if item_id not in before.items]
    if unknown and len(unknown) == len(item_ids):
        raise DataError(
            f"Not one of the {len(unknown)} ids in {path} is an item of this project, such as '{unknown[0]}'. "
            '`siftline sql "select item_id from items"` shows the ids, `siftline status` whether records were read.'
        )
    rows: list[Row] = []
    asked: dict[str, Row] = {}
    for (item_id, who), chosen in sorted(said.items()):
        about = before.items.get(item_id)
        if about is None or about.split != "train":
            continue
        round, seen = about.rounds[-1] if about.rounds else (0, "")
        if seen != about.content_hash:
            round += 1
            asked[item_id] = _asked(item_id, round, about.content_hash)
        row = _annotation(config, item_id, who, round, chosen, before.answers.get((item_id, who)))
        if row is not None:
            rows.append(row)
    held_out = sum(about.split != "train" for about in before.items.values())
    counts = {NO_ITEM: len(unknown), HELD_OUT: held_out, UNLABELLED: unlabelled}
    detail = {"file": path.name, **{what: count for what, count in counts.items() if count}}
    stored = [[row["item_id"], row["annotator"], row["class_id"], row["class_ids"], row["task_id"]] for row in rows]
    with lake.stage("import", version=1, inputs=("annotations",), params={"said": stored}) as stage:
        if not rows:
            return stage.nothing(**detail)
        writes: list[Append | Upsert] = [Append("annotations", pa.Table.from_pylist(rows))]
        if asked:
            writes.append(Upsert("asked_before", pa.Table.from_pylist(list(asked.values()))))
        return stage.commit(writes, rows_read=len(said), detail=detail)


def _read(path: Path, config: QueueConfig, annotator: str) -> tuple[Said, int]:
    """The labels of the file by item and annotator, and how many rows have none."""
    rows = read_given_labels(path)
    numbers = {name: number for number, name in enumerate(config.classes)}
    unknown: dict[str, int] = defaultdict(int)
    for row in rows:
        for name in row.labels or ():
            if name not in numbers:
                unknown[name] += 1
    if unknown:
        raise DataError(_unknown_in_words(path, unknown, config.classes))
    said: Said = {}
    for row in rows:
        if row.labels is None:
            continue
        names = row.labels if config.multi_label else (one_class(path, row.item_id, row.labels),)
        chosen = sorted(numbers[name] for name in names)
        key = (row.item_id, row.annotator or annotator)
        if said.setdefault(key, chosen) != chosen:
            raise DataError(
                f"{path} gives item '{key[0]}' two labels by '{key[1]}'. Leave one of them, or say in a column "
                "`annotator` who gave which."
            )
    return said, sum(row.labels is None for row in rows)


def _unknown_in_words(path: Path, unknown: Mapping[str, int], classes: Sequence[str]) -> str:
    parts: list[str] = []
    for name, times in sorted(unknown.items(), key=lambda found: (-found[1], found[0]))[:5]:
        parts.append(f"{name!r} ({'once' if times == 1 else f'{times} times'}{perhaps_meant(name, classes)})")
    more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
    return (
        f"{path} has labels that are no classes: {', '.join(parts)}{more}. The classes are: {', '.join(classes)}. "
        "Mend the file, or add the class at the end of [project] classes. Nothing was stored."
    )


@dataclass(frozen=True, slots=True)
class _Item:
    """An item's content hash and split, and the rounds of earlier imports with the hash that each was about."""

    content_hash: str
    split: str
    rounds: list[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class _Before:
    """What the warehouse knows of the file's items, and the imported labels by item and annotator."""

    items: dict[str, _Item]
    answers: dict[tuple[str, str], Row]


def _before(reader: Reader, item_ids: list[str]) -> _Before:
    wanted = "item_id IN (SELECT unnest(?::VARCHAR[]))"
    items = {
        item_id: _Item(content_hash, split, [])
        for item_id, content_hash, split in reader.rows(
            f"SELECT item_id, content_hash, split FROM items WHERE {wanted}", [item_ids]
        )
    }
    rounds = f"SELECT item_id, round, content_hash FROM asked_before WHERE project = ? AND {wanted} ORDER BY round"
    for item_id, round, content_hash in reader.rows(rounds, [ELSEWHERE, item_ids]):
        if item_id in items:
            items[item_id].rounds.append((int(round), str(content_hash)))
    answers = reader.arrow(f"SELECT * FROM current_annotations WHERE project = ? AND {wanted}", [ELSEWHERE, item_ids])
    return _Before(items, {(row["item_id"], row["annotator"]): row for row in answers.to_pylist()})


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
