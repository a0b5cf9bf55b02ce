"""The application: its paths, who may call them, and what happens to a request from its first byte to its answer."""

import asyncio
import hmac
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.errors import DeadlineError, InputError, ModelFileError, NumericError, OverloadError, WorkerError
from engine.model.tokenizer import Tokens
from engine.runtime.energy import EnergyMeter, best_meter
from engine.runtime.local import LocalEncoder
from engine.runtime.request import Answer, Room
from engine.runtime.request import Request as Queued
from engine.serving.config import ServerConfig
from engine.serving.errors import log_line, new_id
from engine.serving.limits import HeldBytes, LeftError, read_body, send_refusal
from engine.serving.metrics import CONTENT_TYPE, PATHS, TRACED_EVERY, Metrics
from engine.serving.schemas import Wanted, openai_answer, read_json, read_openai, read_tei, tei_answer
from engine.serving.statuses import Refusal, error_body, error_response, refusal_headers

OPEN_PATHS = frozenset({"/health"})
"""Answered without a key: whoever watches over the server needs no secret."""
INLINE_CHARACTERS = 4096
"""Fewer are made into tokens at once; handing them to a thread would take longer."""
CHARACTERS_A_TOKEN = 4
"""An estimate, for texts whose tokens are still being made."""
WAIT_SHARE = 0.5
"""Share of the deadline that the queue may be long, at its present pace; a busy machine may become slower still."""


class Service:
    """The state of one server: its encoder, its limits and what is in progress. Only the event loop's thread uses it.

    Args:
        encoder: the encoder.
        config: settings.
        about: what `/info` says of the encoder: name, active, precision, device.
        meter: energy; the best there is on this machine when None.

    Attributes:
        draining: the server takes no more work.
        told: called with a line for the log.
    """

    def __init__(
        self,
        encoder: LocalEncoder,
        config: ServerConfig,
        about: Mapping[str, object],
        meter: EnergyMeter | None = None,
    ) -> None:
        self.encoder, self.config, self.about = encoder, config, dict(about)
        self.scheduler = encoder.scheduler
        self.scheduler.room = replace(config.room, seconds=WAIT_SHARE * config.deadline_s)
        self.held = HeldBytes(config.max_held_bytes)
        self.connections: Callable[[], int] = lambda: 0
        self.metrics = Metrics(self.scheduler, meter or best_meter(), lambda: self.connections())
        self.scheduler.on_batch = self.metrics.batch
        self.draining = False
        self.told: Callable[[str], None] = lambda _: None
        self.in_progress = 0
        self._readers: set[asyncio.Task[Any]] = set()
        self._tokenizers = ThreadPoolExecutor(1, "tokenizer")
        self._coming = [0, 0]  # texts and estimated tokens whose tokens are being made
        self._numbers = itertools.count()
        self.model = str(self.about.get("name", encoder.encoder_id))

    def check_open(self) -> None:
        """Raises: Refusal 429 or 503 when no request is taken at present; said before its body is read."""
        if self.draining:
            raise Refusal(503, "The server is shutting down; ask again later or elsewhere.")
        if self.scheduler.dead is not None:
            raise Refusal(503, f"The encoder is dead: {self.scheduler.dead}. The server must be started again.")
        if self.in_progress >= self.config.max_requests:
            raise Refusal(429, f"{self.in_progress} requests are in progress, which is the limit. Ask again later.")
        self._check_room()

    def _check_room(self) -> None:
        if self.scheduler.full(Room(entries=self._coming[0], tokens=self._coming[1])):
            raise Refusal(429, "The queue is full. Ask again later.")

    def begin_drain(self) -> None:
        """Take no more work; bodies that are still being read are refused now."""
        self.draining = True
        for task in list(self._readers):
            task.cancel()

    async def read(self, request: Request) -> bytes:
        """The body, within all limits. Raises: Refusal, LeftError."""
        self.check_open()
        task = asyncio.current_task()
        assert task is not None
        self._readers.add(task)
        try:
            return await read_body(
                request, limit=self.config.max_body_bytes, timeout_s=self.config.body_s, held=self.held
            )
        except asyncio.CancelledError:
            if not self.draining:
                raise
            task.uncancel()
            raise Refusal(503, "The server is shutting down; ask again later or elsewhere.") from None
        finally:
            self._readers.discard(task)

    async def embed(self, request: Request, wanted: Wanted) -> tuple[Answer, list[Tokens]]:
        """Vectors of the texts. Raises: Refusal, LeftError."""
        began = time.monotonic()
        deadline = began + self.config.deadline_s
        try:
            tokens = await self._tokenize(wanted.texts)
            self.metrics.tokenize_s.observe(time.monotonic() - began)
            count = sum(len(one.ids) for one in tokens)
            if count > self.config.room.tokens or len(tokens) > self.config.room.entries:
                raise Refusal(413, f"{len(tokens)} texts of {count} tokens are more than the whole queue holds.")
            sampled = next(self._numbers) % TRACED_EVERY == 0
            queued = self.scheduler.submit(
                [one.ids for one in tokens], traced=wanted.trace or sampled, deadline=deadline
            )
            answer = (await self._wait(request, queued, deadline)).checked()
            if sampled:
                for share in answer.active_frac:
                    self.metrics.active.observe(float(share))
            return answer, tokens
        except InputError as error:
            raise Refusal(400, str(error), indexes=list(error.reasons)) from error
        except NumericError as error:
            raise Refusal(424, str(error), indexes=list(error.indexes)) from error
        except OverloadError as error:
            raise Refusal(503 if self.draining else 429, str(error)) from error
        except DeadlineError as error:
            raise Refusal(504, str(error)) from error
        except (WorkerError, ModelFileError) as error:  # the latter from weights that are read for each batch
            raise Refusal(503, str(error)) from error
        except asyncio.CancelledError:  # by uvicorn, when it was told to end at once
            if not self.draining:
                raise
            raise Refusal(503, "The server ends; ask again later or elsewhere.") from None

    async def _tokenize(self, texts: list[str]) -> list[Tokens]:
        if sum(map(len, texts)) <= INLINE_CHARACTERS:
            return self.encoder.tokenize(texts)
        # Those before this one may fill the queue, so they count; or thousands would wait for the tokenizer in vain.
        self._check_room()
        most = self.encoder.max_tokens
        estimate = sum(min(most, 2 + len(text) // CHARACTERS_A_TOKEN) for text in texts)
        self._coming[0] += len(texts)
        self._coming[1] += estimate
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._tokenizers, self.encoder.tokenize, texts)
        finally:
            self._coming[0] -= len(texts)
            self._coming[1] -= estimate

    async def _wait(self, request: Request, queued: Queued, deadline: float) -> Answer:
        """The answer, unless the client leaves or the time is over first."""
        answer = asyncio.wrap_future(queued.answer)
        left = asyncio.ensure_future(request.receive())
        try:
            timeout = max(0.0, deadline + 0.1 - time.monotonic())  # the queue itself knows the deadline, and says more
            await asyncio.wait({answer, left}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            if left.done():
                raise LeftError
            raise Refusal(504, f"The texts were not done after {self.config.deadline_s:g} s.")
        finally:
            left.cancel()
            if not answer.done():
                queued.cancel()


Answering = Callable[[Service, Request, dict[str, Any]], Awaitable[bytes]]


async def _openai(service: Service, request: Request, values: dict[str, Any]) -> bytes:
    names = (service.model, service.encoder.encoder_id)
    dimension, most = service.encoder.dimension, service.config.max_inputs
    wanted = read_openai(values, names=names, dimension=dimension, max_inputs=most)
    del values  # as objects, fields that nobody asked for take 25 times their bytes, and the queue may take long
    answer, tokens = await service.embed(request, wanted)
    return openai_answer(wanted, answer, tokens, model=service.model)


async def _tei(service: Service, request: Request, values: dict[str, Any]) -> bytes:
    dimension, most = service.encoder.dimension, service.config.max_inputs
    wanted = read_tei(values, dimension=dimension, max_inputs=most)
    del values  # as in `_openai`
    answer, _ = await service.embed(request, wanted)
    return tei_answer(answer)


class Embedding:
    """One of the two paths that give vectors, as an ASGI application."""

    def __init__(self, service: Service, answering: Answering) -> None:
        self._service, self._answering = service, answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        service, request, body = self._service, Request(scope, receive), None
        began = time.monotonic()
        try:
            body = await service.read(request)
            service.in_progress += 1
            try:
                content = await self._answering(service, request, read_json(body))
            finally:
                service.in_progress -= 1
                service.held.give(len(body))
        except LeftError:
            return
        except Refusal as refusal:
            response = error_response(refusal.code, refusal.message, **refusal.details)
            if body is None:
                await send_refusal(response, receive, send)
            else:
                await response(scope, receive, send)
            return
        service.metrics.request_s.observe(time.monotonic() - began)
        headers = {"X-Encoder-Id": service.encoder.encoder_id}
        await Response(content, media_type="application/json", headers=headers)(scope, receive, send)


class Counted:
    """Counts the answers of an application by path and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on."""

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.answered(scope["path"], message["status"])
            await send(message)

        await self._app(scope, receive, counted)


class KeyGuard:
    """Lets a request in only with the key, where there is one."""

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app, self._key = app, None if key is None else key.encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on, or answer 401."""
        if scope["type"] != "http" or self._key is None or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = given.partition(b" ")
        if hmac.compare_digest(key, self._key) and scheme.lower() == b"bearer":  # RFC 9110: in any case
            await self._app(scope, receive, send)
            return
        response = error_response(401, "This server wants its API key: Authorization: Bearer <key>.")
        await send_refusal(response, receive, send)


def build_app(service: Service) -> ASGIApp:
    """The application around a service."""
    config, encoder = service.config, service.encoder

    async def info(_: Request) -> Response:
        limits = {
            "max_inputs": config.max_inputs,
            "max_body_bytes": config.max_body_bytes,
            "queue_texts": config.room.entries,
            "queue_tokens": config.room.tokens,
            "deadline_s": config.deadline_s,
        }
        about = {
            "model_id": service.model,
            "encoder_id": encoder.encoder_id,
            "dimension": encoder.dimension,
            "max_tokens": encoder.max_tokens,
        }
        return JSONResponse({**about, **service.about, "limits": limits})

    async def health(_: Request) -> Response:
        dead = service.scheduler.dead
        if service.draining or dead is not None:
            return error_response(503, f"The encoder is dead: {dead}." if dead else "The server is shutting down.")
        return JSONResponse({"status": "ok"})

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code, words = 404, "There is no such path; there are /v1/embeddings, /embed, /info, /health, /metrics."
        if error.status_code == 405:
            code, words = 405, "The path takes another method, see `siftline docs engine-server`."
        headers = {**dict(error.headers or {}), **refusal_headers(code)}
        return JSONResponse(error_body(code, words), status_code=code, headers=headers)

    async def failed(request: Request, error: Exception) -> Response:
        fault_id, path = new_id(), request.url.path
        service.told(log_line(fault_id, path if path in PATHS else "another path", error))
        return error_response(500, f"The server failed; its log has error {fault_id}. Report it with that line.")

    routes = [
        Route("/v1/embeddings", Embedding(service, _openai), methods=["POST"]),
        Route("/embed", Embedding(service, _tei), methods=["POST"]),
        Route("/info", info),
        Route("/health", health),
        Route("/metrics", metrics),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: refused, Exception: failed})
    app.router.redirect_slashes = False  # a redirect is in no schema, and would name the host that the client named
    return Counted(KeyGuard(app, config.key), service.metrics)
