"""What this machine's folder of tasks held when it was collected last: a file beside the warehouse.

Two machines that run one project have a folder each, with the same open tasks in both. An answer that is in the other
folder is missing in this one without having been deleted, and one that was collected from here may have been given anew
there. So what counts is what changed in a folder since it was collected last. A catalogue in a
file is of one machine, which needs none of this. Where the file here is lost, or tells of answers that the warehouse
does not have, nothing counts as deleted once, and of two answers of one person the later one is in force.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from active.annotation.service import Answer
from active.queue.outbox import Row
from warehouse import Reader
from warehouse.commits.stage import hash_token, last_token
from warehouse.files.atomic_file import replaced_file

Key = tuple[str, str]
"""Item and annotation id, as `current_annotations` tells annotations of a project apart."""

_DIGITS = 16

_HISTORY = """
    SELECT item_id, annotation_id, action, class_id, updated_at, class_ids FROM annotations
    WHERE project = ? AND item_id IN (SELECT unnest(?::VARCHAR[]))
"""


class Held:
    """The answers that a place held, as `collect` goes through them.

    Args:
        path: file that keeps them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._states: dict[str, str] | None = None

    def read(self, reader: Reader, place: str) -> None:
        """Look what the place held, as the collect finds the warehouse.

        Args:
            reader: of the warehouse.
            place: the folder in words.
        """
        self._states = None
        try:
            kept = json.loads(self.path.read_text("utf-8"))
            there, last, states = kept["place"], str(kept["last"]), dict(kept["states"])
        except (OSError, ValueError, TypeError, KeyError):
            return
        # Another warehouse, or one that was set back, does not have what was collected from here.
        if there == place and (not last or reader.scalar("SELECT count(*) FROM runs WHERE token = ?", [last])):
            self._states = states

    def __contains__(self, key: Key) -> bool:
        """Whether an annotation is known to have been there."""
        return self._states is not None and _name(key) in self._states

    @property
    def known(self) -> bool:
        """Whether it is known at all what was there."""
        return self._states is not None

    def changed(
        self, reader: Reader, new: Sequence[Row], known: Mapping[Key, Row], given: Mapping[Key, Answer]
    ) -> list[Row]:
        """Those answers that differ from what is in force because they changed here, or came here.

        One that came here is as late as it says, and one that was deleted elsewhere counts while it is here. Each that
        was never collected is kept, also where a later one of the same annotation is in force.

        Args:
            reader: of the warehouse.
            new: the answers that differ, as rows.
            known: what is in force.
            given: the answers that are here.
        """
        taken: list[Row] = []
        came: list[Row] = []
        for row in new:
            key = row["item_id"], row["annotation_id"]
            if key not in known or known[key]["action"] == "deleted" or self._is_other(key, given[key]):
                taken.append(row)
            elif key not in self:
                came.append({**row, "updated_at": given[key].updated_at})
        if came:
            rows = reader.rows(_HISTORY, [came[0]["project"], sorted({row["item_id"] for row in came})])
            found = {(*columns, tuple(class_ids or ())) for *columns, class_ids in rows}
            taken += [row for row in came if _columns(row) not in found]
        return taken

    def write(self, reader: Reader, place: str, given: Mapping[Key, Answer], *, gone: Sequence[Key]) -> None:
        """Keep what the place holds.

        Args:
            reader: of the warehouse after the commit of the answers.
            place: the folder in words.
            given: the answers that are there and were taken in.
            gone: annotations that were deleted.
        """
        states = {**(self._states or {}), **{_name(key): _state(answer) for key, answer in given.items()}}
        for key in gone:
            states.pop(_name(key), None)
        kept = {"place": place, "last": last_token(reader, "annotations"), "states": states}
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replaced_file(self.path, durable=False) as temporary:
            temporary.write_text(json.dumps(kept), "utf-8")

    def _is_other(self, key: Key, answer: Answer) -> bool:
        return self._states is not None and self._states.get(_name(key), _state(answer)) != _state(answer)


def _name(key: Key) -> str:
    return hash_token({"annotation": key})[:_DIGITS]


def _state(answer: Answer) -> str:
    said = [answer.action, sorted(answer.labels), answer.updated_at.isoformat()]
    return hash_token({"said": said})[:_DIGITS]


def _columns(row: Row) -> tuple[object, ...]:
    columns = (row[name] for name in ("item_id", "annotation_id", "action", "class_id", "updated_at"))
    return *columns, tuple(row["class_ids"] or ())
