"""Labels that people gave elsewhere: a file of them becomes answers, in force until their item's text is edited.

They stand under a project of their own, so that neither the queue nor a service that never saw them takes them for its
answers (docs/decisions/0157).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from active.outbox import QueueConfig, Row
from active.service import SIMULATED
from warehouse import Append, DataError, Lake, Reader, StageResult, Upsert
from warehouse.formats import without_mark
from warehouse.label_file import OTHER_TOOLS, GivenLabel, one_class, read_given_labels
from warehouse.spelling import perhaps_meant

ELSEWHERE = "(imported)"
"""Project of imported labels, and `asked_before.why` of what they are about."""

NO_ITEM = "ids that are no items"
NO_TEXT = "texts that are no item's"
HELD_OUT = "items of valid and test"
UNLABELLED = "rows without a label"

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
) -> StageResult:
    """Store the labels of a file as answers; those that are stored already change nothing.

    Where the file has texts, they say which items a label is about, and an id only which of those with that text: ids
    that another tool made say nothing here. A label that the file does not have any more stays. Left out, and told in
    `detail`: rows without a label, ids and texts that are no items (import the file again once they are there), and
    items of the splits valid and test, from which nobody learns.

    Args:
        lake: the warehouse.
        path: a file of given labels, see `warehouse.label_file`.
        config: the classes, and whether an item may have several.
        annotator: who gave the labels of which the file does not say.
        ids: further names of its column of ids.
        texts: further names of its column of texts.
        withdraw: take back what earlier imports have of the file's annotators about its items, in place of storing.

    Raises:
        DataError: the file cannot be read, names a class that there is not, gives one annotator two labels for an item,
            or has no label of any item of the warehouse, or ids beside texts that other items have in a column that
            is not read. Nothing is stored.
    """
    rows = read_given_labels(path, ids=ids, texts=texts)
    counts = {UNLABELLED: 0}
    if not withdraw:
        rows, counts[UNLABELLED] = _chosen(path, rows, config)
    with lake.read() as reader:
        before = _before(reader, rows)
    if column := before.texts_of_others(rows):
        raise DataError(
            f"{path} has texts of this project's items in its column '{column}', which is not read, and the ids beside "
            "them are of other items, or of none: they may be numbers of another tool. Call that column 'text', or "
            "take it out where the ids are right. Nothing was stored."
        )
    about = [(row, before.about(row)) for row in rows]
    if rows and not any(item_ids for _, item_ids in about):
        with lake.read() as reader:
            raise DataError(_none_in_words(path, rows, reader))
    counts[NO_ITEM] = len({row.item_id for row, item_ids in about if not item_ids and not row.content_hash})
    counts[NO_TEXT] = len({row.content_hash for row, item_ids in about if not item_ids and row.content_hash})
    meant = {item_id for _, item_ids in about for item_id in item_ids}
    counts[HELD_OUT] = sum(before.items[item_id].split != "train" for item_id in meant)
    said = _said(path, about, config, annotator, withdraw=withdraw)
    new: list[Row] = []
    asked: dict[str, Row] = {}
    for (item_id, who), chosen in sorted(said.items()):
        item, known = before.items[item_id], before.answers.get((item_id, who))
        if item.split != "train":
            continue
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
    detail = {"file": path.name, **{what: count for what, count in counts.items() if count}}
    stored = [[row["item_id"], row["annotator"], row["class_id"], row["class_ids"], row["task_id"]] for row in new]
    with lake.stage("import", version=2, inputs=("annotations",), params={"said": stored}) as stage:
        if not new:
            return stage.nothing(**detail)
        writes: list[Append | Upsert] = [Append("annotations", pa.Table.from_pylist(new))]
        if asked:
            writes.append(Upsert("asked_before", pa.Table.from_pylist(list(asked.values()))))
        return stage.commit(writes, rows_read=len(rows), detail=detail)


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


def _none_in_words(path: Path, rows: list[GivenLabel], reader: Reader) -> str:
    first, many = rows[0].about, f"{len(rows):,} rows"
    if row := next((row for row in rows if row.begin.strip()), None):
        begin = " ".join(row.begin.split())
        like = reader.rows(
            "SELECT item_id FROM items WHERE starts_with(trim(regexp_replace(content, '[\\s\\p{Z}]+', ' ', 'g')), ?) "
            "ORDER BY item_id LIMIT 1",
            [begin],
        )
        named = f"that of id '{row.item_id}', '{begin}'" if row.item_id else f"'{begin}'"
        but = f" Item '{like[0][0]}' begins so too, but for white space or what follows." if like else ""
        return (
            f"Not one of the {many} in {path} has the text of an item of this project, to the letter; the first is "
            f'{named}.{but} `siftline sql "select content from items"` shows the texts, `siftline status` whether '
            "records were read. Where the file has your ids and the texts differ, leave the column of texts out."
        )
    return (
        f"Not one of the ids of the {many} in {path} is an item of this project, such as '{first}'. "
        '`siftline sql "select item_id from items"` shows the ids, `siftline status` whether records were read.'
    )


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
    """What the warehouse knows of the file's items, the imported labels by item and annotator, and items by text."""

    items: dict[str, _Item]
    answers: dict[tuple[str, str], Row]
    same_text: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def about(self, row: GivenLabel) -> list[str]:
        """Ids of the items that a row is about: those of its text, or of these the one of its id."""
        ids = (row.item_id, row.unmarked[0])
        if not row.content_hash:
            return [item_id for item_id in ids if item_id in self.items][:1]
        same = self.same_text.get(row.content_hash) or self.same_text.get(row.unmarked[1], [])
        return [item_id for item_id in ids if item_id in same][:1] or same

    def texts_of_others(self, rows: list[GivenLabel]) -> str:
        """The column that is not read and has, in most rows, the text of another item than the id says; or no name.

        Rows are counted whose id or cell is an item's, and equal texts once: a word of each row may be a text too.
        """
        counted: Counter[str] = Counter()
        others: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            ids = {row.item_id, row.unmarked[0]}
            for name, content_hash in row.unread.items():
                same = self.same_text.get(content_hash, [])
                counted[name] += bool(same) or not ids.isdisjoint(self.items)
                if same and ids.isdisjoint(same):
                    others[name].add(content_hash)
        return next((name for name, texts in others.items() if 2 * len(texts) > counted[name]), "")


def _before(reader: Reader, rows: list[GivenLabel]) -> _Before:
    ids = sorted({item_id for row in rows if not row.content_hash for item_id in (row.item_id, row.unmarked[0])})
    given = {text for row in rows if row.content_hash for text in (row.content_hash, row.unmarked[1])}
    hashes = sorted(given.union(*(row.unread.values() for row in rows)))
    items: dict[str, _Item] = {}
    same_text: dict[str, list[str]] = defaultdict(list)
    for item_id, content_hash, split in reader.rows(
        "SELECT item_id, content_hash, split FROM items WHERE item_id IN (SELECT unnest(?::VARCHAR[])) "
        "OR content_hash IN (SELECT unnest(?::VARCHAR[])) ORDER BY item_id",
        [ids, hashes],
    ):
        items[item_id] = _Item(content_hash, split, [])
        same_text[content_hash].append(item_id)
    item_ids, wanted = list(items), "item_id IN (SELECT unnest(?::VARCHAR[]))"
    rounds = f"SELECT item_id, round, content_hash FROM asked_before WHERE project = ? AND {wanted} ORDER BY round"
    for item_id, round, content_hash in reader.rows(rounds, [ELSEWHERE, item_ids]):
        items[item_id].rounds.append((int(round), str(content_hash)))
    answers = reader.arrow(f"SELECT * FROM current_annotations WHERE project = ? AND {wanted}", [ELSEWHERE, item_ids])
    by_person = {(row["item_id"], row["annotator"]): row for row in answers.to_pylist()}
    return _Before(items=items, answers=by_person, same_text=same_text)


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
