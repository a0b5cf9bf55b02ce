"""A soak of the human loop: many cycles with a crowd at work, and something dies in about every second one.

    python -m benchmarks.soak [--cycles 200] [--seed 0] [--calm] [--folder DIR] [--output docs/benchmarks/soak.json]

A small Reuters project with everything that `siftline up` starts: Prefect, the engine, Label Studio, the deployments.
In every cycle `siftline run` works while three annotators take the server's next task and answer it, one time in seven
with a wrong class; some answers are changed, skipped or deleted later. Meanwhile the run is killed, or one of the
services is killed and `up` starts it again. The crowd writes its own log.

With --calm nothing is killed: every service lives through all cycles, and what grows only in a long life shows.

Every ten cycles the answers are collected, the warehouse is maintained, and it must agree with that log, answer by
answer and label by label; no file may lie on the disk that the warehouse does not know. What may not grow is judged by
its slope over the cycles. The figures are written at each of these checks and say how many cycles were done; SIGTERM
ends the soak after the cycle at work.
"""

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.crowd import Crowd
from benchmarks.environment import environment
from benchmarks.growth import Series, memory_mib, open_files
from benchmarks.soak_page import page
from features.ingest.samples import get_sample
from flows.deployments import services
from flows.project.project import Project
from flows.servers.background import Background
from flows.servers.label_studio import studio_server
from flows.servers.processes import start_time
from tests.projects import ROOT, make_small_project
from tests.studio import free_port, sign_up
from warehouse import Lake, ServiceError
from warehouse.maintenance.compaction import MOST_WITH_DELETIONS
from warehouse.storage.checksums import verify

FAULTS = {"none": 0.5, "kill run": 0.34, "prefect": 0.04, "engine": 0.04, "label studio": 0.04, "deployments": 0.04}
"""Chance of each; the last four are services that are killed and started again."""
SERVICES = ("prefect", "engine", "label studio", "deployments")
ANSWERS = 4
"""Answers of the crowd in a cycle."""
CHECK_EVERY = 10
TITLE = "soak"
RUN_LIMIT_S = 1800.0
"""Beyond what a run takes on a machine that others use up."""
TRIES = 5
AWAY = 3
"""Exit code of a command that found a service away."""
SETTINGS = """
[engine]
url = "http://127.0.0.1:{port}"

[schedule]
cycle = ""
collect = ""
refresh = ""
maintenance = ""
new_labels = 0
new_records = 0
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One `siftline run`: its number, what happened to it, exit code, seconds, peak memory, most open files seen."""

    cycle: int
    fault: str
    code: int
    seconds: float
    peak_mib: float
    files: int

    @property
    def unexpected(self) -> bool:
        """It ended as no fault explains: a run goes well, finds a service away, or is killed."""
        return self.code not in ((0, -signal.SIGKILL) if self.fault == "kill run" else (0, AWAY))


class Soak:
    """The project, its services and its crowd below one folder."""

    def __init__(self, folder: Path, cycles: int, seed: int, calm: bool = False) -> None:
        self.folder, self.dice, self.seed, self.cycles = folder, random.Random(seed), seed, cycles
        self.faults = {"none": 1.0} if calm else FAULTS
        for name in [n for n in os.environ if n.startswith(("PREFECT_", "LABEL_STUDIO_"))]:
            del os.environ[name]
        os.environ |= {"PREFECT_PROFILES_PATH": str(folder / "no-profiles.toml"), "PYTHONPATH": str(ROOT)}
        (folder / "tmp").mkdir()
        os.environ["TMPDIR"] = str(folder / "tmp")
        sample = get_sample("reuters-r8", folder / "sample")
        # Every item is asked once, so there must be more of them than answers.
        self.root = make_small_project(folder / "project", sample, train=ANSWERS * cycles + 200, test=30)
        self._settle()
        self.project = Project(self.root)
        gold = pq.read_table(self.root / "data" / "gold.parquet")
        truth = dict(zip(gold.column("id").to_pylist(), gold.column("label").to_pylist(), strict=True))
        self.crowd = Crowd(TITLE, tuple(sorted(set(truth.values()))), truth, random.Random(seed + 1))
        self.runs: list[Run] = []
        self.checks: list[dict[str, Any]] = []
        self.ended: list[dict[str, Any]] = []
        self.series: dict[str, Series] = {}
        self.with_deletions: set[str] = set()
        self.began = time.monotonic()
        self.stopping = False

    def start(self) -> None:
        """Start the services and invite the crowd."""
        self.up()
        info = studio_server(self.root).status()
        assert info is not None
        self.crowd.people += [sign_up(info) for _ in range(3)]

    def _settle(self) -> None:
        """Settings that make a cycle cheap: nothing here depends on how good the models are."""
        path = self.root / "siftline.toml"
        text = path.read_text("utf-8")
        for old, new in (
            ('"siftline-reuters"', f'"{TITLE}"'),
            ("budget = 16", "budget = 100000\nrefill_below = 4"),
            ('"snorkel"', '"majority"'),
            ("[annotate]", '[annotate]\nservice = "label-studio"\nsecond_opinion = 0.0'),
            ("[evaluate]\ngold", "[evaluate]\n# gold"),
        ):
            assert old in text, old
            text = text.replace(old, new)
        path.write_text(text + SETTINGS.format(port=free_port()), "utf-8")

    def command(self, *arguments: str) -> list[str]:
        """The `siftline` command on the project."""
        return [sys.executable, "-m", "flows.cli.main", *arguments, "--project", str(self.root)]

    def environment(self) -> dict[str, str]:
        """With it, a command finds Label Studio."""
        info = studio_server(self.root).status()
        assert info is not None
        return {**os.environ, "LABEL_STUDIO_URL": info.url, "LABEL_STUDIO_API_KEY": info.api_key}

    def ask(self, *arguments: str) -> str:
        """What an undisturbed command says, asked again where a service was away; another failure ends the soak."""
        for left in reversed(range(TRIES)):
            ended = subprocess.run(
                self.command(*arguments), cwd=ROOT, env=self.environment(), capture_output=True, text=True, check=False
            )
            if ended.returncode == 0:
                return ended.stdout
            if ended.returncode != AWAY or not left:
                raise SystemExit(f"{arguments[0]} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
        raise AssertionError

    def up(self) -> None:
        """Start what does not run; again where the machine was too busy for its time limit."""
        for left in reversed(range(TRIES)):
            try:
                services.up(self.project, lambda words: print(words, flush=True))
                return
            except ServiceError as error:
                print(error, flush=True)
                if not left:
                    raise

    def soak(self, output: Path | None) -> None:
        """Cycle after cycle, faults as the dice fall, a check every ten and one at the end."""
        for number in range(1, self.cycles + 1):
            [fault] = self.dice.choices(list(self.faults), list(self.faults.values())) if number > 3 else ["none"]
            run = self.cycle(fault)
            self.runs.append(run)
            self._note(number, run)
            said = f"{len(self.crowd.log)} answers, {run.peak_mib:.0f} MiB"
            print(f"cycle {number}/{self.cycles}: {fault}, exit {run.code}, {run.seconds:.0f} s, {said}", flush=True)
            if number % CHECK_EVERY == 0 or number == self.cycles or self.stopping:
                print(json.dumps(self.check(number)), flush=True)
                write(output, self.figures())
            if self.stopping:
                return

    def cycle(self, fault: str) -> Run:
        """One run with the crowd at work and one fault in the middle."""
        self._start_what_ended()
        began = time.monotonic()
        with (self.folder / "run.log").open("ab") as log:
            log.write(f"--- cycle {len(self.runs) + 1}: {fault}\n".encode())
            log.flush()
            process = subprocess.Popen(
                self.command("run"), cwd=ROOT, env=self.environment(), stdout=log, stderr=subprocess.STDOUT
            )
        self.crowd.work(ANSWERS)
        usual = statistics.median([r.seconds for r in self.runs if r.code == 0] or [30.0])
        files = 0
        end = began + self.dice.uniform(0.1, 0.9) * usual
        while time.monotonic() < end:
            files = max(files, open_files(process.pid) or 0)
            time.sleep(0.2)
        if fault == "kill run":
            os.kill(process.pid, signal.SIGKILL)  # not its method, which would take the exit code of one that has ended
        elif fault != "none":
            self._kill(fault)
            self.up()
        ended = wait(process, RUN_LIMIT_S)
        return Run(len(self.runs) + 1, fault, ended[0], time.monotonic() - began, ended[1], files)

    def _start_what_ended(self) -> None:
        """As systemd would; a service that ended although nobody killed it is noted."""
        ended = [service for service in SERVICES if self._running(service) is None]
        for service in ended:
            print(f"{service} has ended by itself before cycle {len(self.runs) + 1}", flush=True)
            self.ended.append({"service": service, "before_cycle": len(self.runs) + 1})
        if ended:
            self.up()

    def _kill(self, service: str) -> None:
        pid = self._running(service)
        if pid is None:  # it ended in this cycle
            return
        began = start_time(pid)
        os.killpg(pid, signal.SIGKILL)
        while start_time(pid) == began:  # it dies in its own time, and `up` would still see it
            time.sleep(0.01)

    def _running(self, service: str) -> int | None:
        """Process id of a service that runs."""
        studio = service == "label studio"
        process = studio_server(self.root).process if studio else Background(service, self.project.state_path)
        running = process.status()
        return None if running is None else running.pid

    def _note(self, cycle: int, run: Run) -> None:
        def note(name: str, value: float | None, life: int = 0) -> None:
            self.series.setdefault(name, Series()).note(cycle, value, life)

        if run.code == 0:
            note("run_peak_mib", run.peak_mib)
            note("run_open_files", run.files or None)
        for service in SERVICES:
            pid = self._running(service)
            if pid is None:
                continue
            note(f"{service.replace(' ', '_')}_mib", memory_mib(pid), pid)
            note(f"{service.replace(' ', '_')}_open_files", open_files(pid), pid)

    def check(self, cycle: int) -> dict[str, Any]:
        """Collect and maintain; what the warehouse, Label Studio and the crowd's log disagree about."""
        self.ask("collect")
        agreed = self.ask("queue", "reconcile").strip().splitlines()
        self.ask("maintain", "--expire-older-than", "0", "--grace", "0")
        with Lake(self.root / "lake", read_only=True) as lake, lake.read() as reader:
            stored = {
                row[0]: tuple(row[1:])
                for row in reader.rows(
                    "SELECT a.annotation_id, a.item_id, a.annotator, a.action, coalesce(c.name, '') FROM annotations a"
                    " LEFT JOIN classes c ON c.class_id = a.class_id AND a.action = 'labelled'"
                    " QUALIFY row_number() OVER (PARTITION BY a.annotation_id ORDER BY a.updated_at DESC) = 1"
                )
            }
            gold = dict(reader.rows("SELECT item_id, label FROM gold_labels"))
            tables = reader.rows(
                "SELECT table_name, delete_file_count FROM ducklake_table_info('lake') WHERE file_count"
            )
        self.with_deletions |= {name for name, count in tables if count}
        logged = {key: (s.item_id, s.annotator, s.action, s.label) for key, s in self.crowd.log.items()}
        # Given and taken back between two collects: nobody but the crowd ever saw it.
        unseen = {key for key in logged.keys() - stored.keys() if logged[key][2] == "deleted"}
        verified = verify(self.root / "lake")
        disk = list((self.root / "lake").rglob("*.parquet"))
        state = sum(1 for path in (self.root / ".siftline").rglob("*") if path.is_file())
        for name, value in (
            ("warehouse_files", len(disk)),
            ("data_mib", sum(path.stat().st_size for path in disk) / 2**20),
            ("state_files", state),
            ("temporary_files", sum(1 for path in (self.folder / "tmp").rglob("*") if path.is_file())),
        ):
            self.series.setdefault(name, Series()).note(cycle, value)
        # Upkeep leaves one file of a table, beside which the next commit may write one, and some with deleted rows,
        # each with a file that says which.
        self.series["warehouse_files"].limit = 2 * len(tables) + 2 * MOST_WITH_DELETIONS * len(self.with_deletions)
        check: dict[str, Any] = {
            "cycle": cycle,
            "answers": len(logged),
            "lost": len(logged.keys() - stored.keys() - unseen),
            "taken_back_before_collected": len(unseen),
            "made_up": len(stored.keys() - logged.keys()),
            "different": sum(1 for key in logged.keys() & stored.keys() if logged[key] != stored[key]),
            "gold_labels": len(gold),
            "gold_labels_wrong": len(set(self.crowd.labels().items()) ^ set(gold.items())),
            "items_asked_twice": len(self.crowd.doubled),
            "reconciled": agreed[1:],
            "files_unknown": len(disk) - verified.files,
            "files_damaged": len(verified.damaged),
        }
        self.checks.append(check)
        return check

    def figures(self) -> dict[str, Any]:
        """All that is known so far."""
        usual = [run.seconds for run in self.runs if run.code == 0]
        return {
            "benchmark": "soak",
            "cycles_done": len(self.runs),
            "cycles_wanted": self.cycles,
            "seed": self.seed,
            "minutes": round((time.monotonic() - self.began) / 60, 1),
            "seconds_a_cycle": round(statistics.median(usual or [0.0]), 1),
            "faults": dict(Counter(run.fault for run in self.runs)),
            "exit_codes": dict(Counter(str(run.code) for run in self.runs)),
            "unexpected_exits": [asdict(run) for run in self.runs if run.unexpected],
            "services_ended_by_themselves": self.ended,
            "tasks_withdrawn_from_a_screen": self.crowd.withdrawn,
            "last_check": self.checks[-1] if self.checks else None,
            "wrong_checks": [check for check in self.checks if wrong(check)],
            "growth": {name: series.judged() for name, series in sorted(self.series.items())},
            **environment(),
        }

    def stop(self) -> None:
        """Stop all services."""
        services.down(self.project.root)


def wrong(check: dict[str, Any]) -> bool:
    """Whether a check found anything."""
    counts = (
        "lost",
        "made_up",
        "different",
        "gold_labels_wrong",
        "items_asked_twice",
        "files_unknown",
        "files_damaged",
    )
    return any(check[name] for name in counts)


def wait(process: subprocess.Popen[bytes], limit_s: float) -> tuple[int, float]:
    """Exit code and peak memory in MiB of a process when it ends; killed when it takes longer."""
    end = time.monotonic() + limit_s
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage.ru_maxrss / 1024
        if time.monotonic() > end:
            os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.05)


def write(output: Path | None, figures: dict[str, Any]) -> None:
    """Write the figures so that a reader never sees half of them, and the page beside them."""
    if output is None:
        return
    if figures["last_check"]:
        output.with_suffix(".md").write_text(page(figures), "utf-8")
    part = output.with_suffix(".part")
    part.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    part.replace(output)


def main() -> None:
    """Soak, compare, print JSON, write where asked; exit code 1 when anything was lost, doubled or grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calm", action="store_true", help="kill nothing")
    parser.add_argument("--folder", type=Path, help="new folder, kept afterwards; default a temporary one")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="siftline-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    soak = Soak(folder.absolute(), arguments.cycles, arguments.seed, arguments.calm)

    def end(_: int, __: types.FrameType | None) -> None:
        soak.stopping = True

    signal.signal(signal.SIGTERM, end)
    try:
        soak.start()
        soak.soak(arguments.output)
    finally:
        soak.stop()
    figures = soak.figures()
    print(json.dumps(figures, indent=2))
    write(arguments.output, figures)
    if arguments.folder is None:
        shutil.rmtree(folder)
    grown = [name for name, found in figures["growth"].items() if not found.get("bounded", True)]
    found = figures["wrong_checks"] or figures["unexpected_exits"] or figures["services_ended_by_themselves"]
    sys.exit(1 if found or any(map(ours, grown)) else 0)


def ours(name: str) -> bool:
    """Whether a figure must not grow: not data, whose history is kept, and not the products beside Siftline."""
    return not name.startswith(("data_", "prefect_", "label_studio_"))


if __name__ == "__main__":
    main()
