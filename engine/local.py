"""The dense encoder in this process: tokens, packs of texts, and worker threads that each use one core.

Packs go to whichever worker is free. Every GEMM runs on a single thread, so neither the number of workers nor the
pack that a text is in changes a bit of its vector.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed

import numpy as np
import torch

from engine.client import Encoding, Progress, Vectors
from engine.config import EncoderConfig
from engine.encoder import BLOCK_ROWS, DenseEncoder, dense_encoder, pack
from engine.errors import NumericError, OptionError
from engine.tokenizer import TextTokenizer, Tokens, check_texts
from engine.weights import MINILM, encoder_tensors, package_files, read_tensors

CODE_VERSION = 2
"""Part of every encoder_id. Raise it when the engine's code changes any output bit."""

DEFAULT_MAX_TOKENS = 256
MIN_TOKENS = 3
PACK_TOKENS = 1024
WINDOW_TEXTS = 2048
UNIT_TOLERANCE = 1e-3

_starting = threading.Lock()


class DenseClient:
    """An `engine.client.Encoder`; made by `load_dense`. Safe to use from several threads.

    Args:
        model: the encoder, with its weights.
        tokenizer: its tokenizer.
        encoder_id: its name.
        max_tokens: the tokenizer's limit.
        threads: worker threads.
    """

    def __init__(
        self, model: DenseEncoder, tokenizer: TextTokenizer, *, encoder_id: str, max_tokens: int, threads: int
    ) -> None:
        self.encoder_id = encoder_id
        self.dimension = model.config.width
        self.max_tokens = max_tokens
        self._model = model
        self._tokenizer = tokenizer
        self._threads = threads
        self._workers = _single_core_workers(threads)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `Encoder.encode`."""
        return self.embed(texts).vectors

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Encoding:
        """See `Encoder.embed`."""
        checked = check_texts(texts)
        count = len(checked)
        result = Encoding(
            vectors=np.empty((count, self.dimension), np.float32),
            tokens=np.empty(count, np.int32),
            truncated=np.empty(count, np.bool_),
            active_frac=np.ones(count, np.float32),
            routes=[""] * count,
        )
        # Token ids of one window are held at a time, so memory does not grow with them.
        for start in range(0, count, WINDOW_TEXTS):
            window = self._tokenizer.encode(checked[start : start + WINDOW_TEXTS])
            stop = start + len(window)
            result.tokens[start:stop] = [len(tokens.ids) for tokens in window]
            result.truncated[start:stop] = [tokens.truncated for tokens in window]
            done = start
            for members, vectors in self._encode_window(window):
                result.vectors[start + members] = vectors
                done += len(members)
                if progress is not None:
                    progress(done, count)
        _check_unit(result.vectors)
        return result

    def _encode_window(self, window: list[Tokens]) -> Iterator[tuple[np.ndarray, Vectors]]:
        lengths = np.array([len(tokens.ids) for tokens in window])
        # A pack smaller than one block would compute filling rows only to keep a worker busy.
        limit = min(PACK_TOKENS, max(BLOCK_ROWS, -(-int(lengths.sum()) // self._threads)))
        futures: dict[Future[Vectors], np.ndarray] = {}
        try:
            for members in packs_by_length(lengths, limit):
                sequences = [window[index].ids for index in members]
                futures[self._workers.submit(self._encode_pack, sequences)] = members
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            for future in futures:  # after an error or an interrupt nobody waits for the rest
                future.cancel()

    def _encode_pack(self, sequences: list[list[int]]) -> Vectors:
        with torch.inference_mode():
            return self._model(pack(sequences)).numpy()


def load_dense(*, max_tokens: int | None, threads: int | None) -> DenseClient:
    """The dense parent all-MiniLM-L6-v2; see `engine.client.load_encoder`."""
    files = package_files(MINILM)
    config = EncoderConfig.from_json(files["config.json"], files["1_Pooling/config.json"])
    limit = DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens
    if not MIN_TOKENS <= limit <= config.positions:
        raise OptionError(f"max_tokens is {limit}; the model takes {MIN_TOKENS} to {config.positions}.")
    tensors = read_tensors(files["model.safetensors"], encoder_tensors(config), name="model.safetensors")
    return DenseClient(
        dense_encoder(config, tensors),
        TextTokenizer(files["tokenizer.json"], vocab=config.vocab, max_tokens=limit),
        encoder_id=make_encoder_id("dense", MINILM.sha256, max_tokens=limit, precision="float32"),
        max_tokens=limit,
        threads=threads or torch.get_num_threads(),
    )


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
        "block_rows": BLOCK_ROWS,
        "code": CODE_VERSION,
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8")).hexdigest()
    return f"{kind}-{max_tokens}-{digest[:12]}"


def packs_by_length(lengths: np.ndarray, limit: int) -> list[np.ndarray]:
    """Indexes of texts cut into packs of at most `limit` tokens; a longer text is a pack of its own.

    Equal lengths stand together, and the longest come first, so that no worker is left with a long pack at the end.

    Args:
        lengths: [N] tokens of each text.
        limit: tokens of a pack.
    """
    order = np.argsort(-lengths, kind="stable")
    packs: list[np.ndarray] = []
    start = tokens = 0
    for place, length in enumerate(lengths[order]):
        if place > start and tokens + length > limit:
            packs.append(order[start:place])
            start, tokens = place, 0
        tokens += length
    if len(order):
        packs.append(order[start:])
    return packs


def _check_unit(vectors: Vectors) -> None:
    squares = np.einsum("nd,nd->n", vectors, vectors)
    wrong = np.flatnonzero(~(np.abs(squares - 1.0) < UNIT_TOLERANCE))  # a NaN compares false, so it is found too
    if wrong.size:
        raise NumericError(
            f"The encoder gave no unit vector for {wrong.size} of {len(vectors)} texts, the first is text {wrong[0]}. "
            "Its weights passed their check, so look at the machine's memory first.",
            tuple(int(index) for index in wrong),
        )


def _single_core_workers(threads: int) -> ThreadPoolExecutor:
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
    return workers


def _use_one_core() -> None:
    # A thread takes over torch's process-wide number at its first question or parallel loop, and would forget what was
    # set before that. So ask first.
    torch.get_num_threads()
    torch.set_num_threads(1)
