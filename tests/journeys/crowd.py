"""Many processes at one project at the same time, some of them killed; used by test_crowd.py.

    python -m tests.journeys.crowd FOLDER SEED SECONDS AT_ONCE

Runs, collects, imports, upkeep with expiry, readers that stay open, readers that come anew, questions, exports and
answers begin at random moments, while records, functions and settings are edited; some are killed without a word. Each
is a fork of this process, which has imported what they need and opens no warehouse itself before the end. Then the
promises of `test_random_walks` are looked at, and what was left is compared with a project that begins with it. Prints
one JSON line: how each kind of process ended, and how often.
"""

import contextlib
import functools
import importlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import warehouse
from engine.load import load_encoder
from flows.cli.main import run_command
from flows.pipelines.stages import GATHER, run_passes, run_stage_in_process, run_stages
from flows.project.project import Project
from flows.project.recovery import recorded
from tests.faults.harness import IMPORTED_WHEN_NEEDED
from tests.journeys.test_random_walks import CLASSES, Walk
from warehouse import Lake, ServiceRefused, SiftlineError, SnapshotNotFound, Transient

TABLES = ("items", "vectors", "lf_votes", "weak_labels", "predictions", "queue", "annotations", "runs", "models")
COUNTS = f"SELECT {', '.join(f'(SELECT count(*) FROM {table})' for table in TABLES)}"
GROWS = "SELECT (SELECT count(*) FROM items), (SELECT count(*) FROM annotations), (SELECT count(*) FROM runs)"
VIEWS = ("training_set", "gold_labels", "queue_progress")
KILLED_FRAC = 0.2
STUCK_S = 240.0


@dataclass
class Child:
    """A process at work: when it is to be killed, and what its end means to the walk."""

    name: str
    output: Path
    dies_at: float
    ended: Callable[[int, str], None]


class Crowd(Walk):
    """A walk of which most steps are processes of their own, several at once."""

    def __init__(self, root: Path, seed: int, patch: pytest.MonkeyPatch) -> None:
        super().__init__(root, seed, patch)
        self.children: dict[int, Child] = {}
        self.ends: Counter[str] = Counter()
        self.given: set[tuple[str, str]] = set()
        self.being_imported = False
        (root.parent / "out").mkdir()

    def write(self) -> None:
        """As it was or as it is now, never in between: somebody may be reading."""
        fresh = Path(f"{self.root}-fresh")
        (fresh / "data").mkdir(parents=True, exist_ok=True)
        there, self.root = self.root, fresh
        super().write()
        self.root = there
        for name in ("data/texts.jsonl", "labeling_functions.py", "siftline.toml"):
            os.replace(fresh / name, there / name)

    def tasks(self, *, answered: bool | None = None) -> list[dict[str, Any]]:
        while True:
            with contextlib.suppress(FileNotFoundError):  # withdrawn meanwhile
                return super().tasks(answered=answered)

    def go(self, seconds: float, at_once: int) -> None:
        self.write()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.look_after()
            if len(self.children) < at_once:
                self.begin()
            if self.random.random() < 0.15 and not self.being_imported:
                self.random.choice(
                    [self.append, self.edit, self.take_edit_back, self.move, self.write_functions, self.set]
                )()
                self.write()
            time.sleep(self.random.random() / 5)
        while self.children:
            self.look_after()
            time.sleep(0.02)

    def begin(self) -> None:
        """One more process."""
        lake = self.root / "lake"
        kinds: dict[str, tuple[int, Callable[[], int]]] = {
            "run": (6, lambda: self.at_work(None)),
            "collect": (2, lambda: self.at_work(GATHER)),
            "answers": (3, self.answers),
            "stays open": (3, lambda: stays_open(lake, self.random)),
            "comes anew": (2, lambda: comes_anew(lake, self.random)),
            "sql": (1, lambda: self.command("sql", "select label, count(*) from training_set group by all")),
            "status": (1, lambda: self.command("status")),
            "verify": (1, lambda: self.command("verify")),
            "maintain": (2, lambda: self.command("maintain")),
            "expire": (2, lambda: self.command("maintain", "--expire-older-than", "0.0001")),
            "export": (1, lambda: self.command("export", "training-set", "--force", "--output", f"{self.root}-out")),
        }
        if not self.being_imported:
            kinds["import"] = (2, lambda: 0)
        (name,) = self.random.choices(list(kinds), [often for often, _ in kinds.values()])
        if name == "import":
            self.import_some()
        else:
            self.fork(name, kinds[name][1], self.note_given if name == "answers" else lambda code, told: None)

    def import_some(self) -> None:
        self.being_imported = True  # nobody edits the records meanwhile, so that the texts are known
        labels = {item: self.random.choice(CLASSES) for item in self.random.sample(list(self.records), 3)}
        texts = {item: self.records[item]["text"] for item in labels if self.records[item]["split"] == "train"}
        file = self.root.parent / "labels.jsonl"
        file.write_text("\n".join(json.dumps({"id": item, "label": label}) for item, label in labels.items()), "utf-8")

        def ended(code: int, told: str) -> None:
            self.being_imported = False
            if code == 0:
                self.imported |= {item: (labels[item], text) for item, text in texts.items()}

        self.fork("import", lambda: self.command("import", str(file)), ended, dies=False)

    def fork(self, name: str, work: Callable[[], int], ended: Callable[[int, str], None], *, dies: bool = True) -> None:
        output = self.root.parent / "out" / f"{sum(self.ends.values()) + len(self.children)}-{name.replace(' ', '-')}"
        pid = os.fork()
        if not pid:
            in_child(work, output)
        kill = dies and self.random.random() < KILLED_FRAC
        wait_s = self.random.expovariate(1 / 2) if kill else STUCK_S
        self.children[pid] = Child(name, output, time.monotonic() + wait_s, ended)

    def look_after(self) -> None:
        for pid, child in list(self.children.items()):
            if time.monotonic() > child.dies_at:
                os.kill(pid, signal.SIGKILL)
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                del self.children[pid]
                code, told = os.waitstatus_to_exitcode(status), child.output.read_text("utf-8", "replace")
                self.ends[f"{child.name}: {'killed' if code == -signal.SIGKILL else code}"] += 1
                assert code in (0, 2, 3, -signal.SIGKILL), (child.name, code, told)
                assert "Traceback" not in told, (child.name, told)
                assert code != 2 or "no tables yet" in told or "There is no warehouse" in told, (child.name, told)
                child.ended(code, told)

    def command(self, *arguments: str) -> int:
        return run_command([*arguments, "--project", str(self.root)])

    def at_work(self, stages: Any) -> int:
        project = Project(self.root)
        patience_s = self.random.choice([0.0, 20.0])
        run = run_stage_in_process(project)
        with project.only_run(patience_s=patience_s), recorded(project, "cycle", str(os.getpid()), lambda _: None):
            run_passes(run, simulated=False) if stages is None else run_stages(run, stages)
        return 0

    def answers(self) -> int:
        """Somebody who answers what they see, and says so as soon as it is kept."""
        folder = Project(self.root).folder
        for path in self.random.sample(tasks := sorted((self.root / "tasks").glob("*.json")), min(3, len(tasks))):
            with contextlib.suppress(ServiceRefused, FileNotFoundError):  # withdrawn, or shows something else by now
                shown, who = json.loads(path.read_text("utf-8"))["data"], self.random.choice(["ann", "bob"])
                label = self.random.choice(CLASSES)
                folder.annotate(path.stem, labels=[label], annotator=who, seconds=1.0, shown=shown)
                print("kept", path.stem, who, flush=True)
            time.sleep(self.random.random())
        return 0

    def note_given(self, code: int, told: str) -> None:
        kept = (line.split() for line in told.splitlines() if line.startswith("kept"))
        self.given |= {(task, who) for _, task, who in kept}

    def check_the_end(self, fresh: Walk) -> None:
        there = {
            (task["id"], answer["completed_by"]) for task in self.tasks() for answer in task.get("annotations") or []
        }
        assert self.given <= there, "an answer that was kept is there"
        self.died = True  # runs that died in the middle may have asked about what moved since
        self.run()
        assert self.command("verify") == 0
        assert not self.ask("SELECT token FROM runs GROUP BY ALL HAVING count(*) > 1")
        for seen in (self.root.parent / "out").glob("seen-*"):
            with contextlib.suppress(SnapshotNotFound), warehouse.connect(self.root / "lake", at=seen.suffix[1:]) as at:
                assert content(at) == seen.read_text("utf-8"), "a snapshot reads the same for ever"
        self.check_against_fresh(fresh)


def content(reader: warehouse.Reader) -> str:
    """What a reader sees, in words."""
    views = [sorted(map(repr, reader.rows(f"SELECT * FROM {view}"))) for view in VIEWS]
    return repr([reader.rows(COUNTS), *views])


def stays_open(lake: Path, draws: random.Random) -> int:
    """A reader whose snapshot must not change, and which is read again at the end."""
    with warehouse.connect(lake) as reader:
        number, first = reader.snapshot(), content(reader)
        end = time.monotonic() + draws.choice([0.5, 2.0, 5.0])
        while time.monotonic() < end:
            time.sleep(draws.random() / 2)
            assert content(reader) == first, f"snapshot {number} changed while it was open"
    (lake.parents[1] / "out" / f"seen-{os.getpid()}.{number}").write_text(first, "utf-8")
    return 0


def comes_anew(lake: Path, draws: random.Random) -> int:
    """Readers one after the other of one open warehouse: what only grows never falls."""
    with Lake(lake, create=False, read_only=True) as opened:
        last: tuple[int, ...] = ()
        for _ in range(20):
            with opened.read() as reader:
                now = reader.rows(GROWS)[0]
                assert all(before <= after for before, after in zip(last, now, strict=False)), (last, now)
                assert reader.rows(GROWS) == [now]
            last = now
            time.sleep(draws.random() / 5)
    return 0


def in_child(work: Callable[[], int], output: Path) -> None:
    """Work in this fork, with what it prints in a file, and end it."""
    code = 1
    try:
        said = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        try:
            code = work()
        except SiftlineError as error:
            print(error)
            code = 3 if isinstance(error, Transient) else 2
        except BaseException:
            traceback.print_exc()
            raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # a child must never return into the parent's code


def main(folder: Path, seed: int, seconds: float, at_once: int) -> None:
    """A crowd for so long, and then the looks at what it left."""
    for name in (*IMPORTED_WHEN_NEEDED, "flows.cli.data.sql", "flows.cli.status", "flows.cli.import_labels"):
        importlib.import_module(name)
    with pytest.MonkeyPatch.context() as patch:
        crowd = Crowd(folder / "project", seed, patch)
        try:
            crowd.go(seconds, at_once)
        finally:
            for pid in crowd.children:
                os.kill(pid, signal.SIGKILL)
        patch.setattr("flows.project.project.load_encoder", functools.cache(load_encoder))  # a fork must load its own
        crowd.check_the_end(Walk(folder / "fresh", seed, patch))
    print(json.dumps(crowd.ends))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
