"""Folders in WRENCH's JSON format: texts, votes and true classes of the split to learn from and of the one to score.

Of its published sets some have a list of numbers in place of a text (census, basketball, tennis), and some no true
class in the train file (spouse). Both are taken: what needs what is not there is not measured.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weak_labels.classifier import Ints

FEWEST = {"gold": 10, "selected": 300}
"""Train rows of the parts that ask for true classes; `selected` picks its last 240 from four fifths of them."""


@dataclass(frozen=True, slots=True)
class Split:
    """Texts [N] (of no rows where some have none), votes [N, L] and true classes [N] (-1: unknown) of one file."""

    texts: list[str]
    votes: Ints
    truth: Ints


@dataclass(frozen=True, slots=True, eq=False)
class DataSet:
    """One folder: its name, number of classes C, the split to learn from, the one to score, and by F1 or not."""

    name: str
    classes: int
    train: Split
    test: Split
    f1: bool

    def lacks(self, part: str) -> str | None:
        """What a part of the benchmark needs and the folder does not have; None where it has all."""
        lacking = {
            "a second class": self.classes < 2,
            "votes on train rows": (self.train.votes < 0).all(),
            "votes on test rows": part == "label" and (self.test.votes < 0).all(),
            "texts": part != "label" and not (self.train.texts and self.test.texts),
            "true classes of the train rows": part in FEWEST and (self.train.truth < 0).any(),
            f"{FEWEST.get(part)} train rows": len(self.train.truth) < FEWEST.get(part, 0),
        }
        return next((what for what, lacks in lacking.items() if lacks), None)

    def score(self, predicted: Ints) -> float:
        """Accuracy on the test split, or F1 of class 1."""
        truth = self.test.truth
        if not self.f1:
            return float((predicted == truth).mean())
        hits = float(((predicted == 1) & (truth == 1)).sum())
        return 2 * hits / max(float((predicted == 1).sum() + (truth == 1).sum()), 1.0)


def read(folder: Path, *, f1: bool) -> DataSet:
    """A folder in WRENCH's format.

    Raises:
        ValueError: a file is missing or not of this format, or a test row has no true class.
    """
    train = folder / "train.json"
    splits = [_split(path) for path in (train if train.is_file() else folder / "valid.json", folder / "test.json")]
    if (splits[1].truth < 0).any():
        raise ValueError(f"{folder / 'test.json'}: row {int(splits[1].truth.argmin()) + 1} has no label to score by.")
    if splits[0].votes.shape[1] != splits[1].votes.shape[1]:
        raise ValueError(f"{folder}: rows of the two files have {_lengths(splits)} votes; each is one function's.")
    classes = 1 + max(int(max(split.truth.max(), split.votes.max())) for split in splits)
    return DataSet(folder.name, classes, splits[0], splits[1], f1)


def _lengths(splits: list[Split]) -> str:
    return " and ".join(str(split.votes.shape[1]) for split in splits)


def _split(path: Path) -> Split:
    try:
        rows: list[dict[str, Any]] = list(json.loads(path.read_text("utf-8-sig")).values())
        if not rows:
            raise ValueError("it has no rows")
        votes = np.array([[_class(vote) for vote in row["weak_labels"]] for row in rows], np.int64)
        if not votes.size:
            raise ValueError("its rows have no votes")
        truth = np.array([-1 if row.get("label") is None else _class(row["label"]) for row in rows], np.int64)
        texts = [row["data"].get("text") for row in rows]
    except FileNotFoundError:
        raise ValueError(f"{path.parent} has no {path.name}. A folder in WRENCH's format has it.") from None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        kept = '{"0": {"label": 1, "weak_labels": [1, -1], "data": {"text": "..."}}}'
        raise ValueError(f"{path} is not in WRENCH's format, {kept}: {type(error).__name__}: {error}") from error
    return Split(texts if all(isinstance(text, str) for text in texts) else [], votes, truth)


def _class(value: Any) -> int:
    try:
        number = int(value)
    except (ValueError, TypeError):
        number = None
    if number is None or number < -1 or number != float(value):
        raise ValueError(f"{value!r} is no class; they are whole numbers from 0, and -1 abstains")
    return number
