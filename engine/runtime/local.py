"""Encoders in this process: a tokenizer, the queue of `engine.runtime.batching`, and worker threads that each use one
core.

Batches go to whichever worker is free. Every product runs on a single thread, so neither the number of workers nor the
batch that a text is in changes a bit of its vector. On CUDA a worker only prepares and collects
(`engine.model.device`).
"""

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from typing import Literal, overload

import numpy as np
import torch

from engine.errors import NumericError, OptionError
from engine.model.dense import Pack, pack
from engine.model.deterministic import MOST_ROWS, stable_rows, use_least_rows
from engine.model.device import CUDA_BATCH_TOKENS, CUDA_ROWS, computing
from engine.model.tokenizer import TextTokenizer, Tokens, check_texts
from engine.protocol import Encoding, Progress, Vectors
from engine.runtime.batching import Scheduler
from engine.runtime.request import Packed, Request

WINDOW_TEXTS, WINDOW_CHARACTERS = 2048, 1 << 21
"""What the tokenizer is given at a time, a longer text alone. While it works it holds fifteen bytes and more for each
character that it reads."""

_starting = threading.Lock()


Compute = Callable[[Pack, bool], Packed]
"""A model: called with a pack and whether the routes are wanted."""


class LocalEncoder:
    """An `engine.protocol.Encoder` in this process. Safe to use from several threads.

    Args:
        compute: the model.
        shapes: of its weight matrices.
        tokenizer: its tokenizer.
        encoder_id: its name.
        dimension: D.
        max_tokens: the tokenizer's limit.
        threads: worker threads.
        device: where the model is.
        active: its budget; None where it has none.
        default_active, default_max_tokens: what these are when nothing is asked for; None where nobody says.

    Attributes:
        scheduler: the queue in front of the model.
    """

    def __init__(
        self,
        compute: Compute,
        shapes: tuple[tuple[int, int], ...],
        tokenizer: TextTokenizer,
        *,
        encoder_id: str,
        dimension: int,
        max_tokens: int,
        threads: int,
        device: str = "cpu",
        active: float | None = None,
        default_active: float | None = None,
        default_max_tokens: int | None = None,
    ) -> None:
        self.encoder_id = encoder_id
        self.active, self.default_active = active, default_active
        self.dimension = dimension
        self.max_tokens, self.default_max_tokens = max_tokens, default_max_tokens
        self._tokenizer = tokenizer
        self.scheduler = Scheduler(
            partial(pack_and_compute, compute, device),
            _single_core_workers(threads, shapes, device),
            slots=threads,
            dimension=dimension,
        )
        if device == "cuda":
            self.scheduler.batch_tokens = CUDA_BATCH_TOKENS
        # The queue's thread knows the scheduler only, so that an encoder nobody needs any more goes away with it.
        weakref.finalize(self, self.scheduler.close)

    @overload
    def encode(self, texts: Sequence[str], *, trace: Literal[False] = False) -> Vectors: ...

    @overload
    def encode(self, texts: Sequence[str], *, trace: Literal[True]) -> Encoding: ...

    def encode(self, texts: Sequence[str], *, trace: bool = False) -> Vectors | Encoding:
        """See `Encoder.encode`."""
        encoding = self._embed(texts, None, traced=trace)
        return encoding if trace else encoding.vectors

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Encoding:
        """See `Encoder.embed`."""
        return self._embed(texts, progress, traced=True)

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of each text. Raises: InputError as in `Encoder.embed`."""
        return self._tokenizer.encode(check_texts(texts))

    def _embed(self, texts: Sequence[str], progress: Progress | None, *, traced: bool) -> Encoding:
        checked = check_texts(texts)
        count = len(checked)
        result = Encoding(
            vectors=np.empty((count, self.dimension), np.float32),
            tokens=np.empty(count, np.int32),
            truncated=np.empty(count, np.bool_),
            unread=np.empty(count, np.float32),
            active_frac=np.ones(count, np.float32),
            routes=[""] * count,
        )
        parts: SimpleQueue[float] = SimpleQueue()
        waiting: deque[tuple[int, int, Request]] = deque()
        done = 0.0
        try:
            # Token ids of two windows are held at a time: one is computed while the next one is made.
            for start, stop in _windows(checked):
                window = self._tokenizer.encode(checked[start:stop])
                result.tokens[start:stop] = [len(tokens.ids) for tokens in window]
                result.truncated[start:stop] = [tokens.truncated for tokens in window]
                result.unread[start:stop] = [tokens.unread for tokens in window]
                ids = [tokens.ids for tokens in window]
                # The longest are computed first, so a window's texts are told by the share of its tokens.
                share = (stop - start) / sum(map(len, ids))
                request = self.scheduler.submit(
                    ids, traced=traced, told=lambda tokens, share=share: parts.put(tokens * share)
                )
                waiting.append((start, stop, request))
                while waiting and (len(waiting) > 1 or stop == count):
                    while not (waiting[0][2].answer.done() and parts.empty()):  # both are computed in turns
                        done += parts.get()
                        if progress is not None:
                            progress(min(int(done), count), count)
                    _copy(result, *waiting.popleft())
            if progress is not None and count:
                progress(count, count)
        finally:
            for _, _, request in waiting:  # after an error or an interrupt nobody waits for the rest
                request.cancel()
        return result


def _windows(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Spans of texts for the tokenizer; a text that is longer than a window has one of its own."""
    start = characters = 0
    for place, text in enumerate(texts):
        characters += len(text)
        if place > start and (place - start == WINDOW_TEXTS or characters > WINDOW_CHARACTERS):
            yield start, place
            start, characters = place, len(text)
    if start < len(texts):
        yield start, len(texts)


def _copy(result: Encoding, start: int, stop: int, request: Request) -> None:
    try:
        answer = request.answer.result().checked()
    except NumericError as error:
        raise NumericError(str(error), tuple(start + index for index in error.indexes)) from error
    result.vectors[start:stop] = answer.vectors
    result.active_frac[start:stop] = answer.active_frac
    result.routes[start:stop] = answer.routes


def pack_and_compute(compute: Compute, device: str, sequences: list[list[int]], traced: bool) -> Packed:
    """What a worker does with a batch: ids go to the device, vectors come back. Raises what `computing` raises."""
    with torch.inference_mode(), computing(device):
        packed = compute(pack(sequences).to(device), traced)
        return replace(packed, vectors=packed.vectors.cpu())


def _single_core_workers(threads: int, shapes: tuple[tuple[int, int], ...], device: str) -> ThreadPoolExecutor:
    """Threads in which torch uses one core each; all other threads keep the number that they have.

    Raises:
        OptionError: the system does not start so many.
    """
    with _starting:
        before = torch.get_num_threads()
        # set_num_threads binds the thread that calls it, and is also what threads started later begin with. So all
        # workers start now, held by one barrier, and the number is put back for the others.
        everyone = threading.Barrier(threads + 1)
        workers = ThreadPoolExecutor(threads, "encoder", initializer=_use_one_core)
        try:
            for _ in range(threads):
                workers.submit(everyone.wait)
            everyone.wait()
        except RuntimeError as error:
            everyone.abort()  # else those that did start would wait for ever, and this process for them
            workers.shutdown()
            raise OptionError(f"{threads} worker threads are more than can be started: {error}. Give fewer.") from error
        finally:
            torch.set_num_threads(before)
    # Measured in a worker, because it is the worker's products that must not depend on their number of rows.
    rows = (workers.submit(stable_rows, shapes).result(), MOST_ROWS) if device == "cpu" else (CUDA_ROWS, CUDA_ROWS)
    ready = threading.Barrier(threads)
    for future in [workers.submit(_use_rows, *rows, ready) for _ in range(threads)]:
        future.result()
    return workers


def _use_rows(least: int, most: int, ready: threading.Barrier) -> None:
    use_least_rows(least, most)
    ready.wait()  # so that each worker takes exactly one of these


def _use_one_core() -> None:
    # A thread takes over torch's process-wide number at its first question or parallel loop, and would forget what was
    # set before that. So ask first.
    torch.get_num_threads()
    torch.set_num_threads(1)
