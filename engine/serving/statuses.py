"""Every status that the server answers with, as data: the documentation's table is made from it, tests produce each."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.responses import JSONResponse

RETRY_LATER_S = 1
"""What Retry-After says: a full queue is a few seconds of work, and clients that come too early are refused cheaply."""


@dataclass(frozen=True, slots=True)
class Status:
    """A status. Attributes: code; type as in the answer's `error_type`; when it comes; what the caller does then."""

    code: int
    type: str
    when: str
    then: str


STATUSES: tuple[Status, ...] = (
    Status(200, "", "all texts have vectors", "use them"),
    Status(
        400, "invalid_request", "no HTTP, no JSON, not the schema, or a text that cannot be encoded", "mend the request"
    ),
    Status(
        401,
        "unauthorized",
        "the server has a key and the request has no or another one",
        "send `Authorization: Bearer`",
    ),
    Status(404, "not_found", "no such path, or a model that is not the one served", "see `/info`"),
    Status(405, "method_not_allowed", "the path takes another method", "see the table of paths"),
    Status(408, "body_timeout", "the body was not here in time", "send it faster"),
    Status(
        413, "too_large", "body, number of texts or tokens above a limit", "send less at a time; limits are in `/info`"
    ),
    Status(424, "no_vector", "the model has no finite vector for a text of the request", "leave out `indexes`"),
    Status(
        429,
        "overloaded",
        "the queue is full, or at its present pace longer than half the deadline; nothing was computed",
        "wait for `Retry-After` seconds",
    ),
    Status(
        500,
        "internal",
        "an error that nobody foresaw; the message names its line in the server's log",
        "report it with that line",
    ),
    Status(
        503,
        "unavailable",
        "too many connections, shutting down, or the workers are dead",
        "wait for `Retry-After`, or another server",
    ),
    Status(504, "deadline", "admitted, and not done before the deadline", "send less at a time"),
)
BY_CODE: Mapping[int, Status] = {status.code: status for status in STATUSES}
RETRIED = (429, 503)
"""Codes after which the same request may succeed."""


class Refusal(Exception):
    """The request ends here with a status of the table.

    Attributes:
        code: of `STATUSES`.
        message: what is wrong and the way out.
        details: further fields of the error.
    """

    def __init__(self, code: int, message: str, **details: object) -> None:
        super().__init__(message)
        self.code, self.message, self.details = BY_CODE[code].code, message, details


def error_body(code: int, message: str, **details: object) -> dict[str, object]:
    """An error in both schemas at once: OpenAI's clients read `error.message`, the other's `error_type`."""
    kind = BY_CODE[code].type
    return {"error": {"message": message, "type": kind, "code": kind, **details}, "error_type": kind}


def refusal_headers(code: int) -> dict[str, str]:
    """Headers that go with a refusal."""
    headers = {"Retry-After": str(RETRY_LATER_S)} if code in RETRIED else {}
    return {**headers, "WWW-Authenticate": "Bearer"} if code == 401 else headers


def error_response(code: int, message: str, **details: object) -> JSONResponse:
    """The answer for a refusal."""
    return JSONResponse(error_body(code, message, **details), status_code=code, headers=refusal_headers(code))


def raw_response(code: int, message: str) -> bytes:
    """The same as bytes of HTTP, for connections that never get as far as the application."""
    body = json.dumps(error_body(code, message)).encode()
    lines = [f"HTTP/1.1 {code} {BY_CODE[code].type}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in refusal_headers(code).items()]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body
