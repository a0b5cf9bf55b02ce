"""One call of one labeling function on one batch: votes where it voted, faults where it did not.

A fault is never an abstain. What a function returns is checked item by item, its input is compared with what it was
given, and a call that takes too long is broken off where that is possible (in the main thread of a process).
"""

import dataclasses
import re
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warehouse.session.interrupt import alarm
from warehouse.text import perhaps_meant
from weak_labels.functions.data_files import another_place, importable
from weak_labels.functions.types import ABSTAIN, ItemBatch, LabelingFunction, Votes, as_function, names_another

Rows = npt.NDArray[np.int64]

MISSING = -2
"""Place of an item that got no vote because of a fault; never stored."""

MAX_TIMEOUTS = 3
"""So many items that take too long end a row function for this run: each costs the whole time limit. A column function
ends with the first batch that does."""

WHOLE_FUNCTION = -1
_DETAIL_LENGTH = 500


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an item got no vote. `row` is its place in the batch, -1 when the function as a whole failed."""

    row: int
    fault: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """When to stop calling a function.

    Attributes:
        timeout_s: seconds for one call: one item of a row function, one batch of a column function; 0 for no limit.
        max_faults: stop after more faults than this.
        max_timeouts: stop after this many calls that took too long.
    """

    timeout_s: float = 0.0
    max_faults: int = 2**31
    max_timeouts: int = MAX_TIMEOUTS


NO_LIMITS = Limits()


@dataclass(slots=True)
class Outcome:
    """Votes [N] int32 (`MISSING` where there is a fault) and the faults."""

    votes: Votes
    faults: list[Fault] = field(default_factory=list[Fault])

    @property
    def timeouts(self) -> int:
        """Calls that took too long."""
        return sum(fault.fault == "timeout" for fault in self.faults)

    @property
    def asked(self) -> int:
        """Items that the function was called on."""
        if any(fault.row == WHOLE_FUNCTION for fault in self.faults):
            return len(self.votes)
        return int((self.votes != MISSING).sum()) + len(self.faults)

    def over(self, limits: Limits) -> bool:
        """Whether the function has to stop."""
        return (
            len(self.faults) > limits.max_faults
            or self.timeouts >= limits.max_timeouts
            or any(fault.row == WHOLE_FUNCTION for fault in self.faults)
        )


class NotAVote(Exception):
    """A returned value is no vote; `fault` is the code to store."""

    def __init__(self, fault: str, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault


class TimeLimit(BaseException):
    """A call took too long. Not an `Exception`, so that a function's own `except Exception` lets it pass."""


def call_function(
    function: Any,
    batch: ItemBatch,
    limits: Limits = NO_LIMITS,
    alive: Callable[[], None] = lambda: None,
) -> Outcome:
    """Call a function on all items of a batch, until a limit is passed.

    Args:
        function: function to call, a `LabelingFunction` or Snorkel's own.
        batch: items; the function gets copies of what it could change.
        limits: when to stop.
        alive: called after each call, for whoever watches.

    Returns:
        The outcome; items that were not reached have no vote and no fault.

    Raises:
        SettingsError: it is no labeling function.
    """
    if not isinstance(function, LabelingFunction):
        function = as_function(function, "call_function")
    outcome = Outcome(np.full(len(batch), MISSING, np.int32))
    if function.timeout_s is not None:
        limits = dataclasses.replace(limits, timeout_s=function.timeout_s)
    with importable(function.source.parent if function.source else None):
        if function.by_row:
            _call_rows(function, batch, limits, alive, outcome)
        else:
            _call_columns(function, batch, np.arange(len(batch)), limits, alive, outcome)
    return outcome


def check_vote(value: object, classes: tuple[str, ...]) -> int:
    """A returned value as a vote.

    Args:
        value: class number, class name or `ABSTAIN`; a `NotAVote` in its place says why there is none.
        classes: class names.

    Returns:
        class number or -1.

    Raises:
        NotAVote: it is something else.
    """
    if isinstance(value, NotAVote):
        raise value
    if isinstance(value, str):
        if value not in classes:
            raise NotAVote("out_of_range", f"voted '{value}'{_else_known(value[:100], classes)}")
        return classes.index(value)
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        several = isinstance(value, list | tuple | set | frozenset)
        but = "a vote is for one class, so write a function for each" if several else "return a class, or else ABSTAIN"
        raise NotAVote("not_a_vote", f"returned {value!r} ({type(value).__name__}); {but}")
    vote = int(value)
    if not ABSTAIN <= vote < len(classes):
        raise NotAVote("out_of_range", f"voted {vote}; the class numbers are 0 to {len(classes) - 1}, -1 abstains")
    if vote != ABSTAIN and names_another(vote, classes):
        raise NotAVote(
            "not_a_vote", f"voted {vote}, the number of '{classes[vote]}' and the name of another class; vote by names"
        )
    return vote


@lru_cache(maxsize=1024)  # a function that is wrong is wrong on many items
def _else_known(value: str, classes: tuple[str, ...]) -> str:
    if value.strip().casefold() in ("", "abstain", "none") and not perhaps_meant(value, classes):
        return ", which is no class; where a function has nothing to say it returns ABSTAIN, without quotes"
    return f"{perhaps_meant(value, classes)}; the classes are {', '.join(classes)}"


def _call_rows(
    function: LabelingFunction, batch: ItemBatch, limits: Limits, alive: Callable[[], None], outcome: Outcome
) -> None:
    metadata = batch.metadata
    copies = ItemBatch(
        item_ids=batch.id_array, texts=batch.text_array, metadata=batch.metadata_array, classes=batch.classes
    ).metadata
    for row, (item_id, text) in enumerate(zip(batch.item_ids, batch.texts, strict=True)):
        point = _data_point(item_id, text, copies[row])
        try:
            with _time_limit(limits.timeout_s):
                value = function.rule(point)
            if vars(point) != (given := vars(_data_point(item_id, text, metadata[row]))) and repr(vars(point)) != repr(
                given
            ):
                raise NotAVote("mutated", "changed the row that it was given; work on a copy")
            outcome.votes[row] = check_vote(value, batch.classes)
        except TimeLimit:
            outcome.faults.append(Fault(row, "timeout", f"took longer than {limits.timeout_s:g} s"))
        except NotAVote as error:
            outcome.faults.append(Fault(row, error.fault, _shorten(str(error))))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a user's function raises is stored as its fault
            outcome.faults.append(Fault(row, "raised", _in_words(error)))
        alive()
        if outcome.over(limits):
            return


def _call_columns(
    function: LabelingFunction,
    batch: ItemBatch,
    rows: Rows,
    limits: Limits,
    alive: Callable[[], None],
    outcome: Outcome,
) -> None:
    if not len(rows):
        return  # halving no items, where a function raises on them, would never end
    part = batch.take(rows) if function.is_python or len(rows) < len(batch) else batch
    try:
        part.limit_s = limits.timeout_s
        with _time_limit(limits.timeout_s if function.is_python else 0):
            values = function.rule(part)
        if function.is_python and part.was_changed():
            raise NotAVote("mutated", "changed the batch that it was given; work on a copy")
        values = _as_list(values)
        if len(values) != len(rows):
            raise NotAVote("not_a_vote", f"returned {len(values)} votes for {len(rows)} items")
    except TimeLimit:
        detail = f"took longer than {limits.timeout_s:g} s for {len(rows)} items"
        outcome.faults.append(Fault(WHOLE_FUNCTION, "timeout", detail))
        return
    except NotAVote as error:
        outcome.faults.append(Fault(WHOLE_FUNCTION, error.fault, _shorten(str(error))))
        return
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a user's function raises is stored as its fault
        if len(rows) == 1:
            outcome.faults.append(Fault(int(rows[0]), "raised", _in_words(error)))
            return
        # One bad item must not cost its neighbours their votes: halve until it stands alone.
        for half in np.array_split(rows, 2):
            if not outcome.over(limits):
                _call_columns(function, batch, half, limits, alive, outcome)
        return
    finally:
        alive()
    if isinstance(values, np.ndarray):
        good = (values >= ABSTAIN) & (values < len(batch.classes))
        if function.kind == "vectorized" and not function.labels:  # numbers of the code's own, not ours
            good &= ~np.isin(values, [n for n in range(len(batch.classes)) if names_another(n, batch.classes)])
        outcome.votes[rows[good]] = values[good]
        wrong = np.flatnonzero(~good)
    else:
        wrong = range(len(rows))
    for place in wrong:
        try:
            outcome.votes[rows[place]] = check_vote(values[place], batch.classes)
        except NotAVote as error:
            outcome.faults.append(Fault(int(rows[place]), error.fault, _shorten(str(error))))
        except Exception as error:  # noqa: BLE001 - what it returned may raise too, such as from its own __repr__
            outcome.faults.append(Fault(int(rows[place]), "raised", _in_words(error)))
        if outcome.over(limits):
            return


def _as_list(values: Any) -> Any:
    """Integer arrays as they are; anything else as a list, to be checked one by one."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values.to_pylist()
    if isinstance(values, np.ndarray):
        if isinstance(values, np.ma.MaskedArray):
            return list(values)  # below a mask there is anything, and no vote
        if values.ndim != 1:
            raise NotAVote("not_a_vote", f"returned an array of shape {values.shape}, not one vote per item")
        return values if np.issubdtype(values.dtype, np.integer) else values.tolist()
    if isinstance(values, str) or not hasattr(values, "__len__"):
        raise NotAVote("not_a_vote", f"returned {values!r} ({type(values).__name__}), not one vote per item")
    return list(values)


_NO_FIELD = "no field {!r}; the text is x.text, and further columns are there if siftline.toml names them at metadata"


class DataPoint(SimpleNamespace):
    """A row as Snorkel's functions know it: `x.text`, or `x["text"]`, `x.get("desk")`, `"desk" in x` as of pandas."""

    def __getitem__(self, name: str) -> Any:
        if name not in vars(self):
            raise KeyError(_NO_FIELD.format(name))
        return vars(self)[name]

    def __getattr__(self, name: str) -> Any:  # only asked for what is not there
        raise AttributeError(_NO_FIELD.format(name))

    def __contains__(self, name: object) -> bool:
        return name in vars(self)

    def get(self, name: str, default: Any = None) -> Any:
        """The field of this name, or the default where the item has none."""
        return vars(self).get(name, default)


def _data_point(item_id: str, text: str, metadata: dict[str, Any]) -> DataPoint:
    """The row of an item; its own fields win over equal names in the metadata."""
    own = {"item_id": item_id, "text": text, "content": text, "metadata": metadata}
    return DataPoint(**{str(k): v for k, v in metadata.items()} | own)


@contextmanager
def _time_limit(seconds: float) -> Generator[None]:
    if seconds <= 0 or threading.current_thread() is not threading.main_thread():
        yield  # a signal reaches only the main thread; elsewhere there is no safe way to break off Python code
        return
    with alarm(seconds, _raise_time_limit):
        yield


def _raise_time_limit(number: int, frame: FrameType | None) -> None:
    raise TimeLimit


def _in_words(error: BaseException) -> str:
    try:
        said = str(error)
    except Exception as another:  # noqa: BLE001 - a message that cannot be made is no reason to lose the fault
        said = f"its message cannot be read ({type(another).__name__})"
    return _shorten(f"{type(error).__name__}: {said}{another_place(error)}")


def _shorten(text: str) -> str:
    # Addresses differ from run to run; equal runs must store equal rows.
    text = re.sub(r"0x[0-9a-fA-F]{6,}", "0x...", text)
    # Half a character, such as of a file name, is no text that a table takes.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _DETAIL_LENGTH else text[: _DETAIL_LENGTH - 3] + "..."
