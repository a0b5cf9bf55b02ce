"""A task file as the person who is to answer it sees it: the texts, why this one, and what the model suggests."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any, Self

from active.annotation.service import IMAGE, LABEL, TEXT, finite, text_key

ORDERED_BY = ("value", "cycle", "rank")
"""Numbers in a task's data that say which task comes first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenTask:
    """One task and who has answered it.

    Attributes:
        data: what people see, by key.
        suggested: classes that the model suggests, maybe none; None without a suggestion.
        confidence: of the suggestion, 0 to 1.
        people: who has labelled or skipped it.
    """

    task_id: str
    data: Mapping[str, Any]
    suggested: tuple[str, ...] | None
    confidence: float
    people: frozenset[str]

    @classmethod
    def of(cls, task_id: str, task: Mapping[str, Any], people: frozenset[str]) -> Self:
        """The task of a file; a suggestion that is not in Label Studio's format is none."""
        suggested, confidence = None, 0.0
        try:
            prediction = task["predictions"][0]
            parts = [part["value"]["choices"] for part in prediction["result"] if part["from_name"] == LABEL]
            suggested, confidence = tuple(str(name) for part in parts for name in part), _number(prediction["score"])
        except (AttributeError, IndexError, KeyError, TypeError):
            pass
        return cls(task_id=task_id, data=task["data"], suggested=suggested, confidence=confidence, people=people)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts side by side, at least one."""
        keys = takewhile(self.data.__contains__, (text_key(place) for place in count(1)))
        return (str(self.data.get(TEXT, "")), *(str(self.data[key]) for key in keys))

    @property
    def image(self) -> str:
        """Address of the image; empty for none."""
        return str(self.data.get(IMAGE) or "")

    @property
    def reason(self) -> str:
        """Why people are asked about this one."""
        return str(self.data.get("reason", ""))

    @property
    def value(self) -> float:
        """Expected worth of the label, 0 to 1."""
        return _number(self.data.get("value"))

    @property
    def order(self) -> tuple[float, float, float]:
        """Sorts the most valuable task first."""
        return -self.value, _number(self.data.get("cycle")), _number(self.data.get("rank"))


def _number(value: object) -> float:
    return finite(value) or 0.0
