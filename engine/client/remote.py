"""An encoder on a server of ours: the same vectors, bit for bit, from `siftline engine serve`.

A server that is full, slow or restarts is asked again, for less at a time and when it says itself, as long as something
is answered now and then. One that has become another encoder in the meantime is refused, so that no two encoders ever
mix in one result.
"""

import base64
import hashlib
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, overload

import httpx
import numpy as np
import orjson

from engine.client.adaptive_batches import CONNECTIONS, Portions
from engine.client.api_key import check_key
from engine.client.proxies import check_url, client_for, proxy_hint
from engine.errors import EngineError, InputError, NumericError, OptionError, UnavailableError
from engine.model.tokenizer import check_texts
from engine.protocol import DEFAULT_ACTIVE, ENCODERS, Encoding, Progress, Vectors

PATIENCE_S = 60.0
TIMEOUT_S = 60.0
"""So long the beginning of an answer is waited for, and then its end."""
START = "siftline engine serve"
REQUEST_TEXTS = 128
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
LARGEST_DIMENSION = 65_536
MOST_SAID = 300
"""Characters of what a server says that go into a message."""
_LIMITS = ("max_inputs", "max_body_bytes", "queue_texts", "queue_tokens")
"""Limits of `/info` that a request has to keep."""
_AGAIN = frozenset({408, 413, 429, 500, 502, 503, 504})
_TOO_MUCH = frozenset({408, 413, 429, 504})
"""Of these, the ones that less at a time may spare."""

T = TypeVar("T")


class RemoteEncoder:
    """An `engine.protocol.Encoder` that asks a server. Safe to use from several threads.

    Args:
        url: of the server, such as http://127.0.0.1:8180.
        key: its API key, where it has one.
        patience_s: so long a server that is away or full is asked again, without an answer to any request, before a
            call fails.
        start: command that starts the server, for errors to name.

    Raises:
        OptionError: what answers is no such server, or refuses the key; or the url, the key or a proxy cannot be used.
        UnavailableError: nothing answers.
    """

    def __init__(self, url: str, *, key: str | None = None, patience_s: float = PATIENCE_S, start: str = START) -> None:
        self.url, self._patience_s, self._start = url.rstrip("/"), patience_s, start
        check_url(self.url)
        headers = {} if key is None else {"Authorization": f"Bearer {check_key(key)}"}
        self._client = client_for(self.url, headers, httpx.Timeout(TIMEOUT_S, connect=5.0))
        # An encoder nobody needs any more keeps no connection; the end of the process closes all, and waits for none.
        weakref.finalize(self, self._client.close).atexit = False
        self._jitter = random.SystemRandom()
        self._portions = Portions(REQUEST_TEXTS)
        self.info = self._read_info()

    def _read_info(self) -> dict[str, Any]:
        response = self._patiently(lambda: self._request("GET", "/info"), time.monotonic(), threading.Event())
        try:
            info = cast("dict[str, Any]", orjson.loads(response.content))
            self.encoder_id = str(info["encoder_id"])
            self.dimension = int(info["dimension"])
            self.max_tokens = int(info["max_tokens"])
            limits = {name: int(info["limits"][name]) for name in _LIMITS}
            if min(self.dimension, self.max_tokens, *limits.values()) < 1:
                raise ValueError("a number below 1")
            if self.dimension > LARGEST_DIMENSION:
                raise ValueError(f"vectors of {self.dimension} numbers")
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise OptionError(
                f"{self.url}/info is not that of `siftline engine serve` ({error!r}). Check [engine] url."
            ) from error
        # A request that the whole queue cannot hold is refused for good, however short the queue is at the moment.
        held = max(1, limits["queue_tokens"] // self.max_tokens)
        self._portions = Portions(min(REQUEST_TEXTS, limits["max_inputs"], limits["queue_texts"], held))
        self._max_bytes = limits["max_body_bytes"]
        return info

    @overload
    def encode(self, texts: Sequence[str], *, trace: Literal[False] = False) -> Vectors: ...

    @overload
    def encode(self, texts: Sequence[str], *, trace: Literal[True]) -> Encoding: ...

    def encode(self, texts: Sequence[str], *, trace: bool = False) -> Vectors | Encoding:
        """See `Encoder.encode`. Raises: also UnavailableError."""
        encoding = self._embed(texts, None, trace=trace)
        return encoding if trace else encoding.vectors

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Encoding:
        """See `Encoder.embed`. Raises: also UnavailableError."""
        return self._embed(texts, progress, trace=True)

    def _embed(self, texts: Sequence[str], progress: Progress | None, *, trace: bool) -> Encoding:
        checked = check_texts(texts)
        count = len(checked)
        result = Encoding(
            vectors=np.empty((count, self.dimension), np.float32),
            tokens=np.zeros(count, np.int32),
            truncated=np.zeros(count, np.bool_),
            unread=np.zeros(count, np.float32),
            active_frac=np.ones(count, np.float32),
            routes=[""] * count,
        )
        call = _Call(texts=checked, result=result, trace=trace)
        waiting: deque[Future[int]] = deque()
        done = 0
        try:
            for start, stop in self._parts(checked):
                waiting.append(self._begin(call, start, stop))
                if len(waiting) >= 2 * CONNECTIONS:
                    done += waiting.popleft().result()
                    if progress is not None:
                        progress(done, count)
            while waiting:
                done += waiting.popleft().result()
                if progress is not None:
                    progress(done, count)
        finally:
            call.ended.set()  # after an error or an interrupt nobody waits for the rest
            for future in waiting:
                future.cancel()
        return result

    def _parts(self, texts: list[str]) -> Iterator[tuple[int, int]]:
        """Spans of texts that fit into a request, as large as one is when the span is asked for."""
        start = size = 0
        for place, text in enumerate(texts):
            length = len(orjson.dumps(text)) + 1
            if length + 200 > self._max_bytes:
                raise InputError(
                    f"Text {place} has {length} bytes; the server at {self.url} reads {self._max_bytes} in a request.",
                    {place: f"{length} bytes, more than the server reads"},
                )
            if place > start and (place - start >= self._portions.texts or size + length + 200 > self._max_bytes):
                yield start, place
                start, size = place, 0
            size += length
        if start < len(texts):
            yield start, len(texts)

    def _begin(self, call: "_Call", start: int, stop: int) -> Future[int]:
        """`_fill` in a thread of its own, a daemon: a process that ends waits for no answer of a server that hangs."""
        future: Future[int] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(self._fill(call, start, stop))
            except BaseException as error:  # noqa: BLE001 - raised by whoever waits
                future.set_exception(error)

        threading.Thread(target=run, daemon=True, name="remote").start()
        return future

    def _fill(self, call: "_Call", start: int, stop: int) -> int:
        place = start
        while place < stop:
            place = self._patiently(partial(self._fill_some, call, place, stop), call.begun, call.ended)
        return stop - start

    def _fill_some(self, call: "_Call", start: int, stop: int) -> int:
        """One request, for as many texts as are fit at present; returns the place behind them."""
        with self._portions.turn():
            if call.ended.is_set():
                raise self._call_has_ended()
            stop = min(stop, start + self._portions.texts)
            fields = {"input": call.texts[start:stop], "encoding_format": "base64", "trace": call.trace}
            try:
                response = self._request("POST", "/v1/embeddings", orjson.dumps(fields))
            except _Refusal as refusal:
                if refusal.too_large and stop - start == 1:
                    why = f"one text that is too large: {self.url} {refusal.problem}"
                    raise InputError(f"Text {start} is {why}.", {start: why}) from None
                if refusal.too_much:
                    self._portions.refused(stop - start)
                raise
            except NumericError as error:
                named = tuple(start + index for index in error.indexes if 0 <= index < stop - start)
                raise NumericError(str(error), named) from error
            except InputError as error:
                shifted = {start + i: reason for i, reason in error.reasons.items() if 0 <= i < stop - start}
                raise InputError(str(error), shifted) from error
        served = response.headers.get("x-encoder-id")
        if served is None:
            raise _Refusal("gives answers that are not the engine's, as pages of a proxy are", 0.0, too_much=False)
        self._portions.answered(stop - start)
        if served != self.encoder_id:
            raise OptionError(
                f"The server at {self.url} now serves {served}, it was {self.encoder_id}. Run again: its "
                "vectors are other vectors."
            )
        try:
            self._copy(call.result, orjson.loads(response.content)["data"], start, stop, call.trace)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise UnavailableError(f"{self.url} gave an answer that cannot be read: {error!r}.") from error
        return stop

    def _copy(self, result: Encoding, data: list[dict[str, Any]], start: int, stop: int, trace: bool) -> None:
        if [entry["index"] for entry in data] != list(range(stop - start)):
            raise ValueError(f"{len(data)} vectors for {stop - start} texts")
        for place, entry in enumerate(data, start):
            vector = np.frombuffer(base64.b64decode(entry["embedding"], validate=True), "<f4")
            if len(vector) != self.dimension:  # a single number would fill the row
                raise ValueError(f"a vector of {len(vector)} numbers in place of {self.dimension}")
            result.vectors[place] = vector
            if trace:
                result.tokens[place], result.truncated[place] = entry["tokens"], entry["truncated"]
                result.active_frac[place], result.routes[place] = entry["active_frac"], entry["route"]
                str.encode(result.routes[place])  # nothing but a text, of whole letters
                result.unread[place] = entry.get("unread", 0.0)

    # --- one request -------------------------------------------------------------------------------------------------

    def _request(self, method: str, path: str, body: bytes | None = None) -> httpx.Response:
        """The answer to one request. Raises `_Refusal` where the server may give one later."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            response = self._client.request(method, path, content=body, headers=headers)
        except httpx.LocalProtocolError:  # its text may hold the key
            raise OptionError(f"The request to {self.url} cannot be sent as it is; check [engine] url.") from None
        except httpx.TransportError as error:
            too_much = isinstance(error, httpx.ReadTimeout)
            raise _Refusal(f"cannot be reached ({type(error).__name__}: {error})", 0.0, too_much) from error
        except httpx.DecodingError as error:
            raise _Refusal(f"gives answers that are not taken ({error})", 0.0, too_much=False) from error
        if response.status_code == 200:
            return response
        if response.status_code not in _AGAIN:
            raise _error_of(response, self.url)
        too_much = response.status_code in _TOO_MUCH
        problem = f"answers {response.status_code}{_reason(response)}"
        raise _Refusal(problem, _retry_after(response), too_much, too_large=response.status_code == 413)

    def _patiently(self, attempt: Callable[[], T], begun: float, ended: threading.Event) -> T:
        """An attempt again and again while the server refuses and patience lasts; not after `ended`.

        Patience is counted from `begun`, and anew from whatever moved since then in any thread.
        """
        pause = FIRST_PAUSE_S
        while not ended.is_set():
            try:
                return attempt()
            except _Refusal as refusal:
                wait = max(pause, refusal.wait_s)
                wait *= self._jitter.uniform(1.0, 1.25)  # callers that were refused together do not return together
                if time.monotonic() + wait > max(begun, self._portions.moved_at) + self._patience_s:
                    raise UnavailableError(
                        f"The engine at {self.url} {refusal.problem}, and did for {self._patience_s:g} s. Start it "
                        f"with `{self._start}`, or remove [engine] url to compute in this process."
                        f"{proxy_hint(self.url)}"
                    ) from refusal
            ended.wait(wait)
            pause = min(LONGEST_PAUSE_S, 2 * pause)
        raise self._call_has_ended()

    def _call_has_ended(self) -> UnavailableError:
        return UnavailableError(f"The call of the engine at {self.url} has ended.")


@dataclass(frozen=True, slots=True)
class _Call:
    """A call under way: its texts, what comes of them, and whether nobody waits for it any more."""

    texts: list[str]
    result: Encoding
    trace: bool
    begun: float = field(default_factory=time.monotonic)
    ended: threading.Event = field(default_factory=threading.Event)


class _Refusal(Exception):
    """The server gives no answer now; the same request, or one for less, may get one later."""

    def __init__(self, problem: str, wait_s: float, too_much: bool, *, too_large: bool = False) -> None:
        super().__init__(problem)
        self.problem, self.wait_s, self.too_much, self.too_large = problem, wait_s, too_much, too_large


def connect(
    url: str,
    *,
    name: str = "default",
    active: float | None = None,
    max_tokens: int | None = None,
    key: str | None = None,
    patience_s: float = PATIENCE_S,
    start: str = START,
    **options: object,
) -> RemoteEncoder:
    """The encoder on a server, when it is the one that is wanted; arguments as for `engine.load.load_encoder`.

    Args:
        url: of the server.
        name: the encoder.
        active: its budget; when None, the one that the encoder has by default.
        max_tokens: longest text; when None, the one that the encoder has by default.
        key: the server's key.
        patience_s, start: see `RemoteEncoder`.
        options: further fields of `/info` that must be so; None for any.

    Raises:
        OptionError: the server has another encoder, or is none.
        UnavailableError: nothing answers.
    """
    encoder = RemoteEncoder(url, key=key, patience_s=patience_s, start=start)
    budget = _default_active(encoder.info) if active is None else active
    limit = encoder.info.get("default_max_tokens") if max_tokens is None else max_tokens  # older ones say none
    wanted_info = {"name": info_name(name), "active": budget, "max_tokens": limit, **options}
    for option, wanted in wanted_info.items():
        served = encoder.info.get(option)
        if wanted is not None and served != wanted:
            raise OptionError(
                f"The engine at {url} has {option} = {served!r}, the settings ask for {wanted!r}. Change [encoder], or "
                f"start the server as they say: `{start}`."
            )
    served, own = encoder.info.get("sha256"), info_sha256(name)
    if None not in (served, own) and served != own:
        raise OptionError(
            f"The engine at {url} has another {info_name(name)}, with the sha256 {served}, yours has {own}. Start "
            f"it again with yours (`{start}`), or set [encoder] name to the one that it has."
        )
    return encoder


def _default_active(info: Mapping[str, Any]) -> float | None:
    """The budget that a server's encoder has by default; None where it has none. Servers did not always say it."""
    return info.get("default_active", None if info.get("active") is None else DEFAULT_ACTIVE)


def info_name(name: str) -> str:
    """The encoder's name as `/info` gives it."""
    return Path(name).name if name.endswith(".safetensors") else ENCODERS.get(name, name)


def info_sha256(name: str) -> str | None:
    """The sha256 of an encoder's file as `/info` gives it; None where the encoder is no file, or it is not here."""
    if not name.endswith(".safetensors"):
        return None
    try:
        with open(name, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _retry_after(response: httpx.Response) -> float:
    value = response.headers.get("retry-after", "")
    return min(30.0, float(value)) if value.isascii() and value.isdigit() else 0.0


def _reason(response: httpx.Response) -> str:
    """What the server says of a refusal, in brackets; "" where it says nothing that can be read."""
    try:
        return f" ({str(orjson.loads(response.content)['error']['message'])[:MOST_SAID]})"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""


def _error_of(response: httpx.Response, url: str) -> EngineError:
    """What a refusal means to the caller."""
    try:
        error: dict[str, Any] = orjson.loads(response.content)["error"]
        message = str(error["message"])[:MOST_SAID]
        indexes = tuple(int(index) for index in error.get("indexes", ()))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return OptionError(
            f"{url} answers {response.status_code} and not as `siftline engine serve`. Check [engine] url."
        )
    if response.status_code == 424:
        return NumericError(message, indexes)
    if response.status_code == 401:
        return OptionError(f"{url} refuses the key: {message} Set SIFTLINE_ENGINE_KEY to the server's.")
    if response.status_code == 400:
        return InputError(message, dict.fromkeys(indexes, "refused by the server"))
    return OptionError(f"{url} answers {response.status_code}: {message}")
