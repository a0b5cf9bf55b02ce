"""Runs a project without Prefect in forked children and kills each at a chosen moment; used by test_killed_runs.py.

    python -m tests.faults.harness PROJECT FRACTION ...

Every statement on the warehouse and every file that is opened for writing, renamed or removed is a *moment* of the
stage at work. An undisturbed run in a copy of the project counts the moments of each stage in its first pass; then one
run after the other is killed in every stage, at each fraction of its moments (0 is the first, 1 the last but one), each
going on from what the one before left. A run that finds less to do than so many moments ends with its stage: if it went
on, the stages behind it would have nothing left to be killed in. The children are forks of a process that has imported
all that stages import when they need it, so the heavy imports are paid once. Prints one JSON line with what was killed.
"""

import importlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from flows.pipelines.stages import STAGES, run_passes, run_stage_in_process
from flows.project.project import Project
from warehouse import Lake, StageResult

IMPORTED_WHEN_NEEDED = (
    "active.label_studio.service",
    "engine.runtime.loading",
    "flows.deployments.services",
    "scipy.optimize",
    "sklearn.cluster",
    "sklearn.feature_extraction.text",
    "sklearn.linear_model",
    "snorkel.labeling.model",
    "torch._dynamo",
)
_WRITES = {"os.rename", "os.remove", "os.mkdir", "os.truncate"}


class Over(BaseException):
    """The stage in which this run was to be killed is over."""


class Moments:
    """Counts the moments of the stage at work and calls `reached` at each."""

    def __init__(self, reached: Any) -> None:
        self.stage = ""
        self.count = 0
        self.first: dict[str, int] = {}
        self.reached = reached
        sys.addaudithook(self._audit)
        real = Lake.new_cursor
        moments = self

        class Cursor:
            def __init__(self, cursor: Any) -> None:
                self.cursor = cursor

            def execute(self, *arguments: Any) -> Any:
                moments.tick()
                return self.cursor.execute(*arguments)

            def __getattr__(self, name: str) -> Any:
                return getattr(self.cursor, name)

        Lake.new_cursor = lambda lake, **how: Cursor(real(lake, **how))  # type: ignore[method-assign]

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if writes or event in _WRITES:
            self.tick()

    def tick(self) -> None:
        if self.stage:
            self.count += 1
            self.reached(self.stage, self.count)


def run(root: Path, reached: Any, *, until: str | None = None) -> dict[str, int]:
    """Run a project in this process to its end, or to that of a stage; returns the moments of each stage's first call.

    Raises:
        Over: the stage `until` is over.
    """
    moments = Moments(reached)
    project = Project(root)
    inner = run_stage_in_process(project)

    def stage(name: str) -> StageResult:
        moments.stage, moments.count = name, 0
        try:
            result = inner(name)
        finally:
            moments.first.setdefault(name, moments.count)
            moments.stage = ""
        if name == until:
            raise Over
        return result

    run_passes(stage, simulated=True)
    return moments.first


def in_child(root: Path, kill_at: tuple[str, int] | None, output: Path) -> int:
    """Fork, run, and kill itself at a moment; returns the exit status of waitpid."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]

    def reached(stage: str, number: int) -> None:
        if kill_at is not None and kill_at[0] == stage and number >= kill_at[1]:
            os.kill(os.getpid(), signal.SIGKILL)

    code = 1
    try:
        output.write_text(json.dumps(run(root, reached, until=None if kill_at is None else kill_at[0])))
        code = 0
    except Over:
        code = 0
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        raise
    finally:
        os._exit(code)  # a child must never return into the parent's code


def main(root: Path, fractions: list[float]) -> None:
    """Run undisturbed in a copy, then with kills in the project itself."""
    undisturbed = root.with_name(root.name + "-undisturbed")
    shutil.copytree(root, undisturbed)
    output = root.with_name("moments.json")
    for name in IMPORTED_WHEN_NEEDED:
        importlib.import_module(name)
    assert in_child(undisturbed, None, output) == 0
    counts = json.loads(output.read_text())
    killed: list[tuple[str, int]] = []
    began = time.monotonic()
    for stage in STAGES:
        last = counts[stage]
        for number in sorted({max(1, int(fraction * (last - 1))) for fraction in fractions}):
            status = in_child(root, (stage, number), output)
            if os.WIFSIGNALED(status):
                killed.append((stage, number))
    for _ in range(2):
        assert in_child(root, None, output) == 0
    print(json.dumps({"killed": killed, "seconds": round(time.monotonic() - began, 1)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [float(fraction) for fraction in sys.argv[2:]])
