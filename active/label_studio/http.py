"""An HTTP client whose requests end, and whose answers have a largest size.

httpx limits each read only, so a server that drips bytes would hold a stage, and one that sends on would fill
the memory.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from typing import Any

import httpx

LARGEST_ANSWER = 256 * 2**20
"""Bytes of an answer, unpacked: a page of 500 tasks has half a MiB for each."""
UNPACKED = frozenset({"gzip", "deflate", "identity"})
"""Packed once by one of these, what is read at a time grows a thousandfold at most."""


class DeadlineClient(httpx.Client):
    """`httpx.Client` with one limit for a whole request, head and body of the answer included: the read timeout."""

    def __init__(self, **options: Any) -> None:
        super().__init__(headers={"Accept-Encoding": "gzip, deflate"}, **options)

    def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """Send a request and read the answer within the limit.

        Raises:
            httpx.ReadTimeout: the whole answer did not arrive in time.
            httpx.DecodingError: it is larger than `LARGEST_ANSWER`, or cannot be unpacked.
        """
        limit_s = self.timeout.read
        ends = time.monotonic() + limit_s if limit_s is not None else float("inf")
        response = self._head(request, limit_s, options)
        assert isinstance(response.stream, httpx.SyncByteStream)
        response.stream = _Until(response.stream, ends, request)
        return response if stream else _read(response)

    def _head(self, request: httpx.Request, limit_s: float | None, options: dict[str, Any]) -> httpx.Response:
        """The answer without its body, by a thread of its own: httpx itself waits as long as the head drips."""
        answer: Future[httpx.Response] = Future()

        def ask() -> None:
            try:
                answer.set_result(super(DeadlineClient, self).send(request, stream=True, **options))
            except BaseException as error:  # noqa: BLE001 - raised by whoever waits
                answer.set_exception(error)

        threading.Thread(target=ask, daemon=True, name="request").start()
        if not wait([answer], limit_s).done:
            answer.add_done_callback(_close)
            raise httpx.ReadTimeout("the answer did not begin in time", request=request)
        return answer.result()


def _read(response: httpx.Response) -> httpx.Response:
    """The answer with its body."""
    content = bytearray()
    try:
        packed = response.headers.get("content-encoding", "identity").lower().replace(" ", "").split(",")
        if len(packed) > 1 or not UNPACKED.issuperset(packed):
            raise httpx.DecodingError(f"it is packed as {', '.join(packed)}, which may unpack to any size")
        for part in response.iter_bytes():
            content += part
            if len(content) > LARGEST_ANSWER:
                raise httpx.DecodingError(f"it is larger than {LARGEST_ANSWER >> 20} MiB")
    finally:
        response.close()
    headers = [(name, value) for name, value in response.headers.multi_items() if name != "content-encoding"]
    return httpx.Response(response.status_code, headers=headers, content=bytes(content), request=response.request)


def _close(answer: Future[httpx.Response]) -> None:
    if answer.exception() is None:
        answer.result().close()


class _Until(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, ends: float, request: httpx.Request) -> None:
        self._stream, self._ends, self._request = stream, ends, request

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            if time.monotonic() > self._ends:
                raise httpx.ReadTimeout("the answer did not end in time", request=self._request)
            yield chunk

    def close(self) -> None:
        self._stream.close()
