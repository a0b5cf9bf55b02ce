"""The gold file: true labels that only the scoring opens, checked against items and classes."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from warehouse import DataError, Reader, SettingsError
from warehouse.files import sha256_of
from warehouse.label_file import one_class, read_label_file
from warehouse.spelling import perhaps_meant
from weak_labels.one_vs_rest import Label


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Where the true labels are and what is scored.

    Attributes:
        gold: file with the columns id and label (class name, or a list of them), see `warehouse.label_file`.
        classes: class names; the place of a name is its class id.
        split: split that is scored.
        rival_seeds: repetitions of the random picks.
        multi_label: an item may have several classes or none.

    Raises:
        SettingsError: a value is out of range.
    """

    gold: Path
    classes: tuple[str, ...]
    split: str = "test"
    rival_seeds: int = 5
    multi_label: bool = False

    def __post_init__(self) -> None:
        if self.split not in ("valid", "test"):
            raise SettingsError(f"split of evaluate is '{self.split}'; use test or valid, which nobody learns from.")
        if self.rival_seeds < 1:
            raise SettingsError(f"rival_seeds is {self.rival_seeds}; use 1 or more.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gold:
    """The gold file: label by item of the warehouse, and how many other ids the file names."""

    class_of: dict[str, Label]
    without_item: int


def read_gold_file(config: EvaluateConfig) -> dict[str, Label]:
    """The labels of the gold file by id, checked against the classes; no warehouse is needed.

    Raises:
        SettingsError: the file is not there.
        DataError: it cannot be read, or names unknown classes, or an item twice.
    """
    path = config.gold
    check_there(path)
    rows = read_label_file(path)
    ids = [item_id for item_id, _ in rows]
    number_of = {name: number for number, name in enumerate(config.classes)}
    if unknown := sorted({name for _, names in rows for name in names} - set(number_of)):
        what = f"{len(unknown):,} labels that are no class" if len(unknown) > 1 else "a label that is no class"
        such = f"{', such as' if len(unknown) > 1 else ':'} '{unknown[0]}'{perhaps_meant(unknown[0], config.classes)}"
        raise DataError(
            f"The gold file {path} has {what}{such}. The classes are: {', '.join(config.classes)}. Mend the file, add "
            "the class at the end of [project] classes, or leave `gold` under [evaluate] out."
        )
    class_of: dict[str, Label] = {
        item_id: tuple(sorted(number_of[name] for name in names))
        if config.multi_label
        else number_of[one_class(path, item_id, names)]
        for item_id, names in rows
    }
    if len(class_of) != len(ids):
        twice = next(item_id for item_id, times in Counter(ids).items() if times > 1)
        raise DataError(
            f"The gold file {path} labels {len(ids) - len(class_of)} items more than once, such as '{twice}'. "
            "Leave one label for each."
        )
    return class_of


def read_gold(reader: Reader, config: EvaluateConfig) -> Gold:
    """Read the gold file and check it against the items and the classes.

    Raises:
        DataError: see `read_gold_file`; or it names no item of the warehouse.
    """
    path = config.gold
    class_of = read_gold_file(config)
    stored = {row[0] for row in reader.rows("SELECT item_id FROM items")}
    known = {item_id: class_id for item_id, class_id in class_of.items() if item_id in stored}
    if not known:
        example = (
            f" (it has ids such as '{next(iter(class_of))}', the table ids such as '{min(stored)}')"
            if class_of and stored
            else ""
        )
        raise DataError(
            f"Not one of the {len(class_of)} ids in the gold file {path} is in the table items{example}. Give the file "
            "the ids of this project's sources, or leave `gold` under [evaluate] out. `siftline status` shows "
            "quarantined records."
        )
    return Gold(class_of=known, without_item=len(class_of) - len(known))


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
