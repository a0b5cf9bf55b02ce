"""One file of a task folder: a task in Label Studio's JSON format, or an export that is a list of them."""

import json
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from active.annotation.service import LABEL, LONGEST_S, Answer
from warehouse import ServiceRefused
from warehouse.files.atomic_file import replaced_file
from warehouse.files.permissions import file_mode

MAX_FILE_BYTES = 64 * 1024 * 1024


def read_tasks(path: Path, *, or_else: str = "") -> list[dict[str, Any]]:
    """The tasks of a file: one task, or an export that is a list of them.

    Raises:
        ServiceRefused: it cannot be read; `or_else` says what a person may do beside mending or removing it.
    """
    try:
        if not path.is_file():  # a pipe or a device may never end
            raise ValueError("it is no regular file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"larger than {MAX_FILE_BYTES} bytes")
        content = json.loads(path.read_text("utf-8").removeprefix("\ufeff"))  # editors on Windows begin with a mark
    except (OSError, ValueError, RecursionError) as error:
        raise ServiceRefused(f"The task file {path} cannot be read ({error}). Mend or remove it{or_else}.") from error
    tasks = content if isinstance(content, list) else [content]
    if not all(isinstance(task, dict) for task in tasks):
        raise ServiceRefused(f"The task file {path} holds no Label Studio task. Mend or remove it.")
    return cast("list[dict[str, Any]]", tasks)


def answer_of(
    task: dict[str, Any], annotation: dict[str, Any], n: int, *, task_id: str, multi_label: bool, modified: datetime
) -> Answer:
    """An annotation of a task as the answer that it is.

    Args:
        task: the task in Label Studio's format.
        annotation: one of its annotations.
        n: its place there, for one without an id.
        task_id: id of the task.
        multi_label: the task takes any number of classes, else exactly one.
        modified: when the file was written, for an annotation without a time.

    Raises:
        AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError: it is no such annotation.
    """
    item_id = str(task["data"]["item_id"])
    skipped = annotation.get("was_cancelled") or False
    if not isinstance(skipped, bool):
        raise ValueError(f"annotation {n} of item {item_id!r} has was_cancelled {skipped!r}; it is true or false")
    parts = [r["value"]["choices"] for r in annotation.get("result") or [] if r.get("from_name") == LABEL]
    if not all(isinstance(part, list) for part in parts):
        raise ValueError(f"annotation {n} of item {item_id!r} has choices that are no list, such as {parts[0]!r}")
    choices = [str(name) for part in parts for name in part]
    if not skipped and not multi_label and len(choices) != 1:
        raise ValueError(f"annotation {n} of item {item_id!r} has {len(choices)} labels, one is expected")
    labels = () if skipped else tuple(dict.fromkeys(choices))
    who = annotation.get("completed_by")
    who = (who.get("email") or who.get("id")) if isinstance(who, dict) else who
    annotator = "unknown" if who in (None, "") else str(who)  # exports name people by address or by number
    annotation_id = str(annotation.get("id", f"{task_id}-{n}"))
    # Half a surrogate pair cannot be stored and raises ValueError here.
    "".join((item_id, annotator, annotation_id, *labels)).encode()
    seconds = float(annotation.get("lead_time") or 0.0)
    if not 0.0 <= seconds <= LONGEST_S:
        raise ValueError(f"annotation {n} of item {item_id!r} took {seconds} seconds")
    updated = _time(annotation.get("updated_at"), modified)
    return Answer(
        annotation_id=annotation_id,
        task_id=task_id,
        item_id=item_id,
        annotator=annotator,
        action="skipped" if skipped else "labelled",
        labels=labels,
        created_at=_time(annotation.get("created_at"), updated),
        updated_at=updated,
        seconds=seconds,
    )


def _time(value: object, otherwise: datetime) -> datetime:
    if not isinstance(value, str):
        return otherwise
    time = datetime.fromisoformat(value)
    # A year that UTC has not raises OverflowError: in the warehouse, no time could be compared with it any more.
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)


def in_words(value: Any) -> str:
    """JSON that a person can read and edit in any script; half a surrogate pair, which no file can hold, is escaped."""
    return json.dumps(value, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")


def write_text(path: Path, text: str) -> None:
    """Replace a file whole; the people who could read it still can. A new one is as open to a group as its folder."""
    with replaced_file(path, among_many=True) as temporary:
        temporary.write_text(text, "utf-8")
        if path.is_file():
            _open_alike(path, temporary)
        else:
            temporary.chmod(file_mode(path.parent))


def _open_alike(before: Path, after: Path) -> None:
    """Let the people who may read a file read the one that takes its place: its group where allowed, and its mode.

    A group that must be another one gets the rights of everybody, which its members had before.
    """
    wanted = before.stat()
    with suppress(OSError):
        os.chown(after, -1, wanted.st_gid)
    mode = wanted.st_mode & 0o777
    if after.stat().st_gid != wanted.st_gid:
        mode = mode & ~stat.S_IRWXG | (mode & stat.S_IRWXO) << 3
    after.chmod(mode)


def close_to_others(folder: Path, files: Iterable[Path]) -> None:
    """Make a folder that an earlier Siftline opened to everybody its owner's only, and its files too.

    It was open to everybody and its files were made 0644. Any other folder is as its owner wants it, whatever a
    person's tool made of a file.
    """
    found = folder.stat()
    if not found.st_mode & stat.S_IRWXO or found.st_uid != os.geteuid():
        return
    opened = [path for path in files if _is_open(path)]
    if opened:
        folder.chmod(0o700)
        for path in filter(_is_open, opened):  # again, as nobody else can change now what is in the folder
            path.chmod(0o600)


def _is_open(path: Path) -> bool:
    """Whether it is a file of ours that is open to everybody, and not another's link to one that lies elsewhere."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return found.st_mode == stat.S_IFREG | 0o644 and found.st_nlink == 1 and found.st_uid == os.geteuid()
