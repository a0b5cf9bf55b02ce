"""Tasks to a real Label Studio server: how fast they arrive, and that deaths on the way lose and double none.

    python -m benchmarks.label_studio [--tasks 10000] [--output docs/benchmarks/label_studio.json]

A server of its own takes planned tasks with suggestions from the queue. In a second project the pushing process is
killed before and after its 1st, 2nd, ... request, until one push gets through.
"""

import json
import os
import signal
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa

from active.label_studio.http import DeadlineClient
from active.label_studio.service import LabelStudioService
from active.queue.outbox import QueueConfig
from active.queue.push import push
from benchmarks.harness import DOCS, Figures, command, environment
from benchmarks.pages import keep, render
from flows.servers.label_studio import StudioInfo, StudioServer
from warehouse import Lake, Upsert

CLASSES = ("earn", "acq", "crude", "trade")
WORDS = [
    "oil",
    "prices",
    "rose",
    "on",
    "monday",
    "as",
    "the",
    "ministers",
    "of",
    "both",
    "countries",
    "met",
    "to",
    "settle",
]
FAULTS = ("lost", "doubled", "suggestions_missing", "out_of_order", "not_confirmed")


def _plan(folder: Path, project: str, count: int) -> list[str]:
    """Store items of 60 words and plan a task with a suggestion for each; returns their ids."""
    generator = np.random.default_rng(7)
    ids = [f"item-{number:05d}" for number in range(count)]
    same = {"item_id": ids, "content_hash": [f"{number:064x}" for number in range(count)]}
    contents = [f"{item_id}: " + " ".join(generator.choice(WORDS, 60)) for item_id in ids]
    items = {**same, "content": contents, "position": pa.array(range(count), pa.int64())}
    items |= {
        k: [v] * count for k, v in {"modality": "text", "source": "b", "metadata": "{}", "split": "train"}.items()
    }
    queue = {**same, "project": [project] * count, "state": ["planned"] * count, "task_id": [""] * count}
    queue |= {"cycle": pa.array([1] * count, pa.int32()), "rank": pa.array(range(1, count + 1), pa.int32())}
    queue |= {"value": np.linspace(1.0, 0.0, count), "reason": ["speaks for 12 similar texts"] * count}
    queue |= {"prediction": pa.array(generator.integers(0, len(CLASSES), count), pa.int32())}
    queue |= {"confidence": pa.array(generator.uniform(0.3, 1.0, count), pa.float32())}
    with Lake(folder) as lake, lake.stage("plan", version=1, inputs=()) as stage:
        stage.commit([Upsert("items", pa.table(items)), Upsert("queue", pa.table(queue))])
    return ids


def _push(studio: StudioInfo, folder: Path, project: str) -> None:
    with Lake(folder) as lake:
        service = LabelStudioService(studio.url, studio.api_key, project)
        push(lake, service, QueueConfig(project=project, classes=CLASSES))


def _differences(studio: StudioInfo, folder: Path, project: str, ids: list[str]) -> dict[str, int]:
    """What is wrong with the tasks on the server: lost, doubled, without a suggestion, out of order, unconfirmed."""
    service = LabelStudioService(studio.url, studio.api_key, project)
    stored = sorted(service.stored(), key=lambda task: int(task.task_id))
    counts = Counter(task.item_id for task in stored)
    values = [float(task.data["value"]) for task in stored]
    headers = {"Authorization": f"Token {studio.api_key}"}
    found = httpx.get(f"{studio.url}/api/projects/", params={"title": project}, headers=headers, timeout=60).json()
    with Lake(folder) as lake, lake.read() as reader:
        confirmed = int(reader.scalar("SELECT count(*) FROM queue WHERE state = 'confirmed' AND task_id <> ''"))
    return {
        "tasks": len(stored),
        "lost": len(set(ids) - set(counts)),
        "doubled": sum(count - 1 for count in counts.values()),
        "suggestions_missing": len(stored) - int(found["results"][0]["total_predictions_number"]),
        "out_of_order": sum(after > before for before, after in pairwise(values)),
        "not_confirmed": len(ids) - confirmed,
    }


def _killed_at(number: int, studio: StudioInfo, folder: Path, project: str, *, after: bool) -> bool:
    """Push in a child that kills itself before or after its n-th request; True when it died."""
    pid = os.fork()
    if pid == 0:
        sent, send = 0, DeadlineClient.send

        def counted(self: DeadlineClient, request: httpx.Request, **options: Any) -> httpx.Response:
            nonlocal sent
            sent += 1
            response = send(self, request, **options) if sent < number or after else None
            if sent == number or response is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return response

        DeadlineClient.send = counted
        try:
            _push(studio, folder, project)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def _measure(studio: StudioInfo, folder: Path, count: int) -> Figures:
    project = "bench undisturbed"
    ids = _plan(folder / "calm", project, count)
    began = time.monotonic()
    _push(studio, folder / "calm", project)
    seconds = time.monotonic() - began
    calm = {"seconds": round(seconds, 1), "tasks_per_s": round(count / seconds, 1)}
    calm |= _differences(studio, folder / "calm", project, ids)
    project = "bench disturbed"
    ids = _plan(folder / "killed", project, count)
    deaths = {"before a request": 0, "after a request": 0}
    began, number, died = time.monotonic(), 0, [True]
    while all(died):
        number += 1
        died = [_killed_at(number, studio, folder / "killed", project, after=after) for after in (False, True)]
        deaths = {where: count + dead for (where, count), dead in zip(deaths.items(), died, strict=True)}
    killed = {"seconds": round(time.monotonic() - began, 1), "deaths": deaths}
    killed |= _differences(studio, folder / "killed", project, ids)
    return {"environment": environment(), "undisturbed": calm, "disturbed": killed}


def pages(figures: Figures) -> dict[str, str]:
    """docs/benchmarks/label_studio.md."""
    return {".md": render("label_studio.md.j2", figures, faults=FAULTS)}


def main() -> None:
    """Measure and write the figures."""
    parser = command(__doc__, DOCS / "label_studio.json")
    parser.add_argument("--tasks", type=int, default=10_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="siftline-bench-") as name:
        server = StudioServer(Path(name) / "server")
        try:
            figures = _measure(server.start(), Path(name), given.tasks)
        finally:
            server.process.stop()
    print(json.dumps(figures, indent=2))
    keep(figures, given.output, pages)


if __name__ == "__main__":
    main()
