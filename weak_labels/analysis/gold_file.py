"""The gold file: true labels that only the scoring opens, checked against items and classes."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from features.readers.label_file import GivenLabel, one_class, read_label_file
from features.readers.label_items import labelled_items, no_item_in_words
from warehouse import DataError, Reader, SettingsError
from warehouse.export.formats import without_mark
from warehouse.files.atomic_file import sha256_of
from warehouse.text import perhaps_meant
from weak_labels.classifiers.one_vs_rest import Label

_NAMED = 5
"""Most items that a message names."""
Key = TypeVar("Key", str, tuple[str, str])


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Where the true labels are and what is scored.

    Attributes:
        gold: file with the columns id or text, and label (class name, or a list of them), see
            `features.readers.label_file`.
        classes: class names; the place of a name is its class id.
        split: split that is scored.
        rival_seeds: repetitions of the random picks.
        multi_label: an item may have several classes or none.
        ids: further names of the gold file's column of ids.
        texts: further names of its column of texts.

    Raises:
        SettingsError: a value is out of range.
    """

    gold: Path
    classes: tuple[str, ...]
    split: str = "test"
    rival_seeds: int = 5
    multi_label: bool = False
    ids: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.split not in ("valid", "test"):
            raise SettingsError(f"split of evaluate is '{self.split}'; use test or valid, which nobody learns from.")
        if self.rival_seeds < 1:
            raise SettingsError(f"rival_seeds is {self.rival_seeds}; use 1 or more.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gold:
    """The gold file: label by item of the warehouse, and how many of its rows are about none."""

    class_of: dict[str, Label]
    without_item: int


def read_gold_file(config: EvaluateConfig) -> list[tuple[GivenLabel, Label]]:
    """The rows of the gold file that have a label, checked against the classes; no warehouse is needed.

    Raises:
        SettingsError: the file is not there.
        DataError: it cannot be read, or names unknown classes, or gives an item two labels.
    """
    path = config.gold
    check_there(path)
    number_of = {name: number for number, name in enumerate(config.classes)}
    named = [
        (row, [name if name in number_of else without_mark(name) for name in row.labels])
        for row in read_label_file(path, ids=config.ids, texts=config.texts, what="gold file")
        # A list without a class says of an item of one class that nobody labelled it, as doccano has it.
        if row.labels or (row.labels is not None and config.multi_label)
    ]
    if unknown := sorted({name for _, names in named for name in names} - set(number_of)):
        what = f"{len(unknown):,} labels that are no class" if len(unknown) > 1 else "a label that is no class"
        such = f"{', such as' if len(unknown) > 1 else ':'} '{unknown[0]}'{perhaps_meant(unknown[0], config.classes)}"
        raise DataError(
            f"The gold file {path} has {what}{such}. The classes are: {', '.join(config.classes)}. Mend the file, add "
            "the class at the end of [project] classes, or leave `gold` under [evaluate] out."
        )
    rows: list[tuple[GivenLabel, Label]] = [
        (
            row,
            tuple(sorted(number_of[name] for name in names))
            if config.multi_label
            else number_of[one_class(path, row.about, tuple(names))],
        )
        for row, names in named
    ]
    named_rows = [(row, label) for row, label in rows if row.item_id or row.content_hash]
    _one_label_each(path, [((row.item_id, row.content_hash), row, label) for row, label in named_rows])
    return rows


def read_gold(reader: Reader, config: EvaluateConfig) -> Gold:
    """Read the gold file and check it against the items and the classes.

    Raises:
        DataError: see `read_gold_file`; or it is about no item of the warehouse, or its ids are another tool's.
    """
    path = config.gold
    rows = read_gold_file(config)
    given = [row for row, _ in rows]
    stored = labelled_items(reader, given)
    stored.check_ids(path, given)
    about = [(row, label, stored.about(row)) for row, label in rows]
    class_of = _one_label_each(path, [(item_id, row, label) for row, label, ids in about for item_id in ids])
    if not class_of:
        why = no_item_in_words(path, given, reader) if given else f"No row of {path} has a label."
        raise DataError(f"The gold file has no label of an item. {why} Or leave `gold` under [evaluate] out.")
    return Gold(class_of=class_of, without_item=sum(not ids for _, _, ids in about))


def _one_label_each(path: Path, rows: Iterable[tuple[Key, GivenLabel, Label]]) -> dict[Key, Label]:
    """The label of each key; several rows may say the same."""
    label_of: dict[Key, Label] = {}
    twice: dict[Key, str] = {}
    for key, row, label in rows:
        if label_of.setdefault(key, label) != label:
            twice.setdefault(key, row.about)
    if twice:
        named = ", ".join(f"'{about}'" for about in list(twice.values())[:_NAMED])
        more = f" and {len(twice) - _NAMED:,} more" if len(twice) > _NAMED else ""
        raise DataError(f"The gold file {path} gives two labels to {named}{more}. Leave one of each.")
    return label_of


def also_in_train(reader: Reader, split: str) -> int:
    """Items of a split whose text stands in train too, which makes their score too good."""
    return int(
        reader.scalar(
            "SELECT count(*) FROM items WHERE split = ? "
            "AND content_hash IN (SELECT content_hash FROM items WHERE split = 'train')",
            [split],
        )
    )


def hash_gold(path: Path) -> str:
    """sha256 of the gold file.

    Raises:
        SettingsError: the file is not there.
    """
    check_there(path)
    return sha256_of(path)


def check_there(path: Path) -> None:
    """Refuse a gold file that is not there.

    Raises:
        SettingsError: it is not.
    """
    if not path.is_file():
        raise SettingsError(f"The gold file {path} is not there. Mend `gold` under [evaluate], or leave it out.")
