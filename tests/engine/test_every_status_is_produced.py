"""Each status of the table is produced by a request that a client could send, and the documentation is that table."""

import gzip
import re
import socket
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from engine.client.api_key import KEY_VARIABLE, key_from_environment
from engine.client.remote import RemoteEncoder
from engine.errors import OptionError
from engine.model.tokenizer import Tokens
from engine.runtime.loading import encoder_of
from engine.runtime.local import LocalEncoder
from engine.runtime.request import Room
from engine.serving.config import ServerConfig
from engine.serving.statuses import RETRIED, STATUSES
from tests.engine.tiny import tiny_routed, tiny_tokenizer
from tests.engine_servers import ServerThread, post, raw_request, server_thread
from tests.projects import ROOT

KEY = "a-key-for-tests-0123456789"
CONFIG = ServerConfig(
    max_body_bytes=20_000,
    max_inputs=64,
    room=Room(entries=64, tokens=300),
    body_s=0.3,
    idle_s=0.5,
    deadline_s=20.0,
    drain_s=5.0,
)


def broken_encoder(threads: int = 1) -> LocalEncoder:
    """A tiny routed encoder that gives no finite vector for "oil"."""
    model = tiny_routed()
    with torch.no_grad():
        model.tokens.weight[4] = float("nan")
    return encoder_of(model, tiny_tokenizer(), sha256={}, active=0.3, max_tokens=16, threads=threads)


@pytest.fixture
def server() -> Iterator[ServerThread]:
    with server_thread(broken_encoder(), CONFIG) as running:
        yield running


@contextmanager
def _filled(server: ServerThread) -> Generator[None]:
    """The queue is full, and nothing leaves it."""
    scheduler = server.service.scheduler
    with scheduler.paused():
        while not scheduler.full():
            scheduler.submit([[1] * 15] * 4)
        yield


def _timed_out_body(server: ServerThread) -> httpx.Response:
    answer = raw_request(server.port, b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert server.service.held.now == 0
    return _parsed(answer)


def _parsed(answer: bytes) -> httpx.Response:
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    headers.pop("transfer-encoding", None)
    return httpx.Response(int(lines[0].split()[1]), headers=headers, content=body)


def _overloaded(server: ServerThread) -> httpx.Response:
    with _filled(server):
        return post(server.url, inputs="bank")


def _draining(server: ServerThread) -> httpx.Response:
    server.service.begin_drain()
    return post(server.url, inputs="bank")


def _late(server: ServerThread) -> httpx.Response:
    with server_thread(broken_encoder(), ServerConfig(deadline_s=0.1)) as slow, slow.service.scheduler.paused():
        return post(slow.url, inputs="bank")


def _guarded(server: ServerThread) -> httpx.Response:
    with server_thread(broken_encoder(), ServerConfig(key=KEY)) as guarded:
        return post(guarded.url, inputs="bank")


def _raising(texts: Sequence[str]) -> list[Tokens]:
    raise KeyError(texts[0])


def _failed(server: ServerThread) -> httpx.Response:
    server.service.encoder.tokenize = _raising
    return post(server.url, inputs="bank")


PRODUCERS: dict[int, Callable[[ServerThread], httpx.Response]] = {
    200: lambda server: post(server.url, inputs="bank"),
    400: lambda server: post(server.url, wrong="bank"),
    401: _guarded,
    404: lambda server: post(server.url, "/v1/embeddings", input="bank", model="gpt-9"),
    405: lambda server: httpx.get(f"{server.url}/embed"),
    408: _timed_out_body,
    413: lambda server: post(server.url, inputs="b" * 30_000),
    424: lambda server: post(server.url, inputs=["bank", "oil"]),
    429: _overloaded,
    500: _failed,
    503: _draining,
    504: _late,
}


@pytest.mark.parametrize("code", [status.code for status in STATUSES])
def test_each_status(server: ServerThread, code: int) -> None:
    response = PRODUCERS[code](server)
    assert response.status_code == code
    if code != 200:
        [status] = [status for status in STATUSES if status.code == code]
        assert response.json()["error_type"] == response.json()["error"]["type"] == status.type
        assert len(response.json()["error"]["message"]) > 20
    assert ("retry-after" in response.headers) == (code in RETRIED)


@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings"])
def test_an_unforeseen_error_has_an_id_in_answer_and_log_and_quotes_no_text(server: ServerThread, path: str) -> None:
    lines: list[str] = []
    server.service.told = lines.append
    tokenize = server.service.encoder.tokenize
    server.service.encoder.tokenize = _raising
    canary = "canary 9a8b7c"
    response = post(server.url, path, **{"inputs" if path == "/embed" else "input": canary})
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/json"
    [fault_id] = re.findall(r"error ([0-9a-f]{8})\.", response.json()["error"]["message"])
    [line] = lines
    assert line.startswith(f"Error {fault_id} at {path}: KeyError in engine/test_every_status_is_produced.py:")
    assert "serving/app.py:" in line
    assert "canary" not in line + response.text
    assert "Traceback" not in response.text
    figures = httpx.get(f"{server.url}/metrics").text
    assert f'siftline_requests_total{{path="{path}",status="500"}} 1.0' in figures
    server.service.encoder.tokenize = tokenize
    assert post(server.url, inputs="bank").status_code == 200
    assert (server.service.in_progress, server.service.held.now) == (0, 0)


def test_no_status_is_documented_that_is_not_produced_and_the_page_has_the_table() -> None:
    assert {status.code for status in STATUSES} == PRODUCERS.keys()
    rows = [f"| {s.code} | {f'`{s.type}`' if s.type else ''} | {s.when} | {s.then} |" for s in STATUSES]
    table = "\n".join(["| status | `error_type` | when | what to do |", "|---:|---|---|---|", *rows])
    assert table in (ROOT / "docs" / "engine-server.md").read_text("utf-8")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[1]",
        b"{",
        b'{"input": 5}',
        b'{"input": []}',
        b'{"input": ["a", null]}',
        b'{"input": "a", "encoding_format": "hex"}',
        b'{"input": "a", "dimensions": 8}',
        b'{"input": "a", "trace": 1}',
        b'{"input": "\\ud83d"}',
        b'{"input": "\xff"}',
        b"[" * 5000,
        pytest.param(b'{"input": "a", "dimensions": ' + b"[" * 1000 + b"]" * 1000 + b"}", id="too deep to be printed"),
    ],
)
def test_what_is_not_the_schema_is_400(server: ServerThread, body: bytes) -> None:
    response = httpx.post(f"{server.url}/v1/embeddings", content=body)
    assert response.status_code == 400, response.text
    assert post(server.url, inputs="bank").status_code == 200


@pytest.mark.parametrize(
    "body", [gzip.compress(b'{"input": "a"}'), '{"input": "ä"}'.encode("utf-16")], ids=["packed", "utf-16"]
)
def test_json_in_another_form_is_told_in_which_it_is_read(server: ServerThread, body: bytes) -> None:
    response = httpx.post(f"{server.url}/v1/embeddings", content=body)
    assert response.status_code == 400
    assert "in UTF-8 and not packed" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("truncation_direction", "left"), ("prompt_name", "query"), ("dimensions", 8), ("normalize", False)],
)
def test_what_would_be_another_vector_is_refused(server: ServerThread, field: str, value: object) -> None:
    response = post(server.url, inputs="bank", **{field: value})
    assert response.status_code == 400, response.text
    assert field in response.json()["error"]["message"]
    known = {"truncation_direction": "Right", "dimensions": server.service.encoder.dimension}
    assert post(server.url, inputs="bank", **known).status_code == 200


def test_the_text_without_a_vector_is_named_and_its_neighbours_are_answered(server: ServerThread) -> None:
    response = post(server.url, inputs=["bank", "trade", "oil"])
    assert response.status_code == 424
    assert response.json()["error"]["indexes"] == [2]
    assert "siftline_embeddings_total 2.0" in httpx.get(f"{server.url}/metrics").text
    vectors = post(server.url, inputs=["bank", "trade"]).json()
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_body_over_the_limit_is_refused_with_and_without_a_length(server: ServerThread) -> None:
    head = b"POST /embed HTTP/1.1\r\nHost: x\r\n"
    declared = _parsed(raw_request(server.port, head + b"Content-Length: 10000000000\r\n\r\n"))
    assert declared.status_code == 413
    chunks = b"%x\r\n%s\r\n" % (5000, b" " * 5000) * 10
    chunked = raw_request(server.port, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert _parsed(chunked).status_code == 413
    assert server.service.held.now == 0


def test_too_many_texts_or_tokens_never_reach_the_model(server: ServerThread) -> None:
    before = server.service.metrics.batch_texts
    seen: list[object] = []
    server.service.scheduler.on_batch = seen.append
    assert post(server.url, inputs=["a"] * 65).status_code == 413
    assert post(server.url, inputs=["bank trade ship " * 9] * 40).status_code == 413
    assert not seen
    server.service.scheduler.on_batch = server.service.metrics.batch
    assert before is server.service.metrics.batch_texts


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embed", "/info", "/metrics", "/health", "/nowhere"])
def test_every_path_with_no_a_wrong_and_the_right_key(path: str) -> None:
    method, body = (
        ("POST", {"input": "bank", "inputs": "bank"}) if path in ("/v1/embeddings", "/embed") else ("GET", None)
    )
    opened = 404 if path == "/nowhere" else 200
    with server_thread(broken_encoder(), ServerConfig(key=KEY)) as guarded:

        def ask(*keys: str | bytes) -> int:
            headers = [(b"Authorization", key if isinstance(key, bytes) else key.encode()) for key in keys]
            return httpx.request(method, guarded.url + path, json=body, headers=headers).status_code

        refused = 200 if path == "/health" else 401
        for key in (
            "Bearer wrong",
            f"Bearer {KEY}x",
            f"Bearer {KEY[:-1]}",
            f"Basic {KEY}",
            KEY,
            "Bearer \u00e9".encode("latin-1"),
        ):
            assert ask(key) == refused, key
        assert ask() == refused
        assert ask(f"Bearer {KEY}") == ask(f"bearer {KEY}") == opened


def test_an_address_others_can_reach_needs_a_key() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(OptionError, match=KEY_VARIABLE):
            ServerConfig(host=host)
        assert ServerConfig(host=host, key=KEY).host == host
    for host in ("127.0.0.1", "127.0.0.9", "::1", "localhost"):
        assert ServerConfig(host=host).key is None
    with pytest.raises(OptionError, match="5 characters; take 16"):
        ServerConfig(key="short")


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"port": 65_536}, "port is 65536"),
        ({"deadline_s": float("nan")}, "deadline_s is nan; it must be a number above 0"),
        ({"room": Room(entries=0, tokens=9)}, "room for 0 texts and 9 tokens"),
        ({"max_body_bytes": 9, "max_held_bytes": 8}, "max_body_bytes is 9, above max_held_bytes, 8"),
    ],
)
def test_limits_that_would_refuse_everything_are_refused(limits: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        ServerConfig(**limits)


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY} ", f"{KEY[:8]} {KEY[8:]}", f"{KEY}\u00fc", "short"])
def test_a_key_that_cannot_be_used_is_refused_on_both_sides_and_not_told(key: str) -> None:
    with pytest.raises(OptionError, match=KEY_VARIABLE) as server:
        ServerConfig(key=key)
    with pytest.raises(OptionError, match=KEY_VARIABLE) as client:
        RemoteEncoder("http://127.0.0.1:9", key=key)
    assert key.strip() not in str(server.value) + str(client.value)


def test_a_key_from_a_file_may_end_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, key in ((f"{KEY}\r\n", KEY), (f" {KEY} ", KEY), ("\n", None), ("", None)):
        monkeypatch.setenv(KEY_VARIABLE, text)
        assert key_from_environment() == key


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["deadline_s", "body_s", "idle_s", "drain_s"])
def test_times_are_finite_and_above_zero(name: str, value: float) -> None:
    with pytest.raises(OptionError, match=f"{name} is .*; it must be a number above 0"):
        ServerConfig(**{name: value})  # pyright: ignore[reportArgumentType]


def test_connections_above_the_limit_are_told_to_come_back() -> None:
    with server_thread(broken_encoder(), ServerConfig(max_connections=3)) as server:
        kept = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        end = time.monotonic() + 30
        while server.service.connections() < 3 and time.monotonic() < end:
            time.sleep(0.005)
        response = post(server.url, inputs="bank")
        assert response.status_code == 503
        assert response.headers["retry-after"]
        for connection in kept:
            connection.close()
        while server.service.connections() > 0 and time.monotonic() < end:
            time.sleep(0.005)
        assert post(server.url, inputs="bank").status_code == 200
