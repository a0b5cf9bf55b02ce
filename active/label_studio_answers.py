"""What people said about a task of a Label Studio server: each annotation as an answer.

An annotation that lacks what decides is no answer and no skip: where it were taken for one, the label that stands in
the warehouse would be lost. So every such field must be there, and of the kind that Label Studio gives it, else nothing
is read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from active.label_studio_connection import Json, count_of, flag_of, list_of, text_of, time_of
from active.service import LABEL, LONGEST_S, Answer
from warehouse import ServiceError

EDITED_AFTER = timedelta(seconds=1)
"""One that is made or imported gets both its times in one moment, and its author may be another than who saved it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class People:
    """Who is who on the server.

    Attributes:
        several: each task has answers of several people; an edited one stays its author's (decision 0137).
        name_of: the person with a number.
        is_own: whether a number is that of the key's own user.
    """

    several: bool
    name_of: Callable[[int], str]
    is_own: Callable[[int], bool]


def item_id_of(data: Json) -> str | None:
    """The item id that a task's data carries; None where it has none, or one that no text can be."""
    item_id = data.get("item_id")
    if item_id is None:
        return None
    try:
        str(item_id).encode()
    except UnicodeEncodeError:
        return None
    return str(item_id)


def answers_of(task: Json, where: str, *, multi_label: bool, people: People) -> list[Answer]:
    """The answers of a task that carries an item id.

    Args:
        task: as the server lists it, with its annotations.
        where: the service in words.
        multi_label: an answer without a class says that none fits, else it is a skip.
        people: who is who there.

    Raises:
        ServiceError: the annotations, or what decides in one of them, are not there.
    """
    try:
        said = list_of(task["annotations"])
        return [_answer(task, annotation, multi_label, people) for annotation in said]
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ServiceError(
            f"{where} lists task {task['id']} without what people said about it, or not in Label Studio's form "
            f"({type(error).__name__}: {error}). Nothing was read, so that no answer is lost."
        ) from error


def _answer(task: Json, annotation: Json, multi_label: bool, people: People) -> Answer:
    result = annotation["result"]  # null where somebody made one without any by the server's API
    part = _choice_of([] if result is None else list_of(result))
    chosen = () if part is None else tuple(text_of(name) for name in list_of(part["value"]["choices"]))
    skipped = flag_of(annotation["was_cancelled"]) or result is None or not (chosen or multi_label)
    made, saved = time_of(annotation["created_at"]), time_of(annotation["updated_at"])
    by = annotation["completed_by"]
    author = "unknown" if by is None else people.name_of(count_of(by))
    editor = annotation.get("updated_by")
    again = saved - made > EDITED_AFTER
    edited_by = people.name_of(count_of(editor)) if again and editor not in (None, by) else ""
    # Whoever may answer may write any name there, and name another one as its author, but not as who saved it.
    saver = by if editor is None else editor
    named = None if again or saver is None else _simulated(part)
    simulated = named if named and people.is_own(count_of(saver)) else None
    return Answer(
        annotation_id=str(count_of(annotation["id"])),
        task_id=str(task["id"]),
        item_id=str(task["data"]["item_id"]),
        # A person who changes a simulated answer may be the user of the key that gave it.
        annotator=(not people.several and edited_by) or simulated or author,
        action="skipped" if skipped else "labelled",
        labels=() if skipped else chosen if multi_label else chosen[:1],
        created_at=made,
        updated_at=saved,
        seconds=_seconds(annotation["lead_time"]),
        edited_by=edited_by if people.several else "",
    )


def _seconds(lead_time: float | None) -> float:
    """Seconds that an answer took; 0 for unknown, and where a client sent what no clock shows."""
    seconds = float(lead_time or 0.0)
    return seconds if 0.0 <= seconds <= LONGEST_S else 0.0


def _choice_of(result: list[Json]) -> Json | None:
    return next((part for part in result if part.get("from_name") == LABEL and part.get("type") == "choices"), None)


def _simulated(part: Json | None) -> str | None:
    meta = part.get("meta") if part else None
    name = meta.get("annotator") if isinstance(meta, dict) else None
    return name if isinstance(name, str) else None
