"""Encoders in this process: a tokenizer, the queue of `engine.batching`, and worker threads that each use one core.

Batches go to whichever worker is free. Every product runs on a single thread, so neither the number of workers nor the
batch that a text is in changes a bit of its vector.
"""

import hashlib
import json
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Literal, overload

import numpy as np
import torch

from engine.batching import Packed, Request, Scheduler
from engine.client import DEFAULT_ACTIVE, Encoding, Progress, Vectors
from engine.config import EncoderConfig, RoutedConfig
from engine.encoder import Pack, pack
from engine.errors import NumericError, OptionError
from engine.native import int8_forward
from engine.products import MOST_ROWS, stable_rows, use_least_rows
from engine.quantize import Int8Weights
from engine.quantized_file import read_quantized
from engine.routed import RoutedEncoder
from engine.streamed import streamed_dense, streamed_routed
from engine.streaming import TensorFile, dense_int8, load_dense_model, load_routed_model, routed_int8
from engine.tokenizer import TextTokenizer, Tokens, check_texts
from engine.trace import LayerTrace, text_traces
from engine.weights import MINILM, package_files, package_folder, shipped_routed

CODE_VERSION = 3
"""Part of every encoder_id. Raise it when the engine's code changes any output bit."""

DEFAULT_MAX_TOKENS = 256
MIN_TOKENS = 3
WEIGHTS = "model.safetensors"
WINDOW_TEXTS = 2048
BITS = {"int8": 8, "int4": 4}
_ARITHMETIC = {"int4": "int4, query, key and value int8"}
"""Part of the encoder_id where the precision's name does not say it."""

_starting = threading.Lock()


Compute = Callable[[Pack, bool], Packed]
"""A model: called with a pack and whether the routes are wanted."""


class LocalEncoder:
    """An `engine.client.Encoder` in this process. Safe to use from several threads.

    Args:
        compute: the model.
        shapes: of its weight matrices.
        tokenizer: its tokenizer.
        encoder_id: its name.
        dimension: D.
        max_tokens: the tokenizer's limit.
        threads: worker threads.

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
    ) -> None:
        self.encoder_id = encoder_id
        self.dimension = dimension
        self.max_tokens = max_tokens
        self._tokenizer = tokenizer
        self.scheduler = Scheduler(
            partial(_pack_and_compute, compute),
            _single_core_workers(threads, shapes),
            slots=threads,
            dimension=dimension,
        )
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
            active_frac=np.ones(count, np.float32),
            routes=[""] * count,
        )
        parts: SimpleQueue[int] = SimpleQueue()
        waiting: deque[tuple[int, int, Request]] = deque()
        done = 0
        try:
            # Token ids of two windows are held at a time: one is computed while the next one is made.
            for start in range(0, count, WINDOW_TEXTS):
                window = self._tokenizer.encode(checked[start : start + WINDOW_TEXTS])
                stop = start + len(window)
                result.tokens[start:stop] = [len(tokens.ids) for tokens in window]
                result.truncated[start:stop] = [tokens.truncated for tokens in window]
                request = self.scheduler.submit([tokens.ids for tokens in window], traced=traced, told=parts.put)
                waiting.append((start, stop, request))
                while waiting and (len(waiting) > 1 or stop == count):
                    while done < waiting[0][1]:
                        done += parts.get()
                        if progress is not None:
                            progress(done, count)
                    _copy(result, *waiting.popleft())
        finally:
            for _, _, request in waiting:  # after an error or an interrupt nobody waits for the rest
                request.cancel()
        return result


def _copy(result: Encoding, start: int, stop: int, request: Request) -> None:
    try:
        answer = request.answer.result().checked()
    except NumericError as error:
        raise NumericError(str(error), tuple(start + index for index in error.indexes)) from error
    result.vectors[start:stop] = answer.vectors
    result.active_frac[start:stop] = answer.active_frac
    result.routes[start:stop] = answer.routes


def _pack_and_compute(compute: Compute, sequences: list[list[int]], traced: bool) -> Packed:
    with torch.inference_mode():
        return compute(pack(sequences), traced)


def load_dense(
    *, max_tokens: int | None, threads: int | None, precision: str = "fp32", memory_budget: int | None = None
) -> LocalEncoder:
    """The dense parent all-MiniLM-L6-v2; see `engine.client.load_encoder`."""
    files = package_files(MINILM, without=WEIGHTS)
    config = EncoderConfig.from_json(files["config.json"], files["1_Pooling/config.json"])
    streamed = None
    file = TensorFile(package_folder(MINILM) / WEIGHTS, MINILM.sha256[WEIGHTS])
    if precision != "fp32":
        with file:
            return int8_client(
                dense_int8(file, config, BITS[precision]),
                files["tokenizer.json"],
                sha256=MINILM.sha256,
                precision=precision,
                max_tokens=max_tokens,
                threads=threads,
            )
    if memory_budget is not None:
        streamed = streamed_dense(file, config, memory_budget)
    model = streamed or load_dense_model(file, config)
    if streamed is None:
        file.close()
    limit = _limit(max_tokens, model.config)

    def compute(batch: Pack, traced: bool) -> Packed:
        vectors = model(batch)
        return Packed(vectors, [1.0] * len(vectors), [""] * len(vectors))

    return LocalEncoder(
        compute,
        model.shapes(),
        TextTokenizer(files["tokenizer.json"], vocab=model.config.vocab, max_tokens=limit),
        encoder_id=make_encoder_id("dense", MINILM.sha256, max_tokens=limit, precision="float32"),
        dimension=model.config.width,
        max_tokens=limit,
        threads=1 if streamed is not None else threads or torch.get_num_threads(),
    )


def load_routed(
    path: Path | None,
    *,
    active: float,
    max_tokens: int | None,
    threads: int | None,
    precision: str = "fp32",
    memory_budget: int | None = None,
) -> LocalEncoder:
    """A routed encoder from its file, the shipped one when None; see `engine.client.load_encoder`.

    Raises:
        OptionError: an argument is out of range.
    """
    if path is None:
        path, sha256 = shipped_routed()
    else:
        sha256 = None
    file = TensorFile(path, sha256)
    hashes = {"encoder": file.sha256}
    if precision != "fp32":
        with file:
            weights, tokenizer = routed_int8(file, BITS[precision])
            return int8_client(
                weights,
                tokenizer,
                sha256=hashes,
                precision=precision,
                active=active,
                max_tokens=max_tokens,
                threads=threads,
            )
    streamed = None if memory_budget is None else streamed_routed(file, memory_budget)
    model, tokenizer = streamed or load_routed_model(file)
    if streamed is None:
        file.close()
    else:
        threads = 1
    return routed_client(
        model,
        tokenizer,
        sha256=hashes,
        active=active,
        max_tokens=max_tokens,
        threads=threads,
    )


def load_quantized(
    path: Path, *, active: float | None, max_tokens: int | None, threads: int | None, precision: str
) -> LocalEncoder:
    """A file that `engine.quantized_file` wrote; see `engine.client.load_encoder`.

    Raises:
        OptionError: the file has another precision, or an argument is out of range.
        ModelFileError: the file is damaged.
    """
    with TensorFile(path, None) as file:
        weights, tokenizer = read_quantized(file)
        if BITS.get(precision) != weights.bits:
            raise OptionError(
                f"{path.name} has the precision 'int{weights.bits}', and '{precision}' is wanted. Set the precision to "
                f"'int{weights.bits}', or name the encoder that the file was made from."
            )
        if active is not None and isinstance(weights.config, EncoderConfig):
            raise OptionError(f"active is {active}; the encoder in {path.name} is dense and has no budget.")
        return int8_client(
            weights,
            tokenizer,
            sha256={"encoder": file.sha256},
            precision=precision,
            active=DEFAULT_ACTIVE if active is None else active,
            max_tokens=max_tokens,
            threads=threads,
        )


def routed_client(
    model: RoutedEncoder,
    tokenizer: bytes,
    *,
    sha256: Mapping[str, str],
    active: float,
    max_tokens: int | None = None,
    threads: int | None = None,
) -> LocalEncoder:
    """An encoder around a routed model.

    Args:
        model: the model.
        tokenizer: content of its tokenizer.json.
        sha256: of what it was made from, for its name.
        active: its budget.
        max_tokens: longest text in tokens.
        threads: worker threads.

    Raises:
        OptionError: there is no such budget, or the limit is out of range.
        ModelFileError: the tokenizer does not fit the model.
    """
    config = model.config
    budget, limit = config.budget(active), _limit(max_tokens, config.base)

    def compute(batch: Pack, traced: bool) -> Packed:
        layers: list[LayerTrace] | None = [] if traced else None
        vectors = model(batch, budget, layers)
        if layers is None:
            return Packed(vectors, (), ())
        traces = text_traces(config, layers, batch)
        return Packed(vectors, [trace.active_frac for trace in traces], [trace.to_json() for trace in traces])

    return LocalEncoder(
        compute,
        model.shapes(),
        TextTokenizer(tokenizer, vocab=config.base.vocab, max_tokens=limit),
        encoder_id=make_encoder_id(f"routed{active:g}", sha256, max_tokens=limit, precision="float32"),
        dimension=config.base.width,
        max_tokens=limit,
        threads=threads or torch.get_num_threads(),
    )


def int8_client(
    weights: Int8Weights,
    tokenizer: bytes,
    *,
    sha256: Mapping[str, str],
    precision: str,
    active: float = 1.0,
    max_tokens: int | None = None,
    threads: int | None = None,
) -> LocalEncoder:
    """An encoder around int8 weights, dense or routed.

    Args:
        weights: the model.
        tokenizer: content of its tokenizer.json.
        sha256: of what it was made from, for its name.
        precision: "int8" or "int4", for its name.
        active: budget of a routed model; a dense one has none.
        max_tokens: longest text in tokens.
        threads: worker threads.

    Raises:
        OptionError: there is no such budget, or the limit is out of range.
        ModelFileError: the tokenizer does not fit the model.
    """
    config = weights.config
    routed = config if isinstance(config, RoutedConfig) else None
    base = config if isinstance(config, EncoderConfig) else config.base
    budget = 0 if routed is None else routed.budget(active)
    limit, (forward, _) = _limit(max_tokens, base), int8_forward(weights)

    def compute(batch: Pack, traced: bool) -> Packed:
        layers: list[LayerTrace] | None = [] if traced else None
        vectors = forward(batch, budget, layers)
        if layers is None or routed is None:
            return Packed(vectors, [1.0] * len(vectors), [""] * len(vectors))
        traces = text_traces(routed, layers, batch)
        return Packed(vectors, [trace.active_frac for trace in traces], [trace.to_json() for trace in traces])

    kind = f"dense-{precision}" if routed is None else f"routed{active:g}-{precision}"
    return LocalEncoder(
        compute,
        (),  # its products are exact, so their number of rows needs no measurement
        TextTokenizer(tokenizer, vocab=base.vocab, max_tokens=limit),
        encoder_id=make_encoder_id(kind, sha256, max_tokens=limit, precision=_ARITHMETIC.get(precision, precision)),
        dimension=base.width,
        max_tokens=limit,
        threads=threads or torch.get_num_threads(),
    )


def _limit(max_tokens: int | None, config: EncoderConfig) -> int:
    limit = min(DEFAULT_MAX_TOKENS, config.positions) if max_tokens is None else max_tokens
    if not MIN_TOKENS <= limit <= config.positions:
        raise OptionError(f"max_tokens is {limit}; the model takes {MIN_TOKENS} to {config.positions}.")
    return limit


def make_encoder_id(kind: str, sha256: Mapping[str, str], *, max_tokens: int, precision: str) -> str:
    """Name of an encoder from all that decides its output, such as `dense-256-3f0c9a1b2d4e`.

    Args:
        kind: kind of encoder.
        sha256: of each model file, by name.
        max_tokens: longest text in tokens.
        precision: number format of the arithmetic.
    """
    parts = {
        "kind": kind,
        "files": dict(sha256),
        "max_tokens": max_tokens,
        "precision": precision,
        "most_rows": MOST_ROWS,
        "code": CODE_VERSION,
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8")).hexdigest()
    return f"{kind}-{max_tokens}-{digest[:12]}"


def _single_core_workers(threads: int, shapes: tuple[tuple[int, int], ...]) -> ThreadPoolExecutor:
    """Threads in which torch uses one core each; all other threads keep the number that they have."""
    with _starting:
        before = torch.get_num_threads()
        # set_num_threads binds the thread that calls it, and is also what threads started later begin with. So all
        # workers start now, held by one barrier, and the number is put back for the others.
        everyone = threading.Barrier(threads + 1)
        workers = ThreadPoolExecutor(threads, "encoder", initializer=_use_one_core)
        for _ in range(threads):
            workers.submit(everyone.wait)
        everyone.wait()
        torch.set_num_threads(before)
    # Measured in a worker, because it is the worker's products that must not depend on their number of rows.
    least = workers.submit(stable_rows, shapes).result()
    ready = threading.Barrier(threads)
    for future in [workers.submit(_use_rows, least, ready) for _ in range(threads)]:
        future.result()
    return workers


def _use_rows(least: int, ready: threading.Barrier) -> None:
    use_least_rows(least)
    ready.wait()  # so that each worker takes exactly one of these


def _use_one_core() -> None:
    # A thread takes over torch's process-wide number at its first question or parallel loop, and would forget what was
    # set before that. So ask first.
    torch.get_num_threads()
    torch.set_num_threads(1)
