"""A million vectors through the stages of `siftline run`: index, neighbours, values, a batch; then 1% more, twice.

The stages work on a warehouse on disk, in child processes whose memory is measured (`ru_maxrss`, vectors included).
Beside the clock stand the seconds of the processor, both cores added; the share that 1% more costs is judged by the
clock, which is what people wait for. Vectors are drawn around one centre for 50 of
them on the unit sphere; real texts come in groups too.

Figures are kept in `.cache/` step by step, so a benchmark that was stopped goes on with the step it was at; a change of
the code that decides a figure starts it anew. The first 1% comes after a batch, which changes the values of all; the
second comes while people answer, as most do, and changes few.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness import CACHE, ROOT, Figures, write_json

ITEMS, DIMENSION, CLASSES = 1_000_000, 384, 8
PER_CENTRE = 50
BATCH, LABELLED, NEIGHBORS = 1000, 256, 10
SLOPE_ITEMS = (250_000, 500_000)
SAMPLED = 500
CHUNK = 50_000
SOURCES = ("active", "features", "warehouse", "benchmarks/selection/scale.py")
STEPS = ("fill", "all", "after a batch", "1% more")


def scale(items: int = ITEMS) -> Figures:
    """Seconds by step, peak memory and recall at `items`, at a quarter and a half of a million, for the slope."""
    found: Figures = {}
    for count in sorted({*(min(some, items) for some in SLOPE_ITEMS), items}):
        found[str(count)] = _measured(count)
        print(f"{count} items: {found[str(count)]}", file=sys.stderr, flush=True)
    return {"dimension": DIMENSION, "batch": BATCH, "items": found}


def _measured(count: int) -> Figures:
    """The figures of one size; steps that are kept from before are not run again."""
    from benchmarks.selection.strategies import fingerprint

    folder = CACHE / "selection" / f"scale-{fingerprint(SOURCES)}" / str(count)
    folder.mkdir(parents=True, exist_ok=True)
    known = folder / "figures.json"
    found: Figures = json.loads(known.read_text("utf-8")) if known.is_file() else {}
    for step in STEPS:
        if step not in found:
            call = [sys.executable, "-m", "benchmarks.selection.scale", str(count), str(folder), step]
            settings = {"OMP_NUM_THREADS": "2", **os.environ}
            ended = subprocess.run(call, check=True, env=settings, cwd=ROOT, stdout=subprocess.PIPE, text=True)
            found[step] = json.loads(ended.stdout.splitlines()[-1])
            write_json(found, known)
    for name in ("lake", "index"):
        shutil.rmtree(folder / name, ignore_errors=True)
    whole, after, more = (_summed(found[step]) for step in STEPS[1:])
    more, after = ({**added, **shares(added, whole)} for added in (more, after))
    return {**whole, "adding_1_percent": more, "adding_1_percent_after_a_batch": after}


def shares(added: Figures, whole: Figures) -> dict[str, float]:
    """What adding took of what the whole took: `share` by the clock, and `processor_share`."""
    kinds = {"share": "seconds", "processor_share": "processor_seconds"}
    return {name: round(added[kind]["all"] / whole[kind]["all"], 4) for name, kind in kinds.items()}


def _summed(step: Figures) -> Figures:
    kinds = ("seconds", "processor_seconds")
    laps = {kind: {**step[kind], "all": round(sum(step[kind].values()), 1)} for kind in kinds}
    return {**step, **laps}


class _Step:
    """One step: its part of the warehouse, and what is known of it."""

    def __init__(self, count: int, folder: Path) -> None:
        from features.neighbors.faiss_index import IndexConfig
        from warehouse import Lake

        self.count, self.lake = count, Lake(folder / "lake")
        self.config = IndexConfig(folder=folder / "index")
        self.figures: Figures = {"seconds": {}, "processor_seconds": {}}

    @cached_property
    def index(self) -> Any:
        from features.neighbors.faiss_index import open_index

        return open_index(self.lake, self.config, "e")

    def lap(self, name: str, work: Callable[[], Figures]) -> None:
        """Measure some work and keep its time and what it tells."""
        clock, processor = time.monotonic(), time.process_time()
        self.figures |= work()
        self.figures["seconds"][name] = round(time.monotonic() - clock, 1)
        self.figures["processor_seconds"][name] = round(time.process_time() - processor, 1)

    def fill(self, first: int, last: int) -> None:
        """Put items from one number to another into the warehouse."""
        for start in range(first, last, CHUNK):
            with self.lake.stage(f"fill {start}", version=1, inputs=()) as stage:
                if not stage.done:
                    stage.commit(_rows(self.count, start, min(start + CHUNK, last)))

    def run(self) -> None:
        """The stages of a run; then peak memory, how the neighbours were found, and the share of true ones."""
        from active.selection.stage import SelectConfig, select
        from active.value.stage import ValueConfig, estimate_values
        from features.neighbors.faiss_index import build_index
        from features.neighbors.search import brute_force

        values = ValueConfig(neighbors=NEIGHBORS)
        batch = SelectConfig(project="p", batch=BATCH, budget=10 * BATCH, neighbors=NEIGHBORS)

        def stage(result: Any) -> Figures:
            return {f"{name}_written": rows for name, rows in result.rows_written.items()}

        self.lap("vectors", lambda: stage(build_index(self.lake, self.config, "e", lambda: self.index)))
        self.lap(f"{NEIGHBORS} neighbours", lambda: {"found": len(self.index.neighbors(NEIGHBORS)[1])})
        self.lap("graph and values", lambda: stage(estimate_values(self.lake, self.index, values)))
        self.lap(f"batch of {BATCH}", lambda: stage(select(self.lake, self.index, batch)))
        self.figures["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 2)
        sampled = np.sort(np.random.default_rng(1).choice(len(self.index), SAMPLED, replace=False))
        _, truth = brute_force(self.index.vectors, sampled, NEIGHBORS)
        found = self.index.neighbors(NEIGHBORS)[1][sampled]
        shared = (truth[:, :, None] == found[:, None, :]).any(axis=2)
        self.figures |= {"recall_at_10": round(float(shared.mean()), 4), "index": "exact"}
        for file in self.config.folder.glob("*.neighbors-*.npz"):
            with np.load(file) as lists:
                if "centres" in lists:  # large pools have inverted lists
                    kind = f"inverted lists, {len(lists['centres'])}, {int(lists['looked'])} looked into"
                    self.figures["index"] = kind


def _rows(count: int, start: int, end: int) -> list[Any]:
    """Some items with vectors and predictions; with the first come the model and the labels that were asked for."""
    import pyarrow as pa

    from warehouse import Append, matrix_to_list_array

    n, generator = end - start, np.random.default_rng([0, start])
    ids = [f"{(number * 2_654_435_761) % 2**32:08x}" for number in range(start, end)]  # those to come lie among others
    probs = generator.dirichlet(np.full(CLASSES, 0.3), n).astype(np.float32)
    items: Figures = {"item_id": ids, "content": ids, "content_hash": ids, "modality": ["text"] * n, "source": [""] * n}
    items |= {"position": np.arange(start, end), "metadata": ["{}"] * n, "split": ["train"] * n}
    vectors: Figures = {"item_id": ids, "encoder_id": ["e"] * n, "content_hash": ids, "tokens": [8] * n}
    vectors |= {"vector": matrix_to_list_array(_vectors(count // PER_CENTRE, n, generator)), "truncated": [False] * n}
    vectors |= {"active_frac": [1.0] * n, "route": [""] * n}
    predicted: Figures = {"item_id": ids, "end_model_id": ["m"] * n, "probs": matrix_to_list_array(probs)}
    predicted |= {"class_id": probs.argmax(axis=1), "confidence": probs.max(axis=1)}
    rows = {"items": items, "vectors": vectors, "predictions": predicted}
    if start == 0:
        m, asked = LABELLED, ids[:LABELLED]
        rows["classes"] = {"class_id": range(CLASSES), "name": [str(number) for number in range(CLASSES)]}
        rows["models"] = {"model_id": ["m"], "stage": ["end_model"], "kind": [""], "gold_labels": [m], "items": [m]}
        rows["models"] |= {"sequence": [1], "detail": ["{}"]}
        queue: Figures = {"item_id": asked, "project": ["before"] * m, "state": ["answered"] * m, "cycle": [0] * m}
        queue |= {"rank": range(m), "value": [1.0] * m, "reason": [""] * m, "prediction": [0] * m, "task_id": [""] * m}
        rows["queue"] = {**queue, "confidence": [1.0] * m, "content_hash": asked}
    return [Append(table, pa.table(content)) for table, content in rows.items()]


def _vectors(centres: int, count: int, generator: np.random.Generator) -> npt.NDArray[np.float32]:
    middles = np.random.default_rng(0).standard_normal((centres, DIMENSION), dtype=np.float32)
    vectors = middles[generator.integers(0, centres, count)]
    vectors += 0.8 * generator.standard_normal(vectors.shape, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def main(count: int, folder: Path, name: str) -> None:
    """Do one step, in this process, and print its figures."""
    step, more = _Step(count, folder), count // 100
    if name == STEPS[0]:
        step.fill(0, count)
    else:
        number = STEPS.index(name) - 1
        step.fill(count + max(0, number - 1) * more, count + number * more)
        step.run()
    print(json.dumps(step.figures))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(json.dumps(_measured(int(sys.argv[1])), indent=1))
    else:
        main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
