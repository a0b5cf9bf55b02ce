"""An HTTP client whose requests end. httpx limits each read only, so a server that drips bytes would hold a stage."""

import time
from collections.abc import Iterator
from typing import Any

import httpx


class DeadlineClient(httpx.Client):
    """`httpx.Client` with one limit for a whole request, its body included; the limit is the read timeout."""

    def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """Send a request and read the body within the limit.

        Raises:
            httpx.ReadTimeout: the whole answer did not arrive in time.
        """
        limit_s = self.timeout.read
        ends = time.monotonic() + limit_s if limit_s is not None else float("inf")
        response = super().send(request, stream=True, **options)
        assert isinstance(response.stream, httpx.SyncByteStream)
        response.stream = _Until(response.stream, ends, request)
        if not stream:
            try:
                response.read()
            finally:
                response.close()
        return response


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
