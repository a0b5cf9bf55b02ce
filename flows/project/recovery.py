"""Runs that did not end well, and who went on with them.

A run writes down in `.siftline/runs.json` what it is and which stage it is at, and takes that back when it has ended
well. Whether it lives is not guessed from a heartbeat: it holds the project's run lock, which the kernel frees with the
process, so whoever holds the lock knows that everyone else in the file is dead or has failed. The next run that does
the same work takes those over: one commit per run taken over, stage `take_over` in the table `runs`, whose token is
made of the id of the run that died. So it is told once, however many runs begin at the same moment.
"""

import json
import os
import socket
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Protocol

from flows.servers.processes import holds_lock
from warehouse import Lake, SettingsError, SiftlineError
from warehouse.files.atomic_file import replaced_file

COVERS = {"cycle": ("cycle", "collect", "refresh"), "refresh": ("refresh",), "collect": ("collect",)}
"""Flows whose work a flow also does, so whose dead runs it goes on with."""
STAGE = "take_over"
FILE = "runs.json"
LOCK = "run.lock"
"""What a run holds while it is at work."""


class RunsHere(Protocol):
    """What a record of runs needs of a project."""

    @property
    def state_path(self) -> Path:
        """The project's state folder."""
        ...

    lake: cached_property[Lake]
    """The project's warehouse, open for writing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """A run that is at work, or one that did not end well.

    Attributes:
        run: its id; Prefect's id of the flow run.
        flow: cycle, collect or refresh.
        pid, host: the process.
        began: ISO time, UTC.
        stage: stage it is at; empty before the first one.
        ended: why it ended, in words; empty while it works, and for ever when it was killed.
    """

    run: str
    flow: str
    pid: int
    host: str
    began: str
    stage: str = ""
    ended: str = ""

    def words(self) -> str:
        """Who it was and how it ended, for people."""
        return f"{self.flow} run {self.run} (process {self.pid} on {self.host}, begun {self.began}), which {self.end()}"

    def end(self) -> str:
        """How it ended, for people."""
        where = f"in stage {self.stage}" if self.stage else "before its first stage"
        ended = self.ended.rstrip(".")  # the words go on behind it
        return f"ended {where}: {ended}" if ended else f"died {where} without a word (killed, or power lost)"


@contextmanager
def recorded(
    project: RunsHere, flow: str, run: str, taken: Callable[[Sequence[RunRecord]], None]
) -> Generator[Callable[[str], None]]:
    """Keep the record of a run while a block works, and take over what earlier runs left; hold the run lock around it.

    Args:
        project: the project, whose run lock this process holds.
        flow: a key of `COVERS`.
        run: id of this run.
        taken: told the runs that this one goes on with, the latest last; not called where there is none.

    Yields:
        To be called with the name of each stage as it begins.
    """
    path = project.state_path / FILE
    left = unfinished(project.state_path)
    mine = RunRecord(
        run=run,
        flow=flow,
        pid=os.getpid(),
        host=socket.gethostname(),
        began=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    others = [record for record in left if record.run != run]  # Prefect's Retry runs the same run again
    covered = [record for record in others if record.flow in COVERS[flow]]  # as they began, one after another
    kept = others

    def at(stage: str) -> None:
        nonlocal mine
        mine = replace(mine, stage=stage)
        _write(path, [*kept, mine])

    try:
        _write(path, [*left, mine])
        for record in covered:
            _commit(project.lake, record, mine)
        if covered:
            taken(covered)
        kept = [record for record in others if record not in covered]
        _write(path, [*kept, mine])
        yield at
    except BaseException as error:
        # A full disk, or a folder that was moved: what ended the run is to be told, not this.
        with suppress(OSError, SettingsError):
            _write(path, [*kept, replace(mine, ended=_why(error))])
        raise
    _write(path, kept)


def unfinished(state: Path) -> list[RunRecord]:
    """Runs in the file of a project's state folder: at work, dead or failed; a file that cannot be read holds none."""
    try:
        return [RunRecord(**record) for record in json.loads((state / FILE).read_text("utf-8"))]
    except (OSError, ValueError, TypeError):
        return []  # only what would be told is lost: every stage finds its own place in the warehouse


def in_words(state: Path) -> list[str]:
    """In sentences, what there is to say of the runs in a state folder: who is at work, and who did not end well."""
    sentences: list[str] = []
    for record in unfinished(state):
        if record.host != socket.gethostname() and not record.ended:
            began = f"A {record.flow} run began {record.began} on {record.host} (process {record.pid})"
            sentences.append(f"{began}; whether it is still at work cannot be seen from here.")
        elif not record.ended and holds_lock(record.pid, state / LOCK):
            where = f"at {record.stage}" if record.stage else "before its first stage"
            sentences.append(f"A {record.flow} run is at work, {where} (process {record.pid}, begun {record.began}).")
        else:
            sentences.append(f"A {record.words()}. The next one that does the same work goes on with it.")
    return sentences


def _commit(lake: Lake, dead: RunRecord, by: RunRecord) -> None:
    with lake.stage(STAGE, version=1, inputs=(), params={"run": dead.run}) as stage:
        # Not only its last commit: a run that died among several of these begins with the first of them again.
        told = stage.scalar("SELECT count(*) FROM runs WHERE stage = ? AND fingerprint = ?", [STAGE, stage.fingerprint])
        if not told:
            detail = {"taken_over": asdict(dead), "by": by.run, "words": dead.words()}
            stage.commit(detail=detail, message=f"{by.flow} run {by.run} goes on after {dead.words()}")


def _why(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted by hand"
    if type(error).__name__ == "TerminationSignal":  # Prefect's; this file also works without Prefect
        return "stopped by SIGTERM"
    text = str(error) if isinstance(error, SiftlineError) else f"{type(error).__name__}: {error}"
    return text[:2000]


def _write(path: Path, records: Sequence[RunRecord]) -> None:
    if not records:
        path.unlink(missing_ok=True)
        return
    with replaced_file(path) as temporary:
        temporary.write_text(json.dumps([asdict(record) for record in records], indent=1), "utf-8")
