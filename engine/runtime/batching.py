"""One queue in front of a model: texts of many callers go in, batches of a few hundred tokens come out.

One thread owns the queue. Whenever a worker is free it takes the next texts up to a budget of tokens, so that a batch
leaves as soon as another one is done and nobody waits for a batch to fill up or for its slowest member. Nothing is
padded (`engine.model.dense.Pack`), so texts of any lengths go together. The pipeline and the server use this same
queue.

Callers take turns: a batch is filled with one text of each waiting request, round after round, so a text waits for at
most one text of every other request. A text that no longer fits opens the next batch. A batch that fails is computed
again text by text, so that a text which cannot be computed fails alone. Whatever happens, every request is answered.
"""

import heapq
import itertools
import math
import os
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import partial

import numpy as np

from engine.errors import DeadlineError, EngineError, NumericError, OverloadError, WorkerError
from engine.runtime.admission import Pace
from engine.runtime.request import BatchReport, Packed, Request, Room

BATCH_TOKENS = 1024
"""Most tokens of a batch; a longer text is a batch of its own. More would leave the cache."""
LEAST_TOKENS = 64
"""Fewer tokens are not spread over several workers: that would only make products of few rows."""
UNIT_TOLERANCE = 1e-3
_CLOSE_S = 10.0

_Entry = tuple[Request, int]


class Scheduler:
    """The queue and the thread that owns it.

    Args:
        compute: a model: token ids of several texts, and whether the routes are wanted.
        workers: runs it, on `slots` threads.
        slots: batches at a time.
        dimension: D.

    Attributes:
        room: how much may wait; None for a caller that bounds itself.
        batch_tokens: most tokens of a batch.
        on_batch: told of each finished batch, in the thread that computed it.
        stall_s: seconds after which a batch that is not done means that its worker is dead.
        grace_s: seconds that it has yet from when this is first seen: a process that stood still wakes to old batches.
    """

    def __init__(
        self, compute: Callable[[list[list[int]], bool], Packed], workers: Executor, *, slots: int, dimension: int
    ) -> None:
        self.room: Room | None = None
        self.batch_tokens = BATCH_TOKENS
        self.on_batch: Callable[[BatchReport], None] | None = None
        self.stall_s = 120.0
        self.grace_s = 5.0
        self._compute, self._workers, self._slots, self._dimension = compute, workers, slots, dimension
        self._changed = threading.Condition()
        self._ring: OrderedDict[Request, None] = OrderedDict()
        self._singly: deque[_Entry] = deque()
        self._deadlines: list[tuple[float, int, weakref.ref[Request]]] = []  # an answered one holds its vectors
        self._numbers = itertools.count()
        self._running: dict[int, tuple[float, list[_Entry]]] = {}
        self._entries = self._tokens = 0
        self._pace = Pace()
        self._closed = self._draining = False
        self._pauses = 0
        self._dead: str | None = None
        self._late_at: float | None = None
        self._process = os.getpid()
        self._owner = threading.Thread(target=self._own, name="queue", daemon=True)
        self._owner.start()

    # --- for callers -------------------------------------------------------------------------------------------------

    def submit(
        self,
        sequences: Sequence[list[int]],
        *,
        traced: bool = False,
        deadline: float | None = None,
        told: Callable[[int], None] | None = None,
    ) -> Request:
        """Put texts into the queue, all of them or none.

        Args:
            sequences: token ids of N texts, none empty.
            traced: the routes are wanted.
            deadline: on the clock of `time.monotonic`; texts that wait longer fail with a DeadlineError.
            told: called with a number of tokens whenever texts of so many are done or have failed, until all are.

        Raises:
            OverloadError: there is no room; nothing was put in.
            WorkerError: no worker will ever take it.
        """
        if self._is_forked():  # before the lock, which another thread may have held at that moment
            raise WorkerError(
                f"The encoder was loaded in process {self._process}, and this is a fork of it, without its threads. "
                "Start processes by 'spawn' (multiprocessing.get_context), and load an encoder in each."
            )
        request = Request(sequences, self._dimension, traced=traced, told=told, drop=self.cancel)
        tokens = sum(map(len, sequences))
        with self._changed:
            self._check(len(sequences), tokens)
            if not sequences:
                request.answer.set_result(request.result)
                return request
            if not (self._ring or self._singly or self._running):
                self._pace.begin(time.monotonic())
            self._entries += len(sequences)
            self._tokens += tokens
            self._ring[request] = None
            if deadline is not None:
                if len(self._deadlines) > 2 * len(self._ring) + 64:
                    self._deadlines = [entry for entry in self._deadlines if _open(entry[2]())]
                    heapq.heapify(self._deadlines)
                heapq.heappush(self._deadlines, (deadline, next(self._numbers), weakref.ref(request)))
            self._changed.notify_all()
        return request

    def cancel(self, request: Request) -> None:
        """See `Request.cancel`."""
        with self._changed:
            self._forget(request)
            request.answer.cancel()

    @property
    def queued(self) -> tuple[int, int]:
        """Texts and tokens that wait, those being computed left out."""
        return self._entries, self._tokens

    @property
    def dead(self) -> str | None:
        """Why no text will be computed any more; None while all is well."""
        with self._changed:
            now = time.monotonic()
            oldest = min((began for began, _ in self._running.values()), default=now)
            if now - oldest <= self.stall_s:
                self._late_at = None
            elif self._late_at is None:
                self._late_at = now  # the whole process may have stood still, and the batch be done in a moment
            elif self._dead is None and now - self._late_at > self.grace_s:
                self._die(f"a batch is not done after {self.stall_s:g} s")
            return self._dead

    def full(self, coming: Room | None = None) -> bool:
        """There is no room for even one more short text.

        Args:
            coming: what is on its way here and takes room before it.
        """
        room, more = self.room, coming or Room(entries=0, tokens=0)
        return room is not None and (
            self._entries + more.entries >= room.entries
            or self._tokens + more.tokens >= room.tokens
            or self._too_long(room, more.tokens)
        )

    @contextmanager
    def paused(self) -> Generator[None]:
        """No batch begins inside the block: texts are taken into the queue, wait, and keep their deadlines."""
        with self._changed:
            self._pauses += 1
        try:
            yield
        finally:
            with self._changed:
                self._pauses -= 1
                self._pace.begin(time.monotonic())
                self._changed.notify_all()

    def drain(self, timeout_s: float) -> bool:
        """Take no more texts and wait until those that are here are done.

        Args:
            timeout_s: what is not done by then fails with an OverloadError.

        Returns:
            Whether all were done in time.
        """
        end = time.monotonic() + timeout_s
        with self._changed:
            self._draining = True
            done = self._changed.wait_for(self._idle, max(0.0, end - time.monotonic()))
            if not done:
                self._answer_all(OverloadError("The server is shutting down; ask again elsewhere or later."))
            return done

    def close(self) -> None:
        """Stop the owner and wait for its end. Whoever still waits is told.

        A thread that drops the model's last tensors while the interpreter shuts down aborts the process, so the owner
        must be gone before its caller goes on.
        """
        if self._is_forked():
            return
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._owner:
            self._owner.join(_CLOSE_S)

    def _is_forked(self) -> bool:
        return os.getpid() != self._process

    # --- the owner ---------------------------------------------------------------------------------------------------

    def _own(self) -> None:
        try:
            while True:
                with self._changed:
                    self._expire()
                    while not self._closed and not self._ready():
                        self._changed.wait(self._until_deadline())
                        self._expire()
                    if self._closed or self._dead is not None:
                        return
                    batch = self._take()
                    number = next(self._numbers)
                    self._running[number] = (time.monotonic(), batch)
                self._start(number, batch)
                del batch  # it holds the vectors of answered requests
        finally:
            with self._changed:
                self._die(self._dead or ("the encoder was closed" if self._closed else "the queue's thread has ended"))

    def _start(self, number: int, batch: list[_Entry]) -> None:
        try:
            computed = self._workers.submit(self._run, batch)
        except RuntimeError as error:  # the workers were shut down
            with self._changed:
                self._die(f"the workers take no more batches: {error}")
            return
        computed.add_done_callback(partial(self._done, number, batch, time.monotonic()))

    def _ready(self) -> bool:
        if self._dead is not None:
            return True
        return not self._pauses and bool(self._ring or self._singly) and len(self._running) < self._slots

    def _idle(self) -> bool:
        return self._dead is not None or not (self._ring or self._singly or self._running)

    def _until_deadline(self) -> float | None:
        return max(0.0, self._deadlines[0][0] - time.monotonic()) if self._deadlines else None

    def _expire(self) -> None:
        now = time.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            request = heapq.heappop(self._deadlines)[2]()
            if request is not None and (late := self._forget(request)):
                waited = now - request.began
                error = DeadlineError(
                    f"The text waited {waited:.2f} s and its deadline passed; ask for fewer at a time."
                )
                self._settle(request, late, error)

    def _take(self) -> list[_Entry]:
        """The next batch: one text of each request in turn, as many as the budget lets in."""
        if self._singly:
            return [self._singly.popleft()]
        # With few tokens waiting, each worker gets its share of them.
        budget = min(self.batch_tokens, max(LEAST_TOKENS, math.ceil(self._tokens / self._slots)))
        batch: list[_Entry] = []
        tokens = 0
        while self._ring:
            request = next(iter(self._ring))
            length = len(request.sequences[request.waiting[0]])
            if batch and tokens + length > budget:
                break  # it stays in front
            batch.append((request, request.waiting.popleft()))
            tokens += length
            self._entries -= 1
            self._tokens -= length
            if request.waiting:
                self._ring.move_to_end(request)
            else:
                del self._ring[request]
        batch.sort(key=lambda entry: -len(entry[0].sequences[entry[1]]))
        return batch

    def _forget(self, request: Request) -> list[int]:
        """Take out what no worker has yet; its indexes."""
        taken = [*request.waiting, *(index for owner, index in self._singly if owner is request)]
        self._singly = deque(entry for entry in self._singly if entry[0] is not request)
        self._ring.pop(request, None)
        self._entries -= len(request.waiting)
        self._tokens -= sum(len(request.sequences[index]) for index in request.waiting)
        request.waiting.clear()
        return taken

    def _check(self, entries: int, tokens: int) -> None:
        if self._dead is not None:
            raise WorkerError(f"The encoder is dead: {self._dead}. Start it again.")
        if self._draining:
            raise OverloadError("The server is shutting down; ask again elsewhere or later.")
        room = self.room
        if room is None:
            return
        if self._entries + entries > room.entries or self._tokens + tokens > room.tokens:
            raise OverloadError(
                f"{self._entries} texts of {self._tokens} tokens wait already, and {entries} of {tokens} more would be "
                f"over the limit of {room.entries} texts or {room.tokens} tokens. Ask again later."
            )
        if self._too_long(room, tokens):
            raise OverloadError(
                f"{self._entries} texts wait already; with {entries} more they would take "
                f"{self._pace.seconds_for(self._tokens + tokens):.0f} s at the present pace, over the limit of "
                f"{room.seconds:g} s. Ask again later."
            )

    def _too_long(self, room: Room, tokens: int) -> bool:
        """What waits and so many tokens more take longer than the room has; where nothing waits, nothing does."""
        return self._entries > 0 and self._pace.seconds_for(self._tokens + tokens) > room.seconds

    # --- a worker ----------------------------------------------------------------------------------------------------

    def _run(self, batch: list[_Entry]) -> list[_Entry]:
        """Put the vectors of a batch into its requests' results; the texts that have none worth the name."""
        packed = self._compute(
            [request.sequences[index] for request, index in batch], any(request.traced for request, _ in batch)
        )
        vectors = packed.vectors.numpy()
        with np.errstate(over="ignore", invalid="ignore"):
            good = np.abs(np.einsum("sd,sd->s", vectors, vectors) - 1.0) < UNIT_TOLERANCE  # false for NaN
        for row, (request, index) in enumerate(batch):
            if good[row]:
                request.result.vectors[index] = vectors[row]
                if request.traced:
                    request.result.active_frac[index] = packed.active_frac[row]
                    request.result.routes[index] = packed.routes[row]
        return [entry for entry, fine in zip(batch, good, strict=True) if not fine]

    def _done(self, number: int, batch: list[_Entry], began: float, computed: Future[list[_Entry]]) -> None:
        error = computed.exception()
        now, made = time.monotonic(), 0
        with self._changed:
            self._running.pop(number, None)
            tokens = sum(len(request.sequences[index]) for request, index in batch)
            self._pace.done(tokens if error is None else 0, now, least=self.batch_tokens // 4)
            if error is None:
                wrong = computed.result()
                made = len(batch) - len(wrong)
                self._deliver(batch, wrong)
            elif len(batch) > 1:
                self._singly.extend(entry for entry in batch if not entry[0].answer.done())
            else:
                self._settle(batch[0][0], [batch[0][1]], error)
            self._changed.notify_all()
        if self.on_batch is not None:
            waited = [began - request.began for request, _ in batch]
            self.on_batch(BatchReport(len(batch), tokens, waited, now - began, error is not None, made))

    def _deliver(self, batch: list[_Entry], wrong: list[_Entry]) -> None:
        """A batch is computed; the lock is held."""
        by_request: dict[Request, list[int]] = {}
        for request, index in batch:
            if (request, index) not in wrong:
                by_request.setdefault(request, []).append(index)
        for request, indexes in by_request.items():
            self._settle(request, indexes, None)
        for request, index in wrong:
            self._settle(request, [index], NumericError("The vector is not of unit length.", (index,)))

    def _settle(self, request: Request, indexes: list[int], error: BaseException | None) -> None:
        """Some texts of a request are done; the lock is held."""
        if request.answer.done():
            return
        if error is not None:
            request.result.errors.update(dict.fromkeys(indexes, error))
        request.open -= len(indexes)
        if not request.open:
            request.answer.set_result(request.result)
        if request.told is not None:
            request.told(sum(len(request.sequences[index]) for index in indexes))

    def _answer_all(self, error: EngineError) -> None:
        """Answer everybody who still waits, also for a batch that runs; the lock is held."""
        for request in [*self._ring, *dict.fromkeys(owner for owner, _ in self._singly)]:
            self._settle(request, self._forget(request), error)
        for request, index in [entry for _, batch in self._running.values() for entry in batch]:
            self._settle(request, [index], error)
        self._running.clear()
        self._changed.notify_all()

    def _die(self, why: str) -> None:
        self._dead = self._dead or why
        self._answer_all(WorkerError(f"The encoder is dead: {self._dead}. Start it again."))


def _open(request: Request | None) -> bool:
    return request is not None and not request.answer.done()
