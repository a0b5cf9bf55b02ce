"""The `siftline` command: it runs one command line and turns errors into messages and exit codes.

Exit codes: 0 done; 1 a defect of Siftline; 2 something the user can mend (the message says how); 3 a service or a
lock is away, the same command may work later; 130 interrupted.
"""

import argparse
import errno
import io
import os
import re
import select
import shlex
import sys
from pathlib import Path
from typing import Any, NoReturn

import typer

from flows.cli.commands import app
from flows.cli.terminal import console
from flows.servers.ports import reach_loopback_directly
from warehouse import SiftlineError, Transient, WarehouseNotFound

_INTERRUPTED = 130
# Threads of torch, FAISS and NumPy that wait for each other spin by default. Where other programs work beside this one,
# that takes most of a core from all of them: to load an encoder took 7 s of computing in place of 2.5. The libraries
# read these when they are loaded. Training alone on a machine is a tenth slower by it.
_SLEEP = {"OMP_WAIT_POLICY": "passive", "OPENBLAS_THREAD_TIMEOUT": "4"}
_ONLY_READ = ("sql", "questions", "snapshots", "diff", "export", "lf", "status", "suspects", "report", "predict")
# Click's base of all usage errors; typer may carry a click of its own, so it is reached through typer.
_USAGE_ERROR: Any = typer.BadParameter.__mro__[2]


def main() -> None:
    """Run the command and turn errors into messages and exit codes."""
    if sys.argv[1:3] == ["engine", "serve"]:
        from engine.serving.memory import use_systems_allocator

        use_systems_allocator()
    _give_streams()
    reach_loopback_directly()
    _give_home()
    _give_letters()
    if sys.argv[1:2] != ["engine"]:
        for name, value in _SLEEP.items():
            os.environ.setdefault(name, value)
    try:
        code = run_command(sys.argv[1:])
    except console.EndNow:
        _end_now(3)  # at a usual end Prefect's client tries for 7 s with each event to reach its server
    if code == _INTERRUPTED and _only_reads(sys.argv[1:]):
        _end_now(code)  # at a usual end a thread that DuckDB still has sometimes aborts the process
    sys.exit(_last_words(code))


def _last_words(code: int) -> int:
    """Write what was printed and still waits, or say that it cannot be; returns the exit code."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # It waits on, and Python's end would try again. Source: https://docs.python.org/3/library/signal.html#note-on-sigpipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code == 0 and not isinstance(error, BrokenPipeError):
            console.say(f"siftline: {console.of_the_system(error)}")
            return 2
    return code


def _give_streams() -> None:
    """Open to nowhere what of input, output and error came closed; else a file of the warehouse takes its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(nowhere, True)
            setattr(sys, name, open(nowhere, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def _give_home() -> None:
    """Name `/`, as containers do, as the home of a user id that has neither `HOME` nor a line in passwd.

    A home that only somebody else may enter is none: what changes the user may leave root's in `HOME`.
    """
    if not _has_home():
        os.environ.pop("HOME", None)
        if not _has_home():
            os.environ["HOME"] = "/"


def _has_home() -> bool:
    try:
        (Path.home() / "any").lstat()
    except (PermissionError, RuntimeError):
        return False
    except OSError:
        pass  # one that is not there yet
    return True


def _give_letters() -> None:
    """Write UTF-8 to pipes, as to files, whatever the locale; a terminal shows as escapes what it has no letters of."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=None if sys.stdout.isatty() else "utf-8", errors="backslashreplace")


def _end_now(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _duckdb_error() -> type[Exception]:
    """DuckDB's error, imported only when an exception is compared with it: few commands need DuckDB."""
    import duckdb

    return duckdb.Error


def run_command(arguments: list[str]) -> int:
    """Run one command line; returns the exit code.

    Raises:
        EndNow: said already; the caller must end the process at once.
    """
    from engine.errors import EngineError, UnavailableError

    try:
        Path.cwd()
    except FileNotFoundError:
        console.say('siftline: The folder that this was called in was removed or replaced. Enter it anew: cd "$PWD"')
        return 2
    try:
        code = app(arguments, standalone_mode=False)
    except _USAGE_ERROR as error:
        if "diff" in arguments[:1] and re.match(r"-\d", getattr(error, "option_name", "")):
            console.say("siftline: A snapshot has no negative number. `siftline snapshots` lists those there are.")
        else:
            error.message = error.message.replace("Value error, ", "")  # pydantic's, before words of our own
            error.show(console.err.file)
            if hint := _project_hint(arguments, error):
                console.say(hint)
        return 2
    except (typer.Abort, KeyboardInterrupt):
        return _interrupted(arguments)
    except SystemExit as error:  # typer's answer to any broken pipe
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        if _reader_left():
            return 0
        raise error.__context__ from None
    except console.EndNow as error:
        console.say(f"siftline: {error}")
        raise
    except (SiftlineError, EngineError) as error:
        if isinstance(error, WarehouseNotFound) and _is_made_now(arguments):
            console.say("siftline: There is no warehouse yet: the first run is at work and makes it. Ask again soon.")
            return 3
        console.say(f"siftline: {error}")
        return 3 if isinstance(error, Transient | UnavailableError) else 2
    except _duckdb_error() as error:
        from warehouse.files.disk_space import temporary_fault

        if told := temporary_fault(str(error)):
            console.say(f"siftline: {told}")
            return 3
        if os.strerror(errno.EACCES) in str(error):
            console.say(
                f"siftline: {error}\nThat is no sign of damage: who wrote a file of the warehouse alone may read it. "
                "Let one user run the project, and open its folder to your group "
                "(siftline docs operations 'Other accounts')."
            )
            return 2
        console.say(
            f"siftline: the warehouse cannot be read: {error}\nIf a file of its is damaged or missing, `siftline "
            "verify` names it; bring it back from a backup. Without one, the answers in it are lost."
        )
        return 2
    except OSError as error:
        console.say(f"siftline: {console.of_the_system(error)}")
        return 2
    except (ImportError, MemoryError, RuntimeError, ValueError) as error:
        if "Query interrupted" in str(error):  # DuckDB's word when a signal reaches it in a query
            return _interrupted(arguments)
        if (told := console.of_surroundings(error)) is None:
            raise
        console.say(f"siftline: {told}")
        return 2
    if code == _INTERRUPTED:  # typer's answer to Ctrl-C, without a word
        return _interrupted(arguments)
    return code if isinstance(code, int) else 0


def _project_hint(arguments: list[str], error: Any) -> str | None:
    """How a project is named, for who put its option before the command, or its folder where none belongs."""
    from flows.settings.settings_file import FILE_NAME

    if not arguments:
        return None
    if re.match(r"--project\b|-p", arguments[0]) and getattr(error, "option_name", "") in ("--project", "-p"):
        return "The project stands behind the command: siftline COMMAND --project FOLDER"
    last = Path(arguments[-1])
    if "extra argument" in error.message and (last / FILE_NAME).is_file():
        return f"The project is named by its option: --project {shlex.quote(str(last))}"
    return None


def _is_made_now(arguments: list[str]) -> bool:
    """Whether a run of the command's project is at work, so that a warehouse which is not there is on its way."""
    from flows.project.recovery import LOCK
    from flows.servers.processes import holds_lock

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--project", "-p", type=Path, default=Path(os.environ.get("SIFTLINE_DIR") or "."))
    return holds_lock(None, parser.parse_known_args(arguments)[0].project / ".siftline" / LOCK)


def _reader_left() -> bool:
    """Whether nobody reads any more what we print, as behind `| head`."""
    poll = select.poll()
    for stream in filter(None, (sys.__stdout__, sys.__stderr__)):
        poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _interrupted(arguments: list[str]) -> int:
    console.say(
        "interrupted" if _only_reads(arguments) else "interrupted; what was committed is kept, run again to go on"
    )
    return _INTERRUPTED


def _only_reads(arguments: list[str]) -> bool:
    return bool(arguments) and arguments[0] in _ONLY_READ


if __name__ == "__main__":
    main()
