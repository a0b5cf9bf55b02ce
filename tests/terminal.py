"""A command in a terminal of its own (a pseudo-terminal), whose keys a test presses and whose words it reads."""

import os
import pty
import select
import signal
import sys
import time

PATIENCE_S = 120.0
AGAIN_S = 20.0


class Terminal:
    """`siftline` with some arguments; what it wrote is read up to its next prompt."""

    def __init__(self, *arguments: str) -> None:
        self.pid, self._end = pty.fork()
        if self.pid == 0:
            os.environ |= {"TERM": "dumb", "COLUMNS": "100"}
            os.execv(sys.executable, [sys.executable, "-m", "flows.cli.main", *arguments])

    def until(self, end: str, *, again: str = "") -> str:
        """What it writes until it has written `end` last; until it is over for an empty one.

        Args:
            end: what it writes last.
            again: keys that are pressed again as long as nothing but the ^C that the terminal itself shows has come.
        """
        written = b""
        pressed = time.monotonic()
        deadline = pressed + PATIENCE_S
        while not end or not written.endswith(end.encode()):
            assert time.monotonic() < deadline, f"no {end!r} in {written!r}"
            if self.says(0.2):
                try:
                    written += os.read(self._end, 65536)
                except OSError:  # Linux: the other end of the terminal is closed
                    assert not end, f"it ended without {end!r}: {written!r}"
                    break
            elif again and not written.strip(b"^C\r\n") and time.monotonic() - pressed > AGAIN_S:
                self.send(again)
                pressed = time.monotonic()
        return written.decode()

    def says(self, within_s: float) -> bool:
        """It writes something, or ends, within some seconds."""
        return bool(select.select([self._end], [], [], within_s)[0])

    def send(self, keys: str) -> None:
        """Press some keys."""
        os.write(self._end, keys.encode())

    def interrupt(self, end: str) -> str:
        """What it writes up to `end` after Ctrl-C, pressed again as a person would: Python misses one that comes right
        after its prompt and before it waits for keys, though the terminal shows ^C."""
        self.send("\x03")
        return self.until(end, again="\x03")

    def leave(self, keys: str = "") -> int:
        """Its exit code after some last keys."""
        if keys:
            self.send(keys)
        while self.says(PATIENCE_S):
            try:
                os.read(self._end, 65536)
            except OSError:  # Linux: the other end of the terminal is closed
                break
        else:
            os.kill(self.pid, signal.SIGKILL)  # it hangs; its exit code tells, and no processor is kept busy
        _, status = os.waitpid(self.pid, 0)
        os.close(self._end)
        return os.waitstatus_to_exitcode(status)
