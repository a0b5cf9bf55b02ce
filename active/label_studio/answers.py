"""What people said about a task of a Label Studio server: each annotation as an answer.

An annotation that lacks what decides is no answer and no skip: where it were taken for one, the label that stands in
the warehouse would be lost. So every such field must be there, and of the kind that Label Studio gives it, else nothing
is read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from active.annotation.service import LABEL, LONGEST_S, Answer, Remark
from active.label_studio.connection import Json, count_of, flag_of, list_of, text_of, time_of
from warehouse import ServiceError

EDITED_AFTER = timedelta(seconds=1)
"""One that is made or imported gets both its times in one moment, and its author may be another than who saved it."""

EDITED = "answers that somebody else edited"
OTHER_NAME = "answers given in somebody else's name, which count as whose account gave them"
UNSIGNED = "answers of which Label Studio does not say whose account gave them, as those of an import"


@dataclass(frozen=True, kw_only=True, slots=True)
class People:
    """Who is who on the server.

    Attributes:
        several: each task has answers of several people; an edited one stays its author's.
        name_of: the person with a number.
        is_own: whether a number is that of the key's own user.
    """

    several: bool
    name_of: Callable[[int], str]
    is_own: Callable[[int], bool]


def item_id_of(data: Json) -> str | None:
    """The item id that a task's data carries; None where it has none, or one that no text can be."""
    item_id = data.get("item_id")
    return None if item_id is None or not _is_text(str(item_id)) else str(item_id)


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
    annotator, remark = _annotator(annotation, part, abs(saved - made) > EDITED_AFTER, people)
    return Answer(
        annotation_id=str(count_of(annotation["id"])),
        task_id=str(task["id"]),
        item_id=str(task["data"]["item_id"]),
        annotator=annotator,
        action="skipped" if skipped else "labelled",
        labels=() if skipped else chosen if multi_label else chosen[:1],
        created_at=made,
        updated_at=saved,
        seconds=_seconds(annotation["lead_time"]),
        remark=remark,
    )


def _annotator(annotation: Json, part: Json | None, again: bool, people: People) -> tuple[str, Remark | None]:
    """Whose answer an annotation is, and what to tell people of it.

    Whoever has an account may name anybody as its author, or write any name beside the choice. Nobody chooses who saved
    it, so that decides, but for what the key's own user saved at once: imports and simulated answers.
    """
    by, editor = annotation["completed_by"], annotation.get("updated_by")
    author = "unknown" if by is None else people.name_of(count_of(by))
    saver = by if editor is None else editor
    other = "" if editor is None or editor == by else people.name_of(count_of(editor))
    if again:  # a person who changes a simulated answer may be the user of the key that gave it
        return (author, (EDITED, f" by {other}")) if other and people.several else (other or author, None)
    if saver is None:
        return author, None
    named = _named(part)
    own = bool(other or named) and people.is_own(saver)
    if other and not own:
        return other, (OTHER_NAME, f" in the name of {author}")
    return (named if own and named else author), ((UNSIGNED, "") if editor is None else None)


def _seconds(lead_time: float | None) -> float:
    """Seconds that an answer took; 0 for unknown, and where a client sent what no clock shows."""
    seconds = float(lead_time or 0.0)
    return seconds if 0.0 <= seconds <= LONGEST_S else 0.0


def _choice_of(result: list[Json]) -> Json | None:
    return next((part for part in result if part.get("from_name") == LABEL and part.get("type") == "choices"), None)


def _named(part: Json | None) -> str | None:
    """The name beside the choice, such as that of the simulated annotator; None for what is no text to be stored."""
    meta = part.get("meta") if part else None
    name = meta.get("annotator") if isinstance(meta, dict) else None
    return name if isinstance(name, str) and _is_text(name) else None


def _is_text(value: str) -> bool:
    """Whether no half of a surrogate pair is in it, which nothing can store."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
