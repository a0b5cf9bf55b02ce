"""How the command talks: a rich console for people, plain lines when the output is not a terminal."""

import errno
import io
import os
import sys
import textwrap
import time
import unicodedata
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from flows.cli.terminal.table_layout import layout
from warehouse import ServiceError
from warehouse.text import three_decimals

if TYPE_CHECKING:
    from warehouse import Progress as ProgressCallback

_LIMIT_SIGNS = ("can't start new thread", "failed to map segment", "can't allocate memory", "Cannot allocate memory")
"""What Python says of threads, the loader of libraries, torch and the system of memory that they do not get."""
_PROXIES = ("all_proxy", "http_proxy", "https_proxy")
_PROXY_SIGNS = ("Using SOCKS proxy", "Unknown scheme for proxy URL")
"""What httpx says of a proxy for which it lacks a package, or of a kind that it does not know."""


class EndNow(ServiceError):
    """A service is away, and the command must not wait for threads of a library that still try to reach it."""


class Plain(Console):
    """A console that shows control and bidirectional marks of the strings it is given, and obeys none."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; what is no string, such as a `Text` or a table, is made of safe text already."""
        super().print(*(lines(o) if isinstance(o, str) else o for o in objects), **options)

    def on_broken_pipe(self) -> None:
        """Leave it to the caller, as `print` does; rich would first hide which output it was that nobody reads."""
        raise


class StandardError(io.TextIOBase):
    """Standard error for as long as somebody reads it: a run whose terminal was closed, or its `| head`, goes on."""

    @property
    def _now(self) -> Any:
        return getattr(sys.stderr, "rich_proxied_file", sys.stderr)  # while rich shows a progress bar

    def __getattribute__(self, name: str) -> Any:
        return getattr(self._now, name) if name in ("encoding", "fileno", "isatty") else super().__getattribute__(name)

    def write(self, text: str, /) -> int:
        """Write a text where it can be."""
        with suppress(OSError):
            self._now.write(text)
        return len(text)

    def flush(self) -> None:
        """Bring it to its reader; where there is none any more, all that follows goes nowhere."""
        try:
            self._now.flush()
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.EIO):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())

    def __del__(self) -> None:
        """Nothing: Python would flush it here, which may be when this module has nothing left to do it with."""


# Paths, conditions and class names have brackets and colons that are no markup and no emoji; styled text is a `Text`.
out = Plain(markup=False, emoji=False, highlight=False, soft_wrap=True)
err = Plain(markup=False, emoji=False, file=cast(IO[str], StandardError()), highlight=False, soft_wrap=True)


def safe(text: object) -> str:
    """Text from data as it may be printed: control and bidirectional marks are shown, not obeyed."""
    return "".join(c if c.isprintable() or c == " " else f"\\x{ord(c):02x}" for c in str(text))


_JOINERS = "\u200b\u200c\u200d"
"""Several scripts and emoji are written with them, and they neither hide nor turn anything."""


def safe_prose(text: str) -> str:
    """As `safe`, for a text that people read: spaces of all widths and joiners stay what they are."""
    return "".join(c if c in _JOINERS or unicodedata.category(c) == "Zs" else safe(c) for c in text)


def lines(text: str) -> str:
    """Text as `safe`, with the line ends and tabs of our own messages."""
    return "".join(c if c in "\n\t" else safe(c) for c in text)


class Shown(io.TextIOBase):
    """Standard output that is a terminal: what is written there is shown as `lines` shows it."""

    def write(self, text: str, /) -> int:
        """Write a text, with its line ends as a terminal has them."""
        sys.stdout.write(lines(text.replace("\r\n", "\n")))
        return len(text)


def excerpt(text: object, width: int = 80) -> str:
    """The beginning of a text from data on one line."""
    line = " ".join(str(text).split())
    return safe(line if len(line) <= width else line[: width - 1] + "…")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """Print rows as a table, in a narrow terminal in parts; as tab-separated lines when the output is no terminal."""
    if not out.is_terminal:
        if title:
            print(f"# {safe(title)}")
        print("\t".join(safe(name) for name in columns))
        for row in rows:
            print("\t".join(safe_prose(_cell(value)) for value in row))
        return
    names, rows = [safe(name) for name in columns], list(rows)
    cells = [[safe_prose(_cell(value)) for value in row] for row in rows]
    numeric = [all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(names))]
    for number, part in enumerate(layout(names, cells, numeric, out.width)):
        if number:
            out.print()
        head = None if number else safe(title) or None
        table = Table(title=head, title_justify="left", title_style="bold", header_style="bold", box=None)
        for place, width in part:
            right = numeric[place]
            table.add_column(names[place], justify="right" if right else "left", overflow="fold", width=width)
        for row in cells:
            table.add_row(*(Text(row[place]) for place, _ in part))
        out.print(table)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2g}" if 0 < abs(value) < 0.001 else three_decimals(value)
    if isinstance(value, list):
        return ", ".join(_cell(v) for v in value)
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds")
    return str(value)


PLAIN_EVERY_S = 15.0
FORETOLD_AFTER_S = 10.0
FEWEST_STEPS = 100
"""Of a total from which on the time left is told; a few steps take very unequal times."""


class StageProgress:
    """One progress bar per stage that takes long; a plain line now and then when the output is not a terminal."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}
        self._told_at = time.monotonic()

    def of(self, stage: str) -> "ProgressCallback":
        """The callback of one stage."""
        name = "ingest, bytes" if stage == "ingest" else stage  # the others count items, or steps

        began: tuple[float, int] | None = None  # a stage that goes on may begin in the middle

        def show(done: int, total: int) -> None:
            nonlocal began
            now = time.monotonic()
            began = began or (now, done)
            left = time_left(now - began[0], done - began[1], total - done) if total >= FEWEST_STEPS else ""
            if self._progress is None:
                if now - self._told_at >= PLAIN_EVERY_S:
                    self._told_at = now
                    say(f"  {name}: {done:,} of {total:,}" + (f", {left}" if left else ""))
                return
            if total <= 0:
                return
            if stage not in self._tasks:
                self._tasks[stage] = self._progress.add_task(name, total=total, left="")
            task = self._tasks[stage]
            self._progress.update(task, completed=done, total=total, visible=done < total, left=left)

        return show


def time_left(seconds: float, done: int, rest: int) -> str:
    """How long the rest takes at the pace so far; empty where that is too early to say."""
    if seconds < FORETOLD_AFTER_S or done <= 0 or rest <= 0:
        return ""
    left = seconds * rest / done
    if left < 90:
        return f"about {max(10, round(left, -1)):.0f} s left"
    return f"about {left / 60:.0f} min left" if left < 90 * 60 else f"about {left / 3600:.1f} h left"


@contextmanager
def stage_progress() -> Generator[StageProgress]:
    """Show progress bars on standard error while a run works."""
    if not err.is_terminal:
        yield StageProgress(None)
        return
    columns = (
        TextColumn("  {task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        yield StageProgress(progress)


def fitted(text: str, indent: int = 2) -> str:
    """A text for `say`; in a terminal too narrow for it broken between words, what goes on below indented."""
    if not err.is_terminal:
        return text
    below = " " * indent
    return textwrap.fill(text, err.width, subsequent_indent=below, break_long_words=False, break_on_hyphens=False)


def say(message: str) -> None:
    """Print one line for people on standard error, so that standard output stays data."""
    err.print(message)
    err.file.flush()


def of_the_system(error: OSError) -> str:
    """An error of the system in words, with the way out."""
    if isinstance(error.filename, os.PathLike):
        error.filename = os.fspath(error.filename)
    if "temporary directory" in str(error):
        return f"{error}. Set the environment variable TMPDIR to a folder that can be written to."
    return f"{error}. Check that the place exists, has space and may be read and written."


def of_surroundings(error: Exception) -> str | None:
    """An error by a limit of the process or by its environment, in words with the way out; None for others."""
    why = str(error).partition("\n")[0].rstrip(".") or "no memory was left"
    if isinstance(error, MemoryError) or any(sign in why for sign in _LIMIT_SIGNS):
        return (
            f"The memory or the threads that this process may have do not suffice ({why}). `ulimit -v` and `ulimit -u` "
            "show its limits, `free -m` the memory; with more of both call it again. What was committed is kept."
        )
    if isinstance(error, ModuleNotFoundError) and error.name in sys.stdlib_module_names:
        return (
            f"This Python was built without its own module '{error.name}'. Set Siftline up with another Python, such "
            "as the system's, or build this one anew where the module's library is (for _sqlite3: libsqlite3-dev)."
        )
    if why.startswith(_PROXY_SIGNS):
        named = [name for name in os.environ if name.lower() in _PROXIES and not os.environ[name].startswith("http")]
        without = " ".join(f"-u {name}" for name in sorted(named))
        return (
            f"The environment names a proxy that is of no use ({why}). `env {without} siftline ...` goes without it. "
            "To go through a SOCKS proxy, write it as socks5://host:port and call `pip install 'httpx[socks]'`."
        )
    return None
