"""Files and folders in WRENCH's JSON format: texts, votes and true classes of the split to learn from and to score.

Of its published sets some have a list of numbers in place of a text (census, basketball, tennis), and some no true
class in the train file (spouse). Both are taken: what needs what is not there is not measured.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
F1 = ("sms", "spouse", "cdr", "census", "basketball", "tennis", "commercial")
"""Sets whose published figures are F1 of class 1."""
SKEWED = 0.2
"""Share of the rarer of two classes below which accuracy says little."""
FEWEST = {"gold": 10, "selected": 300}
"""Train rows of the parts that ask for true classes; `selected` picks its last 240 from four fifths of them."""
FORMAT = '{"0": {"label": 1, "weak_labels": [1, -1], "data": {"text": "..."}}}'


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

    @property
    def measure(self) -> str:
        """What `score` is."""
        return "F1" if self.f1 else "accuracy"

    def rare(self) -> float | None:
        """Share of the rarer of two classes in the test split, where it is scored by accuracy and that says little."""
        share = float((self.test.truth == 1).mean())
        rarer = min(share, 1 - share)
        return rarer if self.classes == 2 and not self.f1 and 0 < rarer < SKEWED else None

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
    learned = [path for name in ("train", "valid") if (path := folder / f"{name}.json").is_file()]
    if not learned or not (folder / "test.json").is_file():
        raise ValueError(_without_files(folder))
    train, test = read_split(learned[0]), read_split(folder / "test.json")
    if (test.truth < 0).any():
        raise ValueError(f"{folder / 'test.json'}: row {int(test.truth.argmin()) + 1} has no label to score by.")
    lengths = train.votes.shape[1], test.votes.shape[1]
    if lengths[0] != lengths[1]:
        raise ValueError(f"{folder}: rows of the two files have {lengths[0]} and {lengths[1]} votes, one per function.")
    classes = 1 + max(int(max(split.truth.max(), split.votes.max())) for split in (train, test))
    named = _named(folder / "label.json")
    if named and classes > named:
        raise ValueError(f"{folder}: rows have class {classes - 1}, and label.json names {named}, from 0 on.")
    return DataSet(folder.name, max(classes, named), train, test, f1)


def _without_files(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is no folder."
    inner = sorted(path.parent.name for path in folder.glob("*/test.json"))
    if inner:
        return f"{folder} holds sets in folders of their own: {', '.join(inner)}. Name those, as in --data {folder}/*"
    lacking = "test.json" if not (folder / "test.json").is_file() else "train.json and no valid.json to learn from"
    return f"{folder} has no {lacking}. A folder in WRENCH's format has it."


def _named(path: Path) -> int:
    """How many classes a folder's label.json names, {"0": "ham", "1": "spam"}; 0 where it has none of this form."""
    try:
        names = json.loads(path.read_text("utf-8-sig"))
    except (FileNotFoundError, ValueError):
        return 0
    numbered = isinstance(names, dict) and {str(place) for place in range(len(names))} == set(names)
    return len(names) if numbered else 0


def read_split(path: Path) -> Split:
    """One file.

    Raises:
        ValueError: it is not of this format.
    """
    try:
        rows = json.loads(path.read_text("utf-8-sig"))
        if not isinstance(rows, dict) or not rows:
            raise ValueError("it has no rows" if rows == {} else f"it holds a {type(rows).__name__}, no object of rows")
        read = {place: _row(place, row) for place, row in rows.items()}
        lengths = {len(votes): place for place, (votes, _, _) in read.items()}
        if len(lengths) > 1:
            found = " and ".join(f"row {place} has {length} votes" for length, place in sorted(lengths.items())[:2])
            raise ValueError(f"{found}, one per function")
        if not max(lengths):
            raise ValueError("its rows have no votes")
        without = [place for place, (_, _, text) in read.items() if text is None]
        if 0 < len(without) < len(read):
            raise ValueError(f"row {without[0]} has no text, and others have")
    except ValueError as error:
        raise ValueError(f"{path} is not in WRENCH's format, {FORMAT}: {error}.") from error
    votes, truth, texts = zip(*read.values(), strict=True)
    return Split([] if without else list(texts), np.array(votes, np.int64), np.array(truth, np.int64))


def _row(place: str, row: Any) -> tuple[list[int], int, str | None]:
    """Votes, true class and text of a row; None where it has no text."""
    try:
        votes, data = row["weak_labels"], row["data"]
        if not isinstance(votes, list) or not isinstance(data, dict):
            raise ValueError("its weak_labels are no list" if not isinstance(votes, list) else "its data is no object")
        text = data.get("text")
        if text is not None and not isinstance(text, str):
            raise ValueError("its text is none")
        (text or "").encode("utf-8")
        return [_class(vote) for vote in votes], -1 if row.get("label") is None else _class(row["label"]), text
    except UnicodeEncodeError:
        raise ValueError(f"row {place}: its text holds half a character (a lone surrogate)") from None
    except KeyError as error:
        raise ValueError(f"row {place} has no {error.args[0]}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"row {place}: {error}") from None


def _class(value: Any) -> int:
    try:
        number = int(value)
    except (ValueError, TypeError):
        number = None
    if number is None or number < -1 or number != float(value):
        raise ValueError(f"{value!r} is no class; they are whole numbers from 0, and -1 abstains")
    return number
