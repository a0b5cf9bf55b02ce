"""The webhook receiver: Label Studio says that something changed, and the next collect comes sooner.

A webhook is a hint and never an answer: Label Studio sends it once, gives up after a second, and anybody can send one.
So the receiver reads no content, writes one empty file `collect-wanted` and leaves the truth to the pull, which
converges whatever was lost, doubled, reordered or forged. However many hints come, they are one file. The collect is
the deployment's where there is one, so that it also starts the cycle when enough answers came.
"""

import hmac
import os
import threading
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from engine.serving.connection import connection_class, too_many
from warehouse import SettingsError, SiftlineError, Transient

SECRET_VARIABLE = "SIFTLINE_WEBHOOK_SECRET"  # noqa: S105 - the name of a variable
HEADER = "X-Siftline-Secret"
SHORTEST_SECRET = 16
MAX_BODY_BYTES = 1 << 20
MOST_CONNECTIONS = 512
IDLE_S = 10.0
"""A connection that asks nothing for so long is closed, or 512 of them, of anybody, would keep all hints out."""
ACTIONS = ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED", "TASKS_DELETED")


class Hint:
    """One file that says that a collect is wanted.

    Args:
        path: the file; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def give(self) -> None:
        """Want a collect; a second hint before it is taken changes nothing."""
        os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600))

    def take(self) -> bool:
        """Take the hint, before the collect begins, so that what comes meanwhile is a hint for the next one."""
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        return True


def secret_from_env() -> str:
    """The secret that webhooks must carry.

    Raises:
        SettingsError: it is not set, too short, or nothing that a header can carry.
    """
    secret = os.environ.get(SECRET_VARIABLE, "")
    carried = secret.isascii() and secret.isprintable() and secret == secret.strip()  # as a header's value can be
    if len(secret) < SHORTEST_SECRET or not carried:
        raise SettingsError(
            f"{SECRET_VARIABLE} must be set to {SHORTEST_SECRET} or more ASCII characters without a space at "
            "either end, such as the output of `openssl rand -hex 32`, and Label Studio's webhook must carry it "
            f"in the header {HEADER}."
        )
    return secret


def webhook_app(hint: Hint, secret: str) -> Starlette:
    """The receiver: 204 for a hint that was taken, 403 without the secret, 413 for a body over 1 MiB, 200 for health.

    Args:
        hint: where a hint is noted.
        secret: what the header `X-Siftline-Secret` must hold.
    """
    expected = secret.encode()

    async def hook(request: Request) -> Response:
        given = request.headers.get(HEADER, "").encode("latin-1", "replace")
        if not hmac.compare_digest(given, expected):
            return PlainTextResponse("wrong or missing secret\n", 403)
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            return PlainTextResponse("body too large\n", 413)
        read = 0
        try:
            async for part in request.stream():  # thrown away: only that it came counts
                read += len(part)
                if read > MAX_BODY_BYTES:
                    return PlainTextResponse("body too large\n", 413)
        except ClientDisconnect:
            pass
        hint.give()
        return Response(status_code=204)

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    return Starlette(routes=[Route("/hook", hook, methods=["POST"]), Route("/health", health, methods=["GET"])])


def webhook_server(hint: Hint, secret: str, *, host: str, port: int) -> uvicorn.Server:
    """A server of `webhook_app`, which slow and silent clients do not fill."""
    connection = connection_class(
        most=MOST_CONNECTIONS, idle_s=IDLE_S, unfetched_bytes=MAX_BODY_BYTES, refusing=too_many, broken=lambda: None
    )
    app = webhook_app(hint, secret)
    return uvicorn.Server(
        uvicorn.Config(app, http=connection, host=host, port=port, log_level="warning", access_log=False)
    )


def collect_on_hints(
    hint: Hint, collect: Callable[[], object], stop: threading.Event, say: Callable[[str], None], *, every_s: float
) -> None:
    """Collect when there is a hint, at most once in `every_s` seconds, until `stop` is set.

    A collect that fails for a reason that may pass, such as a run that is at work, is wanted again; one that a person
    must mend waits for the next hint.
    """
    while not stop.wait(every_s):
        if not hint.take():
            continue
        try:
            collect()
        except SiftlineError as error:
            if isinstance(error, Transient):
                hint.give()
            say(str(error))
