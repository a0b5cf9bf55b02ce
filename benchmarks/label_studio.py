"""Tasks to a real Label Studio server: how fast 10,000 arrive, and that deaths on the way lose and double none.

`python -m benchmarks.label_studio` starts a server of its own, pushes 10,000 planned tasks with suggestions through the
queue, and does it again in a second project while the pushing process is killed before and after its requests, over
and over. It prints JSON and writes docs/benchmarks/label_studio.json and the page beside it.
"""

import argparse
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
from benchmarks.environment import environment
from flows.servers.label_studio import StudioInfo, StudioServer
from warehouse import Lake, Upsert

CLASSES = ("earn", "acq", "crude", "trade")
WORDS = (
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
)
OUTPUT = Path(__file__).parents[1] / "docs" / "benchmarks" / "label_studio.json"


def plan(lake: Lake, project: str, count: int) -> list[str]:
    """Store items of 60 words and plan a task with a suggestion for each; returns their ids."""
    generator = np.random.default_rng(7)
    ids = [f"item-{number:05d}" for number in range(count)]
    hashes = [f"{number:064x}" for number in range(count)]
    items = {
        "item_id": ids,
        "content": [f"{item_id}: " + " ".join(generator.choice(WORDS, 60)) for item_id in ids],
        "content_hash": hashes,
        "modality": ["text"] * count,
        "source": ["bench"] * count,
        "position": pa.array(range(count), pa.int64()),
        "metadata": ["{}"] * count,
        "split": ["train"] * count,
    }
    queue = {
        "item_id": ids,
        "project": [project] * count,
        "state": ["planned"] * count,
        "cycle": pa.array([1] * count, pa.int32()),
        "rank": pa.array(range(1, count + 1), pa.int32()),
        "value": np.linspace(1.0, 0.0, count),
        "reason": ["speaks for 12 similar texts; the end model is unsure"] * count,
        "prediction": pa.array(generator.integers(0, len(CLASSES), count), pa.int32()),
        "confidence": pa.array(generator.uniform(0.3, 1.0, count), pa.float32()),
        "content_hash": hashes,
        "task_id": [""] * count,
    }
    with lake.stage("plan", version=1, inputs=()) as stage:
        stage.commit([Upsert("items", pa.table(items)), Upsert("queue", pa.table(queue))])
    return ids


def differences(studio: StudioInfo, project: str, lake: Lake, ids: list[str]) -> dict[str, int]:
    """What is wrong with the tasks on the server: lost, doubled, without a suggestion, out of order, unconfirmed."""
    service = LabelStudioService(studio.url, studio.api_key, project)
    stored = sorted(service.stored(), key=lambda task: int(task.task_id))
    counts = Counter(task.item_id for task in stored)
    values = [float(task.data["value"]) for task in stored]
    headers = {"Authorization": f"Token {studio.api_key}"}
    found = httpx.get(f"{studio.url}/api/projects/", params={"title": project}, headers=headers, timeout=60).json()
    with lake.read() as reader:
        confirmed = int(reader.scalar("SELECT count(*) FROM queue WHERE state = 'confirmed' AND task_id <> ''"))
    return {
        "tasks": len(stored),
        "lost": len(set(ids) - set(counts)),
        "doubled": sum(count - 1 for count in counts.values()),
        "suggestions_missing": len(stored) - int(found["results"][0]["total_predictions_number"]),
        "out_of_order": sum(after > before for before, after in pairwise(values)),
        "not_confirmed": len(ids) - confirmed,
    }


def killed_at(number: int, studio: StudioInfo, project: str, folder: Path, *, after: bool) -> bool:
    """Push in a child that kills itself before or after its n-th request; True when it died."""
    pid = os.fork()
    if pid == 0:
        sent = 0
        send = DeadlineClient.send

        def counted(self: DeadlineClient, request: httpx.Request, **options: Any) -> httpx.Response:
            nonlocal sent
            sent += 1
            if sent == number and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            response = send(self, request, **options)
            if sent == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return response

        DeadlineClient.send = counted
        try:
            config = QueueConfig(project=project, classes=CLASSES)
            with Lake(folder) as lake:
                push(lake, LabelStudioService(studio.url, studio.api_key, project), config)
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def undisturbed(studio: StudioInfo, folder: Path, count: int) -> dict[str, Any]:
    """Push all in one go."""
    project = "bench undisturbed"
    with Lake(folder) as lake:
        ids = plan(lake, project, count)
        began = time.monotonic()
        push(
            lake,
            LabelStudioService(studio.url, studio.api_key, project),
            QueueConfig(project=project, classes=CLASSES),
        )
        seconds = time.monotonic() - began
        return {
            "seconds": round(seconds, 1),
            "tasks_per_s": round(count / seconds, 1),
            **differences(studio, project, lake, ids),
        }


def disturbed(studio: StudioInfo, folder: Path, count: int) -> dict[str, Any]:
    """Push with a death before and after the 1st, 2nd, ... request, in turn, until one push gets through."""
    project = "bench disturbed"
    with Lake(folder) as lake:
        ids = plan(lake, project, count)
    deaths = {"before a request": 0, "after a request": 0}
    began = time.monotonic()
    number = 1
    while True:
        died = [killed_at(number, studio, project, folder, after=after) for after in (False, True)]
        deaths["before a request"] += died[0]
        deaths["after a request"] += died[1]
        if not all(died):
            break
        number += 1
    seconds = time.monotonic() - began
    with Lake(folder) as lake:
        return {"seconds": round(seconds, 1), "deaths": deaths, **differences(studio, project, lake, ids)}


def page(figures: dict[str, Any]) -> str:
    """Markdown: how fast tasks arrive, and what deaths on the way cost."""
    calm, killed, place = figures["undisturbed"], figures["disturbed"], figures["environment"]
    deaths = ", ".join(f"{count} {where}" for where, count in killed["deaths"].items())
    faults = ("lost", "doubled", "suggestions_missing", "out_of_order", "not_confirmed")
    rows = [
        ("tasks pushed", *(f"{part['tasks']:,}" for part in (calm, killed))),
        ("seconds", *(f"{part['seconds']:.0f}" for part in (calm, killed))),
        ("tasks a second", f"{calm['tasks_per_s']:.0f}", f"{killed['tasks'] / killed['seconds']:.0f}"),
        *((name.replace("_", " "), *(str(part[name]) for part in (calm, killed))) for name in faults),
    ]
    return (
        "\n".join(
            [
                "# Tasks to Label Studio",
                "",
                "Written by `python -m benchmarks.label_studio`. Tasks with suggestions go through the queue to a real",
                f"server; in the second column the pushing process is killed with SIGKILL, {deaths},",
                "and started again. Lost, doubled, without its suggestion or out of order is what the server says",
                "afterwards; not confirmed is what the queue does not know to be there.",
                "",
                "| | undisturbed | killed over and over |",
                "|---|---:|---:|",
                *(f"| {' | '.join(row)} |" for row in rows),
                "",
                f"{place['cores']} cores, {place['processor']}, Python {place['python']}, commit "
                f"{place['commit'][:9]}.",
            ]
        )
        + "\n"
    )


def main() -> None:
    """Measure and write the figures."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--tasks", type=int, default=10_000)
    arguments.add_argument("--output", type=Path, default=OUTPUT)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="siftline-bench-") as name:
        server = StudioServer(Path(name) / "server")
        studio = server.start()
        try:
            figures = {
                "environment": environment(),
                "undisturbed": undisturbed(studio, Path(name) / "undisturbed", options.tasks),
                "disturbed": disturbed(studio, Path(name) / "disturbed", options.tasks),
            }
        finally:
            server.process.stop()
    text = json.dumps(figures, indent=2)
    print(text)
    options.output.write_text(text + "\n", "utf-8")
    options.output.with_suffix(".md").write_text(page(figures), "utf-8")


if __name__ == "__main__":
    main()
