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
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.harness import Figures, command, environment
from benchmarks.pages import keep, render
from benchmarks.soak.crowd import Crowd
from benchmarks.soak.growth import Series, memory_mib, open_files
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
AGREED = {
    "lost": "answers lost",
    "made_up": "answers that nobody gave",
    "different": "answers that differ",
    "gold_labels_wrong": "labels that differ from the crowd's log",
    "items_asked_twice": "items asked although an answer stood",
    "files_unknown": "data files that the warehouse does not know",
    "files_damaged": "data files with a wrong checksum",
}
"""What a check counts; all must be 0."""
ANNOTATIONS = """SELECT a.annotation_id, a.item_id, a.annotator, a.action, coalesce(c.name, '') FROM annotations a
LEFT JOIN classes c ON c.class_id = a.class_id AND a.action = 'labelled'
QUALIFY row_number() OVER (PARTITION BY a.annotation_id ORDER BY a.updated_at DESC) = 1"""


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

    def __init__(self, folder: Path, cycles: int, seed: int, calm: bool) -> None:
        self.folder, self.dice, self.seed, self.cycles = folder, random.Random(seed), seed, cycles
        self.faults = {"none": 1.0} if calm else FAULTS
        for name in [n for n in os.environ if n.startswith(("PREFECT_", "LABEL_STUDIO_"))]:
            del os.environ[name]
        (folder / "tmp").mkdir()
        os.environ |= {"PREFECT_PROFILES_PATH": str(folder / "no-profiles.toml"), "PYTHONPATH": str(ROOT)}
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
        self.checks: list[Figures] = []
        self.ended: list[Figures] = []
        self.series: dict[str, Series] = {}
        self.with_deletions: set[str] = set()
        self.began = time.monotonic()
        self.stopping = False

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

    def start(self) -> None:
        """Start the services and invite the crowd."""
        self._up()
        info = studio_server(self.root).status()
        assert info is not None
        self.crowd.people += [sign_up(info) for _ in range(3)]

    def _up(self) -> None:
        """Start what does not run; again where the machine was too busy for its time limit."""
        for left in reversed(range(TRIES)):
            try:
                return services.up(self.project, lambda words: print(words, flush=True))
            except ServiceError as error:
                print(error, flush=True)
                if not left:
                    raise

    def _siftline(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        """A `siftline` command on the project, and an environment in which it finds Label Studio."""
        info = studio_server(self.root).status()
        assert info is not None
        call = [sys.executable, "-m", "flows.cli.main", *arguments, "--project", str(self.root)]
        return call, {**os.environ, "LABEL_STUDIO_URL": info.url, "LABEL_STUDIO_API_KEY": info.api_key}

    def _ask(self, *arguments: str) -> str:
        """What an undisturbed command says, asked again where a service was away; another failure ends the soak."""
        for left in reversed(range(TRIES)):
            call, env = self._siftline(*arguments)
            ended = subprocess.run(call, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
            if ended.returncode == 0:
                return ended.stdout
            if ended.returncode != AWAY or not left:
                raise SystemExit(f"{arguments[0]} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
        raise AssertionError

    def soak(self, output: Path | None) -> None:
        """Cycle after cycle, faults as the dice fall, a check every ten and one at the end."""
        for number in range(1, self.cycles + 1):
            [fault] = self.dice.choices(list(self.faults), list(self.faults.values())) if number > 3 else ["none"]
            run = self._cycle(number, fault)
            self.runs.append(run)
            self._note_processes(number, run)
            told = f"exit {run.code}, {run.seconds:.0f} s, {len(self.crowd.log)} answers, {run.peak_mib:.0f} MiB"
            print(f"cycle {number}/{self.cycles}: {fault}, {told}", flush=True)
            if number % CHECK_EVERY == 0 or number == self.cycles or self.stopping:
                self.checks.append(self._check(number))
                print(json.dumps(self.checks[-1]), flush=True)
                keep(self.figures(), output, pages)
            if self.stopping:
                return

    def _cycle(self, number: int, fault: str) -> Run:
        """One run with the crowd at work and one fault in the middle."""
        # As systemd would, start what ended although nobody killed it; it is noted.
        ended = [{"service": s, "before_cycle": number} for s in SERVICES if self._running(s) is None]
        self.ended += ended
        if ended:
            self._up()
        began, (call, env) = time.monotonic(), self._siftline("run")
        with (self.folder / "run.log").open("ab") as log:
            log.write(f"--- cycle {number}: {fault}\n".encode())
            log.flush()
            process = subprocess.Popen(call, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT)
        self.crowd.work(ANSWERS)
        usual = statistics.median([r.seconds for r in self.runs if r.code == 0] or [30.0])
        files, end = 0, began + self.dice.uniform(0.1, 0.9) * usual
        while time.monotonic() < end:
            files = max(files, open_files(process.pid) or 0)
            time.sleep(0.2)
        if fault == "kill run":
            os.kill(process.pid, signal.SIGKILL)  # not its method, which would take the exit code of one that has ended
        elif fault != "none" and (pid := self._running(fault)) is not None:
            started = start_time(pid)
            os.killpg(pid, signal.SIGKILL)
            while start_time(pid) == started:  # it dies in its own time, and `up` would still see it
                time.sleep(0.01)
            self._up()
        code, peak_mib = _wait(process)
        return Run(number, fault, code, time.monotonic() - began, peak_mib, files)

    def _running(self, service: str) -> int | None:
        """Process id of a service that runs."""
        studio = service == "label studio"
        process = studio_server(self.root).process if studio else Background(service, self.project.state_path)
        running = process.status()
        return None if running is None else running.pid

    def _note(self, cycle: int, name: str, value: float | None, life: int = 0) -> None:
        self.series.setdefault(name.replace(" ", "_"), Series()).note(cycle, value, life)

    def _note_processes(self, cycle: int, run: Run) -> None:
        if run.code == 0:
            self._note(cycle, "run_peak_mib", run.peak_mib)
            self._note(cycle, "run_open_files", run.files or None)
        for service in SERVICES:
            if (pid := self._running(service)) is not None:
                self._note(cycle, f"{service}_mib", memory_mib(pid), pid)
                self._note(cycle, f"{service}_open_files", open_files(pid), pid)

    def _check(self, cycle: int) -> Figures:
        """Collect and maintain; what the warehouse, Label Studio and the crowd's log disagree about."""
        self._ask("collect")
        reconciled = self._ask("queue", "reconcile").strip().splitlines()
        self._ask("maintain", "--expire-older-than", "0", "--grace", "0")
        with Lake(self.root / "lake", read_only=True) as lake, lake.read() as reader:
            stored = {row[0]: tuple(row[1:]) for row in reader.rows(ANNOTATIONS)}
            gold = dict(reader.rows("SELECT item_id, label FROM gold_labels"))
            info = "SELECT table_name, delete_file_count FROM ducklake_table_info('lake') WHERE file_count"
            tables = reader.rows(info)
        self.with_deletions |= {name for name, count in tables if count}
        logged = {key: (s.item_id, s.annotator, s.action, s.label) for key, s in self.crowd.log.items()}
        # Given and taken back between two collects: nobody but the crowd ever saw it.
        unseen = {key for key in logged.keys() - stored.keys() if logged[key][2] == "deleted"}
        verified = verify(self.root / "lake")
        disk = list((self.root / "lake").rglob("*.parquet"))
        self._note(cycle, "warehouse_files", len(disk))
        self._note(cycle, "data_mib", sum(path.stat().st_size for path in disk) / 2**20)
        self._note(cycle, "state_files", sum(path.is_file() for path in (self.root / ".siftline").rglob("*")))
        self._note(cycle, "temporary_files", sum(path.is_file() for path in (self.folder / "tmp").rglob("*")))
        # Upkeep leaves one file of a table, beside which the next commit may write one, and some with deleted rows,
        # each with a file that says which.
        self.series["warehouse_files"].limit = 2 * len(tables) + 2 * MOST_WITH_DELETIONS * len(self.with_deletions)
        return {
            "cycle": cycle,
            "answers": len(logged),
            "lost": len(logged.keys() - stored.keys() - unseen),
            "taken_back_before_collected": len(unseen),
            "made_up": len(stored.keys() - logged.keys()),
            "different": sum(1 for key in logged.keys() & stored.keys() if logged[key] != stored[key]),
            "gold_labels": len(gold),
            "gold_labels_wrong": len(set(self.crowd.labels().items()) ^ set(gold.items())),
            "items_asked_twice": len(self.crowd.doubled),
            "reconciled": reconciled[1:],
            "files_unknown": len(disk) - verified.files,
            "files_damaged": len(verified.damaged),
        }

    def figures(self) -> Figures:
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
            "wrong_checks": [check for check in self.checks if any(check[name] for name in AGREED)],
            "growth": {name: series.judged() for name, series in sorted(self.series.items())},
            **environment(),
        }


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, float]:
    """Exit code and peak memory in MiB of a process when it ends; killed when it takes too long."""
    end = time.monotonic() + RUN_LIMIT_S
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage.ru_maxrss / 1024
        if time.monotonic() > end:
            os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.05)


def pages(figures: Figures) -> dict[str, str]:
    """docs/benchmarks/soak.md: what died, what was lost, what grew."""
    return {".md": render("soak.md.j2", figures, agreed=AGREED)} if figures["last_check"] else {}


def main() -> None:
    """Soak, compare, print JSON, write where asked; exit code 1 when anything was lost, doubled or grew."""
    parser = command(__doc__)
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calm", action="store_true", help="kill nothing")
    parser.add_argument("--folder", type=Path, help="new folder, kept afterwards; default a temporary one")
    given = parser.parse_args()
    folder: Path = given.folder or Path(tempfile.mkdtemp(prefix="siftline-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    soak = Soak(folder.absolute(), given.cycles, given.seed, given.calm)
    signal.signal(signal.SIGTERM, lambda *_: setattr(soak, "stopping", True))
    try:
        soak.start()
        soak.soak(given.output)
    finally:
        services.down(soak.project.root)
    figures = soak.figures()
    print(json.dumps(figures, indent=2))
    keep(figures, given.output, pages)
    if given.folder is None:
        shutil.rmtree(folder)
    # Data keeps its history, and the products beside Siftline are not ours.
    history = ("data_", "prefect_", "label_studio_")
    grown = [
        n for n, found in figures["growth"].items() if not n.startswith(history) and not found.get("bounded", True)
    ]
    sys.exit(
        1
        if grown or any(figures[n] for n in ("wrong_checks", "unexpected_exits", "services_ended_by_themselves"))
        else 0
    )


if __name__ == "__main__":
    main()
