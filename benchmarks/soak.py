"""A soak of the human loop: many cycles with a crowd at work, and something dies in about every second one.

    python -m benchmarks.soak [--cycles 200] [--seed 0] [--folder DIR] [--output docs/benchmarks/soak.json]

A small Reuters project, a real Label Studio and a real Prefect server. In every cycle `siftline run` works while three
annotators take the server's next task and answer it, one time in seven with a wrong class; some answers are changed,
skipped or deleted later. Meanwhile the run is killed, or Label Studio or Prefect is killed and started again. The crowd
writes its own log. After one last undisturbed run the warehouse must agree with that log, answer by answer and label by
label. Memory, open files and data files are compared between the second quarter and the last one.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq

from benchmarks.environment import environment
from features.samples import get_sample
from flows.prefect_server import QUIET
from flows.studio import StudioInfo, StudioServer
from tests.projects import ROOT, make_small_project
from tests.studio import sign_up
from warehouse import Lake

FAULTS = ("none", "kill run", "restart label studio", "restart prefect")
CHANCES = (0.5, 0.36, 0.07, 0.07)
WRONG = 1 / 7
ANSWERS = 4
"""Answers of the crowd in a cycle."""
TITLE = "soak"
RUN_LIMIT_S = 240.0
GROWTH = 1.3


class PrefectServer:
    """A Prefect server in a folder of its own, killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}/api"
        self._environment = {**os.environ, **QUIET, "PREFECT_HOME": str(folder)}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        self._process = subprocess.Popen(
            command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(self.url + "/health")

    def kill(self) -> None:
        """End it without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def wait_for(url: str) -> None:
    """Until the address answers well.

    Raises:
        TimeoutError: it did not within five minutes.
    """
    end = time.monotonic() + 300
    while time.monotonic() < end:
        try:
            if httpx.get(url, timeout=5, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    raise TimeoutError(url)


@dataclass(slots=True)
class Said:
    """What one annotation says now; `action` as in the table `annotations`."""

    item_id: str
    annotator: str
    action: str
    label: str


@dataclass(slots=True)
class Crowd:
    """Three annotators on the server, and the log of all they did, by annotation id."""

    studio: StudioInfo
    classes: tuple[str, ...]
    truth: dict[str, str]
    dice: random.Random
    people: list[StudioInfo] = field(default_factory=list[StudioInfo])
    log: dict[str, Said] = field(default_factory=dict[str, Said])
    doubled: list[str] = field(default_factory=list[str])

    def work(self, answers: int) -> int:
        """Answer some tasks, and now and then change, skip or delete; returns how many were answered."""
        projects = self._call(self.studio, "GET", "/api/projects/", params={"title": TITLE})["results"]
        if not projects:
            return 0
        done = 0
        for _ in range(answers):
            person = self.dice.choice(self.people)
            try:
                task = self._call(person, "GET", f"/api/projects/{projects[0]['id']}/next")
            except httpx.HTTPStatusError as error:
                if error.response.status_code == 404:  # nothing is open
                    break
                raise
            item_id = task["data"]["item_id"]
            if any(s.item_id == item_id and s.action == "labelled" for s in self.log.values()):
                self.doubled.append(item_id)
            skipped = self.dice.random() < 0.03
            body: dict[str, Any] = {"result": [], "lead_time": 2.0, "was_cancelled": skipped}
            if not skipped:
                body["result"] = self._choice(item_id)
            stored = self._call(person, "POST", f"/api/tasks/{task['id']}/annotations/", json=body)
            action, label = ("skipped", "") if skipped else ("labelled", body["result"][0]["value"]["choices"][0])
            self.log[str(stored["id"])] = Said(item_id, person.username, action, label)
            done += 1
        labelled = [key for key, said in self.log.items() if said.action == "labelled"]
        if labelled and self.dice.random() < 0.2:
            key = self.dice.choice(labelled)
            said = self.log[key]
            person = next(p for p in self.people if p.username == said.annotator)
            if self.dice.random() < 0.3:
                self._call(person, "DELETE", f"/api/annotations/{key}/")
                said.action, said.label = "deleted", ""
            else:
                body: dict[str, Any] = {"result": self._choice(said.item_id), "lead_time": 3.0}
                self._call(person, "PATCH", f"/api/annotations/{key}/", json=body)
                said.label = body["result"][0]["value"]["choices"][0]
        return done

    def _choice(self, item_id: str) -> list[dict[str, Any]]:
        label = self.truth[item_id]
        if self.dice.random() < WRONG:
            label = self.dice.choice([other for other in self.classes if other != label])
        return [{"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}]

    def _call(self, person: StudioInfo, method: str, path: str, **options: Any) -> Any:
        headers = {"Authorization": f"Token {person.api_key}"}
        response = httpx.request(
            method, person.url + path, headers=headers, timeout=60, trust_env=False, follow_redirects=True, **options
        )
        response.raise_for_status()
        return response.json() if response.content else None


@dataclass(frozen=True, slots=True)
class Run:
    """One `siftline run`: how it ended, seconds, peak memory, most open files seen."""

    code: int
    seconds: float
    peak_mib: float
    files: int


class Soak:
    """The project, its servers and its crowd below one folder."""

    def __init__(self, folder: Path, cycles: int, seed: int) -> None:
        self.folder, self.dice = folder, random.Random(seed)
        sample = get_sample("reuters-r8", folder / "sample")
        # Every item is asked once, so there must be more of them than answers.
        self.root = make_small_project(folder / "project", sample, train=ANSWERS * cycles + 200, test=30)
        settings = (self.root / "siftline.toml").read_text("utf-8")
        settings = settings.replace('"siftline-reuters"', f'"{TITLE}"').replace("budget = 16", "budget = 100000")
        settings = settings.replace("refill_below = 0", "refill_below = 4")
        (self.root / "siftline.toml").write_text(settings, "utf-8")
        self.prefect = PrefectServer(folder / "prefect")
        self.studio = StudioServer(folder / "studio")
        self.prefect.start()
        info = self.studio.start()
        gold = pq.read_table(self.root / "data" / "gold.parquet")
        truth = dict(zip(gold.column("id").to_pylist(), gold.column("label").to_pylist(), strict=True))
        self.crowd = Crowd(info, tuple(sorted(set(truth.values()))), truth, random.Random(seed + 1))
        self.crowd.people += [sign_up(info) for _ in range(3)]
        self.runs: list[Run] = []
        self.files: list[int] = []
        self.faults: Counter[str] = Counter()

    def environment(self) -> dict[str, str]:
        """With it, a command finds the two servers."""
        info = self.crowd.studio
        servers = {"LABEL_STUDIO_URL": info.url, "LABEL_STUDIO_API_KEY": info.api_key}
        return {**os.environ, **servers, "PREFECT_API_URL": self.prefect.url}

    def command(self, *arguments: str) -> list[str]:
        """The `siftline` command on the project."""
        return [sys.executable, "-m", "flows.cli.main", *arguments, "--project", str(self.root)]

    def cycle(self, fault: str) -> Run:
        """One run with the crowd at work and one fault in the middle."""
        began = time.monotonic()
        with (self.folder / "run.log").open("ab") as log:
            process = subprocess.Popen(
                self.command("run"), cwd=ROOT, env=self.environment(), stdout=log, stderr=subprocess.STDOUT
            )
            self.crowd.work(ANSWERS)
            usual = statistics.median([r.seconds for r in self.runs if r.code == 0] or [20.0])
            time.sleep(max(0.0, self.dice.uniform(0.1, 0.9) * usual - (time.monotonic() - began)))
            files = open_files(process.pid)
            if fault == "kill run":
                process.kill()
            elif fault == "restart label studio":
                running = self.studio.status()
                if running is not None:
                    os.kill(running.pid, signal.SIGKILL)
                self.studio.start()
            elif fault == "restart prefect":
                self.prefect.kill()
                self.prefect.start()
            _, status, usage = wait(process, RUN_LIMIT_S)
        code = os.waitstatus_to_exitcode(status)
        return Run(code, time.monotonic() - began, usage.ru_maxrss / 1024, files)

    def soak(self, cycles: int) -> None:
        """Cycle after cycle, faults as the dice fall, upkeep every ten."""
        for number in range(cycles):
            [fault] = self.dice.choices(FAULTS, CHANCES) if number > 2 else ["none"]
            run = self.cycle(fault)
            self.runs.append(run)
            self.faults[fault] += 1
            if (number + 1) % 10 == 0:
                self.maintain()
            self.files.append(sum(1 for _ in (self.root / "lake").rglob("*.parquet")))
            said = f"{len(self.crowd.log)} answers, {self.files[-1]} data files, {run.peak_mib:.0f} MiB"
            print(f"cycle {number + 1}/{cycles}: {fault}, exit {run.code}, {run.seconds:.0f} s, {said}", flush=True)

    def maintain(self) -> None:
        """Compact, and give up all snapshots but the latest."""
        subprocess.run(
            self.command("maintain", "--expire-older-than", "0", "--grace", "0"),
            cwd=ROOT,
            env=self.environment(),
            check=True,
            capture_output=True,
        )

    def ended(self) -> dict[str, Any]:
        """One last undisturbed run; what the warehouse and the crowd's log disagree about."""
        last = subprocess.run(
            self.command("run"), cwd=ROOT, env=self.environment(), capture_output=True, text=True, check=False
        )
        if last.returncode:
            raise SystemExit(f"the last, undisturbed run ended with {last.returncode}:\n{last.stdout}{last.stderr}")
        self.maintain()
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
        logged = {key: (s.item_id, s.annotator, s.action, s.label) for key, s in self.crowd.log.items()}
        # An item that was asked again after its answer was taken back has the label that stands now.
        labels = {s.item_id: s.label for s in self.crowd.log.values() if s.action == "labelled"}
        return {
            "answers": len(logged),
            "lost": len(logged.keys() - stored.keys()),
            "made_up": len(stored.keys() - logged.keys()),
            "different": sum(1 for key in logged.keys() & stored.keys() if logged[key] != stored[key]),
            "gold_labels": len(gold),
            "gold_labels_wrong": len(set(labels.items()) ^ set(gold.items())),
            "items_asked_twice": len(self.crowd.doubled),
        }

    def growth(self) -> dict[str, Any]:
        """Medians of the second and of the last quarter of the undisturbed cycles."""
        found: dict[str, Any] = {}
        quarter = max(len(self.runs) // 4, 1)
        for name, values in (
            ("peak_mib", [r.peak_mib if r.code == 0 else None for r in self.runs]),
            ("open_files", [r.files or None for r in self.runs]),
            ("data_files", self.files),
        ):
            early, late = (
                [v for v in part if v is not None] for part in (values[quarter : 2 * quarter], values[-quarter:])
            )
            if early and late:
                before, after = statistics.median(early), statistics.median(late)
                found[name] = {"early": round(before, 1), "late": round(after, 1), "bounded": after <= before * GROWTH}
        return found

    def stop(self) -> None:
        """Stop the servers."""
        self.prefect.kill()
        self.studio.stop()


def open_files(pid: int) -> int:
    """Files that a process holds open; 0 when it has ended."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def wait(process: subprocess.Popen[bytes], limit_s: float) -> tuple[int, int, Any]:
    """The end of a process with what it used; killed when it takes longer."""
    end = time.monotonic() + limit_s
    while True:
        ended = os.wait4(process.pid, os.WNOHANG)
        if ended[0]:
            process.returncode = os.waitstatus_to_exitcode(ended[1])
            return ended
        if time.monotonic() > end:
            process.kill()
        time.sleep(0.05)


def main() -> None:
    """Soak, compare, print JSON, write where asked; exit code 1 when anything was lost, doubled or grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="kept afterwards; default a temporary one")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="siftline-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    soak = Soak(folder, arguments.cycles, arguments.seed)
    try:
        soak.soak(arguments.cycles)
        ended = soak.ended()
    finally:
        soak.stop()
    figures: dict[str, Any] = {
        "benchmark": "soak",
        "cycles": arguments.cycles,
        "seed": arguments.seed,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "faults": dict(soak.faults),
        "exit_codes": dict(Counter(str(run.code) for run in soak.runs)),
        "ended": ended,
        "growth": soak.growth(),
        **environment(),
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", "utf-8")
    if arguments.folder is None:
        shutil.rmtree(folder)
    wrong = [ended[name] for name in ("lost", "made_up", "different", "gold_labels_wrong", "items_asked_twice")]
    sys.exit(1 if any(wrong) or not all(found["bounded"] for found in figures["growth"].values()) else 0)


if __name__ == "__main__":
    main()
