"""Makes a warehouse and commits to it in forked children, each killed at a statement; used by test_commit_is_atomic.py.

    python -m tests.warehouse.killed_commits FOLDER

An undisturbed child writes down its statements. Then one child after the other dies at the last of each kind of writing
statement of the many that create the schema, and, in a copy of a warehouse that has it, at every statement of the
commit; after each, another child checks what is left and commits again. The children are forks, so the imports are paid
once; this process opens no warehouse, whose threads a fork would lack. Prints one JSON line with the deaths.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.lakes import copied
from tests.warehouse.test_commit_is_atomic import classes, items, state
from warehouse import Lake, Upsert


class Statements:
    """Notes every statement on the warehouse, and kills this process at the one with a number."""

    def __init__(self, kill_at: int) -> None:
        self.kinds: list[str] = []
        real = Lake.new_cursor
        statements = self

        class Cursor:
            def __init__(self, cursor: Any) -> None:
                self.cursor = cursor

            def execute(self, *arguments: Any) -> Any:
                statements.kinds.append(" ".join(str(arguments[0]).split()[:3]))
                if len(statements.kinds) == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return self.cursor.execute(*arguments)

            def __getattr__(self, name: str) -> Any:
                return getattr(self.cursor, name)

        Lake.new_cursor = lambda lake, **how: Cursor(real(lake, **how))  # type: ignore[method-assign]


def commit(lake: Lake) -> None:
    """One commit to two tables, once."""
    with lake.stage("ingest", version=1, inputs=()) as stage:
        if not stage.done:
            stage.commit([Upsert("classes", classes("a", "b")), Upsert("items", items(2000))])


def disturbed(path: Path, kill_at: int, output: Path, made: Path | None = None) -> None:
    """Make a warehouse, or open a copy, and commit; writes down the kinds of both's statements, where it survives."""
    statements = Statements(kill_at)
    lake = Lake(path) if made is None else copied(made, path)
    opening = len(statements.kinds)
    commit(lake)
    output.write_text(json.dumps([statements.kinds[:opening], statements.kinds[opening:]]))


def checked(path: Path, kill_at: int) -> None:
    """The warehouse is as before the commit or as after it, and takes the commit once."""
    with Lake(path) as lake:
        assert state(lake) in {(0, 0, 0), (2, 2000, 1)}, f"killed at statement {kill_at}"
        commit(lake)
        assert state(lake) == (2, 2000, 1)


def in_child(work: Callable[[], None]) -> int:
    """Fork and work there; returns the exit code, negative for a signal."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        work()
        code = 0
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        raise
    finally:
        sys.stderr.flush()
        os._exit(code)  # a child must never return into the parent's code


def points(opening: list[str]) -> list[int]:
    """Numbers of the statements of a first opening to die at, from 1."""
    numbers: dict[str, int] = {}
    for number, kind in enumerate(opening, start=1):
        words = kind.split()
        if words[0] == "SELECT":
            continue  # it leaves what the one before it left
        numbers[" ".join(words[: 2 if words[0] == "CALL" else 1])] = number
    return sorted(numbers.values())


def main(folder: Path) -> None:
    """Undisturbed, then killed at each point in a warehouse of its own."""
    output, made = folder / "statements.json", folder / "made"

    def statements(name: str, of: Path | None) -> tuple[list[str], list[str]]:
        assert in_child(lambda: disturbed(folder / name, 0, output, of)) == 0
        return tuple(json.loads(output.read_text()))

    def die(name: str, number: int, of: Path | None) -> None:
        path = folder / f"{name}{number}"
        assert in_child(lambda: disturbed(path, number, output, of)) == -signal.SIGKILL, path
        assert in_child(lambda: checked(path, number)) == 0, path

    creating, _ = statements("undisturbed", None)
    assert in_child(lambda: Lake(made).close()) == 0
    opening, committing = statements("undisturbed-copy", made)
    deaths = points(creating), [len(opening) + number for number, _ in enumerate(committing, start=1)]
    for number in deaths[0]:
        die("new", number, None)
    for number in deaths[1]:
        die("copy", number, made)
    print(json.dumps({"deaths": deaths, "creating": creating, "opening": opening, "committing": committing}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
