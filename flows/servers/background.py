"""A process of a project that outlives the command that started it: started, found again, waited for and stopped.

Each has a file with its process id beside its log, in `.siftline/services/`; Label Studio in `.studio/services/`. A
process is known by its id and its start time, so that a later one with the same id is not taken for it.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from flows.servers.processes import (
    end,
    last_words,
    left_of_session,
    moved_since,
    session_listens,
    spawn,
    start_time,
    started_for,
)
from warehouse import ServiceError
from warehouse.files.atomic_file import replaced_file

STOP_TIMEOUT_S = 20.0
MARK = "SIFTLINE_SERVICE"
"""Environment variable of a service and of all that it starts: the file that its process id is in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """A process in the background.

    Attributes:
        url: its address; empty for one that only asks others.
        started: start time in clock ticks since boot, which tells it from a later process with the same id.
        asks: hash of what it was started with and the project may change: the engine's options and its encoder's file,
            or the folder and schedule of the deployments, and the addresses and keys of the services that they ask.
    """

    pid: int
    started: int
    url: str = ""
    asks: str = ""


class Background:
    """One process in the background of a project.

    Args:
        name: prefect, engine, deployments or label studio.
        state: the project's state folder; of Label Studio its own.
        patience_s: so long it may take to start.
    """

    def __init__(self, name: str, state: Path, *, patience_s: float = 300.0) -> None:
        self.name = name
        self._patience_s = patience_s
        self._folder = state / "services"
        self._record = self._folder / f"{name.replace(' ', '-')}.json"

    @property
    def log(self) -> Path:
        """What it printed; kept when it is started again."""
        return self._record.with_suffix(".log")

    def last(self) -> Running | None:
        """The process that was started last, alive or dead."""
        try:
            return Running(**json.loads(self._record.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def status(self) -> Running | None:
        """The process, or None when it does not run; that of a project from which this one was copied is not ours."""
        last = self.last()
        if last is None or not last.started or start_time(last.pid) != last.started:
            return None
        return last if started_for(last.pid, MARK, self._record) else None

    def moved(self) -> bool:
        """Whether the process runs and the project's folder was moved since."""
        running = self.status()
        return running is not None and moved_since(running.pid, MARK)

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        url: str,
        ready: Callable[[], bool],
        asks: str = "",
    ) -> Running:
        """Start it, and wait until it is ready.

        Raises:
            ServiceError: it ended, or was not ready in time; the message has its last words.
            SettingsError: its file cannot be written; it is not left running.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)

        def record(pid: int, started: int) -> Running:
            running = Running(pid=pid, started=started, url=url, asks=asks)
            with replaced_file(self._record) as temporary:
                temporary.write_text(json.dumps(asdict(running)), "utf-8")
            return running

        return self.await_ready(spawn(command, {**environment, MARK: str(self._record)}, self.log, record), ready)

    def await_ready(self, running: Running, ready: Callable[[], bool]) -> Running:
        """Wait until a process is ready, also one that an interrupted command started.

        Raises:
            ServiceError: it ended, or was not ready in time and was stopped; the message has its last words.
        """
        deadline = time.monotonic() + self._patience_s
        port = urlsplit(running.url).port
        # What answers at its port may be another's server that took it meanwhile; then this one ends.
        while not (ready() and (port is None or session_listens(running.pid, port))):
            if start_time(running.pid) != running.started or not running.started:
                raise ServiceError(f"{self.name} ended while it started: {last_words(self.log)} (log: {self.log})")
            if time.monotonic() > deadline:
                self.stop()
                raise ServiceError(
                    f"{self.name} was not ready within {self._patience_s:.0f} s and was stopped (log: {self.log}). "
                    "Start it again: siftline up"
                )
            time.sleep(0.2)
        return running

    def stop(self) -> bool:
        """Stop it and what it started, also what it left when it was killed.

        Returns:
            False when nothing of it ran.

        Raises:
            ServiceError: it did not end, not even when killed.
        """
        running = self.status()
        if running is None:
            last = self.last()
            left = left_of_session(last.pid, MARK, str(self._record)) if last is not None else []
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return bool(left)
        if end(running.pid, running.started, STOP_TIMEOUT_S):
            return True
        raise ServiceError(f"{self.name} (pid {running.pid}) did not stop; end it by hand: kill -9 {running.pid}")
