"""Bounds on how long a run may go on: after a SIGTERM, and in all.

Python runs signal handlers between two of its own instructions, so neither a signal nor a timer gets through a long
call into C (a query, a matrix product, a fit). Both bounds therefore have a second line that needs no Python on the
main thread. Ending there is as safe as a SIGKILL, which every stage survives: what is committed is kept, the rest was
never there.
"""

import faulthandler
import os
import signal
import socket
import threading
import types
from collections.abc import Generator
from contextlib import contextmanager, suppress

from warehouse import Terminal
from warehouse.session.interrupt import alarm

STOP_S = 8.0
"""Seconds from SIGTERM to the end of the process, at most; under the 10 s that systemd and Kubernetes users rely on."""
_STOPPED = "stopped by SIGTERM; what was committed is kept, run again to go on\n"
GRACE_S = 60.0
"""Seconds from the time limit to the hard end."""


class RunTooLong(Terminal):
    """The run took longer than [schedule] timeout_min allows, and was stopped; the next run goes on from there."""


def too_long(seconds: float) -> RunTooLong:
    """The error of a run that took longer than it may."""
    return RunTooLong(
        f"The run took longer than {seconds / 60:g} minutes and was stopped; what was committed is kept and the next "
        "run goes on. If it needs longer, raise [schedule] timeout_min; if it hung, look at its last log line."
    )


@contextmanager
def time_limit(seconds: float) -> Generator[None]:
    """Stop a block in the main thread after some time.

    Raises:
        RunTooLong: the time is over. A call that does not return to Python for another `GRACE_S` ends the process,
            after every thread's traceback was written to standard error.
    """

    def over(_: int, __: types.FrameType | None) -> None:
        raise too_long(seconds)

    with alarm(seconds, over):
        # By number: what a program has put in the place of sys.stderr may have none.
        faulthandler.dump_traceback_later(seconds + GRACE_S, exit=True, file=2)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


class Signals:
    """Signals that came while a block worked.

    What a handler raises may come out as another error: DuckDB answers a signal in the middle of a query with a
    RuntimeError of its own, and Prefect fails when it notes the crash of a task run that it had not made yet. `meant`
    tells what it was.
    """

    def __init__(self) -> None:
        self._came = threading.Event()
        self._last = 0

    def note(self, number: int) -> None:
        """A signal came."""
        self._last = number
        self._came.set()

    def meant(self, error: Exception) -> int:
        """Number of the signal that came before an error; 0 when none did, so that it is an error of its own."""
        # The thread that notes it may be a moment behind.
        self._came.wait(1.0 if "Query interrupted" in str(error) else 0.1)
        return self._last


@contextmanager
def said_stop() -> Generator[None]:
    """While a block in the main thread works, a SIGTERM ends the process with a line on standard error.

    Prefect's engine has a handler of its own while a flow runs; when that has put the run in order, it sends the signal
    once more to the handler of before.
    """

    def stop(number: int, _: types.FrameType | None) -> None:
        _say_stopped()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGTERM)
    if before is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def prompt_stop(seconds: float = STOP_S) -> Generator[Signals]:
    """While a block in the main thread works, a SIGTERM that has a Python handler ends the process in that time.

    The handler gets its chance first; when the block has not ended by then, the process is left as if killed.
    """
    ended = threading.Event()
    signals = Signals()
    ours, kernels = socket.socketpair()
    kernels.setblocking(False)

    def watch() -> None:
        while number := ours.recv(1):
            signals.note(number[0])
            if number[0] == signal.SIGTERM and not ended.wait(seconds):
                _say_stopped()
                os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="siftline-stop").start()
    before = signal.set_wakeup_fd(kernels.fileno(), warn_on_full_buffer=False)
    try:
        yield signals
    finally:
        signal.set_wakeup_fd(before)
        ended.set()
        kernels.close()


def _say_stopped() -> None:
    # No print, since the signal may have come in the middle of one; and who read it may be gone.
    with suppress(OSError):
        os.write(2, _STOPPED.encode())
