"""What Siftline asks of an annotation service, and the two things that pass: a task and an answer.

Label Studio is one service, a folder of JSON files another. Both are reached only through this protocol, and an answer
of the simulated annotator takes the same way as a person's.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

Action = Literal["labelled", "skipped", "deleted"]
Remark = tuple[str, str]
"""Of which answers something is told, and what is said of one behind whose it is and its item."""

LABEL = "label"
"""Name of the choice in the label config: `from_name` of every annotation and pre-annotation."""
TEXT = "text"
"""Name of the text in the label config and key of the task's data."""
IMAGE = "image"
"""Name of the image in the label config and key of the task's data."""

LONGEST_S = 366 * 86_400.0
"""Seconds that an answer may take; more is no time that a clock showed."""

SIMULATED = "simulated"
"""Name of the simulated annotator; its answers are marked as such wherever they are shown."""

ALL_TASKS = "all tasks"
"""What a pull calls that it could not read where the service's place for them is not there."""


def text_key(place: int) -> str:
    """Key of the task's data for the text at a place from 0 on: `text`, `text_2`, `text_3`."""
    return TEXT if place == 0 else f"{TEXT}_{place + 1}"


def choice(labels: Sequence[str]) -> dict[str, Any]:
    """Chosen classes in Label Studio's format."""
    return {"from_name": LABEL, "to_name": TEXT, "type": "choices", "value": {"choices": list(labels)}}


def finite(value: object) -> float | None:
    """A number in a task's data; None for anything else, also one that is not finite or larger than a float holds."""
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One item for an annotator.

    Attributes:
        further: texts that stand beside the text, such as the second one of a pair.
        image: address of the image to show, None for none; empty where the item has none that may be shown.
        value: expected worth of the label, 0 to 1.
        rank: place in its selection, 1 is the most valuable.
        prediction: suggested class, None for no suggestion.
        predictions: suggested classes of a task that takes several, maybe none; None for no suggestion.
        confidence: of the suggestion, 0 to 1.
        model_version: end model that made the suggestion.
        former: ids of the tasks in which people were asked about the item before; none of them is this task.
        round: 1 for the first task of the item, more where people were asked about it before.
    """

    item_id: str
    text: str
    cycle: int
    rank: int
    value: float
    reason: str
    prediction: str | None = None
    predictions: tuple[str, ...] | None = None
    confidence: float = 0.0
    model_version: str = ""
    further: tuple[str, ...] = ()
    image: str | None = None
    former: tuple[str, ...] = ()
    round: int = 1

    def content(self) -> dict[str, str]:
        """What the annotator labels, by key of the task's data."""
        texts = {text_key(place): text for place, text in enumerate((self.text, *self.further))}
        return texts if self.image is None else {**texts, IMAGE: self.image}

    def to_label_studio(self) -> dict[str, Any]:
        """The task in Label Studio's import format; only these plain keys ever leave the warehouse."""
        task: dict[str, Any] = {
            "data": {
                "item_id": self.item_id,
                **self.content(),
                "reason": self.reason,
                "value": round(self.value, 4),
                "cycle": self.cycle,
                "rank": self.rank,
            }
        }
        if self.round > 1:
            task["data"]["round"] = self.round
        suggested = self.predictions if self.prediction is None else (self.prediction,)
        if suggested is not None:
            task["predictions"] = [
                {
                    "model_version": self.model_version,
                    "score": round(self.confidence, 4),
                    "result": [choice(suggested)] if suggested else [],
                }
            ]
        return task


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One annotation as the service holds it now.

    Attributes:
        labels: chosen classes by name: one, or any number where a task takes several; none when skipped.
        seconds: time the annotator spent, as the service measured it.
        remark: what people should be told of how it was saved; None for nothing.
    """

    annotation_id: str
    task_id: str
    item_id: str
    annotator: str
    action: Action
    labels: tuple[str, ...]
    created_at: datetime
    updated_at: datetime
    seconds: float
    remark: Remark | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTask:
    """A task with an item id as the service holds it now.

    Attributes:
        data: what the annotator sees, by key.
        answered: somebody labelled or skipped it.
    """

    task_id: str
    item_id: str
    data: Mapping[str, Any]
    answered: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulled:
    """What a service holds of a project, or what changed there.

    Attributes:
        answers: all answers of the tasks that were read.
        tasks: by task id and item id of each of those tasks, when it was changed last; None where they are all.
        cursor: hand it to the next `pull_since`; empty where the service cannot tell what changed.
        made_at: when the project there was made, by the clock of its answers; None where ids do not start anew with it.
        beside: what lies there and is none of the project's, by kind, in words.
        of_many: other machines may have such a place of their own, with answers that are not in this one.
    """

    answers: Sequence[Answer]
    tasks: Mapping[tuple[str, str], datetime] | None
    cursor: str
    made_at: datetime | None = None
    beside: Mapping[str, str] = field(default_factory=dict[str, str])
    of_many: bool = False


class AnnotationService(Protocol):
    """Where annotators work. Raises `ServiceError` when a retry may help, `ServiceRefused` when a person must act.

    Whether a task takes several classes or one is a matter of the service's making; where it takes several, an answer
    without a class says that none fits.
    """

    def describe(self) -> str:
        """The service in words for messages, without secrets."""
        ...

    @property
    def ordered(self) -> bool:
        """Whether annotators get the tasks in the order in which they were stored."""
        ...

    def ensure_project(self, classes: Sequence[str], *, texts: Sequence[str] = (), image: bool = False) -> bool:
        """Create the project or bring its page up to date; True when it was not there.

        Args:
            classes: class names in their order on the page.
            texts: what the texts that stand side by side are; empty for one text alone.
            image: tasks have an image.
        """
        ...

    def push(self, tasks: Sequence[Task]) -> Mapping[str, str]:
        """Store tasks in the order given.

        Returns:
            The task id of each item id, which is none of its `former` tasks.
        """
        ...

    def complete(self, tasks: Mapping[str, Task]) -> None:
        """Give tasks that a push left behind as it died, by task id, what they lack of it."""
        ...

    def find(self, item_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Task ids that the service already holds for these items, of all rounds; items without a task are left out."""
        ...

    def changed_at(self, item_ids: Sequence[str]) -> Mapping[tuple[str, str], datetime | None]:
        """When the tasks of these items, or an answer to them, were changed last, by task id and item id.

        None for a task of which the service cannot tell; what it does not hold is left out.
        """
        ...

    def gave(self, item_id: str, task_id: str) -> bool:
        """Whether this service may have given an item's task this id; else it is from where the project was before."""
        ...

    def pull(self) -> Iterable[Answer]:
        """All answers that the service holds now."""
        ...

    def pull_since(self, cursor: str) -> Pulled:
        """All answers of the tasks that may have changed since an earlier call.

        Args:
            cursor: of that call; empty for everything.
        """
        ...

    @property
    def problems(self) -> Mapping[str, str]:
        """What the last complete pull could not read, by name or as `ALL_TASKS`; so long nothing counts as deleted."""
        ...

    def stored(self) -> Iterable[StoredTask]:
        """Every task that carries an item id, whosever item it is."""
        ...

    def withdraw(self, task_ids: Sequence[str]) -> None:
        """Remove tasks that nobody has answered or begun."""
        ...

    def show(self, data: Mapping[str, Mapping[str, Any]]) -> Collection[str]:
        """Put other data into tasks, by task id; returns the tasks that show it now.

        A service that can tell leaves out those that somebody answered meanwhile.
        """
        ...

    def annotate(self, task_id: str, *, labels: Sequence[str], annotator: str, seconds: float) -> None:
        """Answer a task in the name of a simulated annotator."""
        ...
