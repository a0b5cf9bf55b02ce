"""A lane: one of several batches in work, with a process of its own for users' Python functions.

Patterns run in the lane's thread, since pyarrow lets other threads work meanwhile; Python functions of a file run in
the lane's `Worker`, which is started when the first of them is called.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from weak_labels.applying.progress import Rows
from weak_labels.applying.worker import Worker
from weak_labels.functions.call import Limits, Outcome, call_function
from weak_labels.functions.types import ItemBatch, LabelingFunction


class Lane:
    """Calls functions on one batch at a time. A context manager; used by one thread at a time.

    Args:
        functions: all functions of the run.
        classes: class names.
        timeout_s: seconds for one call of a Python function.
    """

    def __init__(self, functions: Sequence[LabelingFunction], classes: Sequence[str], timeout_s: float) -> None:
        versions: dict[Path, dict[str, str]] = {}
        for function in functions:
            if function.is_python and function.source is not None:
                versions.setdefault(function.source, {})[function.name] = function.version
        self._workers = {path: Worker(path, classes, known, timeout_s) for path, known in versions.items()}
        self._with_vectors = any(function.uses_vectors for function in functions if function.is_python)
        self._stack = ExitStack()
        self._batch: ItemBatch | None = None
        self._part: tuple[Rows, ItemBatch] | None = None
        self._sent: set[Path] = set()

    def __enter__(self) -> Self:
        for worker in self._workers.values():
            self._stack.enter_context(worker)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def begin(self, batch: ItemBatch) -> None:
        """Take the batch that the next calls are about."""
        self._batch = batch
        self._part = None
        self._sent.clear()

    def call(self, function: LabelingFunction, rows: Rows, limits: Limits) -> Outcome:
        """Call a function on some rows of the batch; see `call_function`."""
        assert self._batch is not None, "begin comes before call"
        if function.is_python and function.source is not None:
            worker = self._workers[function.source]
            if function.source not in self._sent:
                worker.send(self._batch, with_vectors=self._with_vectors)
                self._sent.add(function.source)
            return worker.call(function, rows, limits)
        if len(rows) == len(self._batch):
            return call_function(function, self._batch, limits)
        # Functions of a group are called one after another, mostly on the very same rows.
        if self._part is None or self._part[0] is not rows:
            self._part = (rows, self._batch.take(rows))
        return call_function(function, self._part[1], limits)
