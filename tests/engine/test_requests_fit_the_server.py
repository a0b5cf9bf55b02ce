"""A client asks for as much as the server gets done in time, and is patient as long as something gets done."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler

import numpy as np
import pytest

from engine.client.adaptive_batches import CONNECTIONS, FIRST_TEXTS, STEADY, Portions
from engine.client.remote import RemoteEncoder
from engine.errors import EngineError, InputError, NumericError, OptionError, UnavailableError
from engine.runtime.request import Packed
from engine.serving.config import ServerConfig
from tests.engine.test_every_status_is_produced import broken_encoder
from tests.engine_servers import WAIT_S, server_thread
from tests.studio import http_server


def test_a_server_that_is_slow_for_its_deadline_is_asked_for_less_and_gets_all_the_time_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = broken_encoder()
    texts = [f"bank trade ship {number} " * 3 for number in range(90)]
    ours = encoder.encode(texts)
    scheduler = encoder.scheduler
    scheduler.batch_tokens = 64
    compute = scheduler._compute  # pyright: ignore[reportPrivateUsage]

    def slow(sequences: list[list[int]], traced: bool) -> Packed:
        time.sleep(0.1 * len(sequences))
        return compute(sequences, traced)

    monkeypatch.setattr(scheduler, "_compute", slow)
    with server_thread(encoder, ServerConfig(deadline_s=1.0)) as server:  # ten texts at most
        begun, told = time.monotonic(), list[int]()
        there = RemoteEncoder(server.url, patience_s=4.0).embed(texts, lambda done, _: told.append(done))
        assert np.array_equal(there.vectors, ours)
        assert time.monotonic() - begun > 4.0, "the test shows nothing: all was done while patience lasted"
    assert len(told) > 9, "progress is told a few texts at a time"


def test_patience_ends_where_nothing_gets_done(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = broken_encoder()
    with server_thread(encoder, ServerConfig(deadline_s=0.2)) as server:
        remote = RemoteEncoder(server.url, patience_s=1.0)
        with encoder.scheduler.paused(), pytest.raises(UnavailableError, match=r"answers 504 .*did for 1 s"):
            remote.encode(["bank"] * 90)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("dimension", -384),
        ("dimension", 10**12),
        ("queue_tokens", 0),
        ("queue_texts", "x"),
        ("limits", []),
    ],
)
def test_a_server_of_another_kind_is_named(name: str, value: object) -> None:
    info: dict[str, object] = {"encoder_id": "e", "dimension": 384, "max_tokens": 64}
    limits: dict[str, object] = {"max_inputs": 8, "max_body_bytes": 999, "queue_texts": 8, "queue_tokens": 999}
    (limits if name in limits else info)[name] = value
    told = json.dumps({"limits": limits, **info}).encode()

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(told)

    with http_server(answer) as url, pytest.raises(OptionError, match="is not that of `siftline engine serve`"):
        RemoteEncoder(url, patience_s=0.3)


@pytest.mark.parametrize(("status", "kind"), [(400, InputError), (424, NumericError), (500, UnavailableError)])
def test_what_a_server_says_is_cut_and_names_texts_that_there_are(status: int, kind: type[EngineError]) -> None:
    limits = {"max_inputs": 8, "max_body_bytes": 9999, "queue_texts": 8, "queue_tokens": 999}
    info = {"encoder_id": "e", "dimension": 2, "max_tokens": 64, "limits": limits}
    refusal = {"error": {"message": 100_000 * "x", "indexes": [-1, 0, 1, 10**18]}}

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        handler.send_response(status if body else 200)
        handler.end_headers()
        handler.wfile.write(json.dumps(refusal if body else info).encode())

    with http_server(answer) as url, pytest.raises(kind) as raised:
        RemoteEncoder(url, patience_s=0.3).embed(["bank"])
    assert len(str(raised.value)) < 1000
    error = raised.value
    named = error.indexes if isinstance(error, NumericError) else tuple(getattr(error, "reasons", {0: ""}))
    assert named == (0,)


def test_an_encoder_nobody_needs_any_more_keeps_no_connection() -> None:
    with server_thread(broken_encoder(), ServerConfig()) as server:
        remote = RemoteEncoder(server.url)
        client = remote._client  # pyright: ignore[reportPrivateUsage]
        assert not client.is_closed
        del remote
        assert client.is_closed


@pytest.mark.parametrize(
    "entry",
    [
        {"embedding": ["AACAPw=="]},  # one number, which NumPy would spread over the row
        {"embedding": "AACAPw=="},
        {"embedding": ""},
        {"tokens": 10**30},
        {"index": 1},
        {"route": {}},
    ],
    ids=str,
)
def test_an_answer_that_is_no_vector_is_named(entry: dict[str, object]) -> None:
    limits = {"max_inputs": 8, "max_body_bytes": 9999, "queue_texts": 8, "queue_tokens": 999}
    info = {"encoder_id": "e", "dimension": 2, "max_tokens": 64, "limits": limits}
    whole = {"index": 0, "embedding": "AACAPwAAAAA=", "tokens": 2, "truncated": False, "active_frac": 1, "route": ""}
    data: list[dict[str, object]] = []

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        handler.send_response(200)
        handler.send_header("X-Encoder-Id", "e")
        handler.end_headers()
        handler.wfile.write(json.dumps({"data": data} if body else info).encode())

    with http_server(answer) as url:
        remote = RemoteEncoder(url, patience_s=0.3)
        data[:] = [whole]
        assert remote.embed(["bank"]).vectors.tolist() == [[1, 0]]
        data[:] = [whole | entry]
        with pytest.raises(UnavailableError, match="an answer that cannot be read"):
            remote.embed(["bank"])


def test_a_proxy_that_takes_less_is_asked_for_less_and_its_pages_are_waited_out() -> None:
    """nginx takes bodies of 1 MB by default; a page of it may have the status 200."""
    limits = {"max_inputs": 8, "max_body_bytes": 9999, "queue_texts": 8, "queue_tokens": 999}
    info = {"encoder_id": "e", "dimension": 2, "max_tokens": 64, "limits": limits}
    vector: dict[str, object] = {"embedding": "AACAPwAAAAA=", "tokens": 2, "truncated": False}
    vector |= {"active_frac": 1, "route": ""}
    taken, pages = 2, 1

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        nonlocal pages
        count = len(json.loads(body)["input"]) if body else 0
        told = json.dumps({"data": [{"index": n, **vector} for n in range(count)]} if count else info)
        handler.send_response(413 if count > taken else 200)
        if count > taken or (count and pages):
            pages -= count <= taken
            told = "<html>"
        else:
            handler.send_header("X-Encoder-Id", "e")
        handler.end_headers()
        handler.wfile.write(told.encode())

    with http_server(answer) as url:
        remote = RemoteEncoder(url, patience_s=WAIT_S)
        assert remote.embed(["bank"] * 8).vectors.tolist() == [[1, 0]] * 8
        assert pages == 0
        taken = 0
        with pytest.raises(InputError, match=r"Text 0 is one text that is too large: .* answers 413"):
            remote.embed(["bank"])


def test_requests_double_until_the_first_refusal_and_grow_slowly_from_then_on() -> None:
    portions = Portions(128)
    sizes = [portions.texts]
    while sizes[-1] < 128:
        portions.answered(sizes[-1])
        sizes.append(portions.texts)
    assert sizes == [FIRST_TEXTS, 16, 32, 64, 128]
    for _ in range(CONNECTIONS):  # requests that were on their way together and are refused together
        portions.refused(128)
    assert portions.texts == 64
    for _ in range(STEADY):
        portions.answered(64)
    assert portions.texts == 72
    for _ in range(10):
        portions.refused(portions.texts)
    assert portions.texts == 1


def test_fewer_requests_are_on_their_way_while_the_server_refuses() -> None:
    portions = Portions(128)
    assert _at_once(portions) == CONNECTIONS
    portions.refused(8)
    portions.refused(8)
    assert _at_once(portions) == 1
    for _ in range(STEADY):
        portions.answered(1)
    assert _at_once(portions) == 2


def _at_once(portions: Portions) -> int:
    """How many of many threads that want a turn have one at a time."""
    inside, most, lock = 0, 0, threading.Lock()

    def ask() -> None:
        nonlocal inside, most
        with portions.turn():
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.2)
            with lock:
                inside -= 1

    threads = [threading.Thread(target=ask) for _ in range(2 * CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    return most
