"""Reading a request's body within its limits of size, time and memory; what is too large is not read to its end."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Send

from engine.serving.statuses import Refusal

LINGER_BYTES = 32 << 20
LINGER_S = 2.0
"""After a refusal, so much is still read and thrown away: a client that sends while it is cut off never sees why."""


class HeldBytes:
    """Bytes of request bodies in memory, of all clients together. Only the event loop's thread uses it."""

    def __init__(self, most: int) -> None:
        self.most, self.now = most, 0

    def take(self, count: int) -> None:
        """Raises: Refusal 429 when there is no room for so many more."""
        if self.now + count > self.most:
            raise Refusal(
                429, f"Requests of {self.now} bytes are being read, the limit is {self.most}. Ask again later."
            )
        self.now += count

    def give(self, count: int) -> None:
        """So many are gone."""
        self.now -= count


class LeftError(Exception):
    """The client closed the connection."""


async def read_body(request: Request, *, limit: int, timeout_s: float, held: HeldBytes) -> bytes:
    """The whole body; its bytes stay counted in `held` until the caller gives them back.

    Raises:
        Refusal: 400 for a length that is no number, 408, 413 or 429.
        LeftError: the client left.
    """
    declared = request.headers.get("content-length")
    if declared is not None:
        if not declared.isascii() or not declared.isdigit():
            raise Refusal(400, "The Content-Length is not a number.")
        if int(declared) > limit:
            raise Refusal(413, f"The body has {int(declared)} bytes; at most {limit} are read.")
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise LeftError
                chunk: bytes = message.get("body", b"")
                if size + len(chunk) > limit:
                    raise Refusal(413, f"The body has more than {limit} bytes, which is all that is read.")
                held.take(len(chunk))
                size += len(chunk)
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
    except TimeoutError as error:
        held.give(size)
        raise Refusal(408, f"The body was not here after {timeout_s:g} s; {size} bytes were.") from error
    except (Refusal, LeftError, asyncio.CancelledError):
        held.give(size)
        raise


async def linger(receive: Receive) -> None:
    """Read what a refused client still sends, up to a bound, so that it sees the answer."""
    read = 0
    try:
        async with asyncio.timeout(LINGER_S):
            while read < LINGER_BYTES:
                message: Message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
                read += len(message.get("body", b""))
    except TimeoutError:
        return


async def send_refusal(response: Response, receive: Receive, send: Send) -> None:
    """Answer before the body was read: the answer first, then read on a little, then close."""
    close = [*response.raw_headers, (b"connection", b"close")]
    await send({"type": "http.response.start", "status": response.status_code, "headers": close})
    await send({"type": "http.response.body", "body": bytes(response.body), "more_body": True})
    await linger(receive)
    await send({"type": "http.response.body", "body": b"", "more_body": False})
