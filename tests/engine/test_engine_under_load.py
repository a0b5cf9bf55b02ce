"""What must hold under load and faults: the rows of "Engine under load", each on a real server on loopback.

Sizes are those a small machine does in seconds; the same at full size is marked heavy.
"""

import signal
import socket
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import httpx
import numpy as np
import pytest

from benchmarks.serving.load import Load, allow_many_files, request_bytes, storm
from engine.load import load_encoder
from engine.model.tokenizer import Tokens
from engine.runtime.local import LocalEncoder
from engine.runtime.request import Packed, Room
from engine.serving import app
from engine.serving.app import INLINE_CHARACTERS, Service
from engine.serving.config import ServerConfig
from engine.serving.connection import listen
from engine.serving.run import Server
from engine.serving.schemas import read_json
from tests.engine.test_every_status_is_produced import broken_encoder
from tests.engine.texts import make_texts
from tests.engine_servers import ServerProcess, post, raw_request, server_process, server_thread

RECOVERY_S = 5.0
SMALL = ("--encoder", "dense", "--max-tokens", "64", "--threads", "2", "--queue-tokens", "4096", "--queue-texts", "128")


def overload(server: ServerProcess, clients: int, *, texts: int, over_s: float) -> Load:
    """So many clients at once with far more work than can be done in the time they come in."""
    words = make_texts(texts, longest=60, seed=5)
    request = request_bytes("/embed", {"inputs": words})
    post(server.url, inputs=words)
    before = server.memory_mib()
    with ThreadPoolExecutor(1) as watcher:
        watching = True

        def watch() -> float:
            peak = before
            while watching:
                peak = max(peak, server.memory_mib())
                time.sleep(0.02)
            return peak

        peak = watcher.submit(watch)
        load = storm(server.port, [request] * clients, over_s=over_s, timeout_s=180.0)
        watching = False
    assert set(load.statuses) <= {200, 429, 503}, load.statuses
    assert load.statuses[200] > 0
    assert load.statuses[429] + load.statuses[503] > load.statuses[200]
    assert all(outcome.retry_after == (outcome.status != 200) for outcome in load.outcomes)
    end = time.monotonic() + RECOVERY_S
    while True:
        if post(server.url, inputs=words).status_code == 200:
            break
        assert time.monotonic() < end, "not recovered"
        time.sleep(0.1)
    assert httpx.get(f"{server.url}/health").status_code == 200
    # The bound: what may be held (64 MiB of bodies), and some tens of KiB for each connection.
    assert peak.result() - before < 64 + 0.08 * clients
    figures = httpx.get(f"{server.url}/metrics").text
    assert "siftline_queued_texts 0.0" in figures
    assert "siftline_queued_tokens 0.0" in figures
    return load


def test_ten_times_the_capacity_is_refused_in_words_and_nobody_is_left_waiting() -> None:
    with server_process(*SMALL) as server:
        overload(server, 300, texts=32, over_s=0.5)


def test_requests_whose_tokens_are_being_made_take_room(monkeypatch: pytest.MonkeyPatch) -> None:
    # Or thousands of requests wait for the tokenizer, each to be refused when its deadline has passed.
    encoder, go = broken_encoder(), threading.Event()
    tokenize = encoder.tokenize

    def slow(texts: Sequence[str]) -> list[Tokens]:
        assert go.wait(30)
        return tokenize(texts)

    monkeypatch.setattr(encoder, "tokenize", slow)
    texts = ["bank trade " * 5] * 100
    assert sum(map(len, texts)) > INLINE_CHARACTERS
    with (
        server_thread(encoder, ServerConfig(room=Room(entries=150, tokens=10**6))) as server,
        ThreadPoolExecutor(2) as callers,
    ):
        asked = [callers.submit(post, server.url, inputs=texts) for _ in range(2)]
        _until(lambda: server.service.in_progress == 2)
        third = post(server.url, inputs=texts)
        assert (third.status_code, "retry-after" in third.headers) == (429, True)
        with server.service.scheduler.paused():
            go.set()
            done, _ = wait(asked, timeout=30, return_when=FIRST_COMPLETED)
            assert [answer.result().status_code for answer in done] == [429]
        assert sorted(answer.result().status_code for answer in asked) == [200, 429]
        assert post(server.url, inputs=texts).status_code == 200


def test_a_storm_on_a_slow_machine_is_refused_at_once_and_not_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = broken_encoder()
    scheduler = encoder.scheduler
    scheduler.batch_tokens = 64
    compute = scheduler._compute  # pyright: ignore[reportPrivateUsage]

    def slow(sequences: list[list[int]], traced: bool) -> Packed:
        time.sleep(0.2)
        return compute(sequences, traced)

    monkeypatch.setattr(scheduler, "_compute", slow)
    texts = ["bank trade ship " * 5] * 8  # 16 tokens each: 15 s of work for forty callers
    with server_thread(encoder, ServerConfig(deadline_s=6.0)) as server, ThreadPoolExecutor(40) as callers:
        assert post(server.url, inputs=texts).status_code == 200
        answers = list(callers.map(lambda _: post(server.url, inputs=texts), range(40)))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    assert statuses.count(429) >= 20
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 429)


@pytest.mark.heavy
def test_ten_thousand_clients() -> None:
    assert allow_many_files() >= 12_000, "this test opens 10,000 connections; raise the limit of open files"
    # Clients connect before they ask, minutes before on a busy machine, where a full queue also takes long.
    with server_process(*SMALL, "--idle", "300", "--deadline", "120") as server:
        load = overload(server, 10_000, texts=64, over_s=20.0)
        assert load.statuses[503] > 0  # connections above the limit
        settled = server.memory_mib()
        overload(server, 10_000, texts=64, over_s=20.0)
        assert server.memory_mib() < settled * 1.15, "memory grows from storm to storm"


def test_slow_clients_do_not_slow_others_and_are_cut_off(encoder: LocalEncoder) -> None:
    with server_thread(encoder, ServerConfig(body_s=3.0, idle_s=3.0)) as server:
        half = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
        slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(500)]
        for number, connection in enumerate(slow):
            connection.sendall((half, b"POST /emb", b"")[number % 3])
        for text in make_texts(20, longest=40, seed=6):
            assert post(server.url, inputs=text).status_code == 200
        ended = []
        for number, connection in enumerate(slow):
            connection.settimeout(30)
            answer = b""
            while part := _received(connection):
                answer += part
            ended.append(answer[9:12])
            assert answer[9:12] == (b"408" if number % 3 == 0 else b""), answer[:80]
            connection.close()
        assert len(ended) == 500
        assert server.service.held.now == 0


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(4096)
    except ConnectionResetError:
        return b""


def test_texts_of_clients_who_left_are_not_computed(encoder: LocalEncoder) -> None:
    with server_thread(encoder, ServerConfig(room=Room(entries=100_000, tokens=10**7))) as server:
        scheduler = server.service.scheduler
        request = request_bytes("/embed", {"inputs": make_texts(60, longest=40, seed=7)})
        with scheduler.paused():
            leaving = []
            for _ in range(20):
                connection = socket.create_connection(("127.0.0.1", server.port))
                connection.sendall(request)
                leaving.append(connection)
            _until(lambda: scheduler.queued[0] == 20 * 60)
            for connection in leaving:
                connection.close()
            _until(lambda: scheduler.queued == (0, 0))
        assert post(server.url, inputs="bank").status_code == 200
        assert server.service.in_progress == 0
        assert server.service.held.now == 0


class _Fields(dict[str, object]):
    """The fields of a request; a weak reference tells whether they are still held."""


@pytest.mark.parametrize(("path", "name"), [("/embed", "inputs"), ("/v1/embeddings", "input")])
def test_a_request_that_waits_holds_its_texts_only(
    encoder: LocalEncoder, monkeypatch: pytest.MonkeyPatch, path: str, name: str
) -> None:
    held: list[weakref.ref[_Fields]] = []

    def read(body: bytes) -> _Fields:
        fields = _Fields(read_json(body))
        held.append(weakref.ref(fields))
        return fields

    monkeypatch.setattr(app, "read_json", read)
    with server_thread(encoder) as server, ThreadPoolExecutor(1) as callers:
        with server.service.scheduler.paused():
            body = {name: "bank", "more": [{}] * 1000}
            asked = callers.submit(httpx.post, server.url + path, json=body, timeout=30)
            _until(lambda: server.service.scheduler.queued[0] == 1)
            assert [one() for one in held] == [None]
        assert asked.result().status_code == 200


def _until(holds: object, within_s: float = 30.0) -> None:
    assert callable(holds)
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_is_far_too_large_is_refused_before_the_model(engine_server: ServerProcess) -> None:
    before = httpx.get(f"{engine_server.url}/metrics").text
    memory = engine_server.memory_mib()
    # 13 MB and 10 MB of JSON; the body's limit is 2 MiB.
    assert post(engine_server.url, inputs=["oil wheat"] * 1_000_000).status_code == 413
    assert post(engine_server.url, inputs="x" * 10_000_000).status_code == 413
    assert post(engine_server.url, inputs=["x"] * 5_000).status_code == 413
    chunked = b"%x\r\n%s\r\n" % (1 << 20, b" " * (1 << 20)) * 4
    head = b"POST /embed HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert raw_request(engine_server.port, head + chunked)[9:12] == b"413"
    after = httpx.get(f"{engine_server.url}/metrics").text
    for figure in ("siftline_batch_texts_count", "siftline_tokenize_seconds_count"):
        assert _figure(before, figure) == _figure(after, figure)
    assert engine_server.memory_mib() < memory + 40


def _figure(text: str, name: str) -> float:
    [line] = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


def test_a_poison_input_among_64_callers_fails_alone() -> None:
    encoder = broken_encoder()
    alone = encoder.encode(["bank trade"])
    with server_thread(encoder) as server, ThreadPoolExecutor(64) as callers:
        texts = ["bank trade"] * 64
        texts[17] = "bank oil"
        answers = list(callers.map(lambda text: post(server.url, inputs=text), texts))
    assert [index for index, answer in enumerate(answers) if answer.status_code != 200] == [17]
    assert answers[17].status_code == 424
    good = [answer.json()[0] for index, answer in enumerate(answers) if index != 17]
    assert (np.array(good, np.float32) == alone[0]).all()


@pytest.mark.parametrize(("drain", "some_refused"), [("60", False), ("0.05", True)])
def test_sigterm_with_a_full_queue_drains_or_refuses_before_its_deadline(drain: str, some_refused: bool) -> None:
    options = ("--encoder", "dense", "--max-tokens", "64", "--threads", "1", "--drain", drain, "--deadline", "300")
    with server_process(*options) as server, ThreadPoolExecutor(12) as callers:
        words = make_texts(100, longest=60, seed=8)
        asked = [callers.submit(post, server.url, inputs=words) for _ in range(4)]
        # A request is in the queue as soon as its tokens are there.
        _until(lambda: _figure(httpx.get(f"{server.url}/metrics").text, "siftline_tokenize_seconds_count") == 4)
        server.process.send_signal(signal.SIGTERM)
        answers = [one.result() for one in asked]
        statuses = {answer.status_code for answer in answers}
        assert statuses <= {200, 503}
        assert (503 in statuses) == some_refused
        assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 503)
        assert server.process.wait(60) == 0


def test_while_draining_health_and_new_requests_say_503(encoder: LocalEncoder) -> None:
    with server_thread(encoder) as server:
        half = socket.create_connection(("127.0.0.1", server.port))
        half.sendall(b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        _until(lambda: bool(server.service._readers))  # pyright: ignore[reportPrivateUsage]
        server.server._loop.call_soon_threadsafe(server.service.begin_drain)  # type: ignore[union-attr]
        assert half.recv(4096)[9:12] == b"503"
        assert httpx.get(f"{server.url}/health").status_code == 503
        assert post(server.url, inputs="bank").status_code == 503
        half.close()


def test_who_waits_when_a_second_sigterm_ends_the_server_is_told_503() -> None:
    with server_thread(broken_encoder()) as server, ThreadPoolExecutor(1) as callers:
        with server.service.scheduler.paused():
            asked = callers.submit(post, server.url, inputs="bank")
            _until(lambda: server.service.scheduler.queued[0] == 1)
            server.server.stop()
            server.server.stop()
            answer = asked.result()
        assert (answer.status_code, answer.json()["error_type"]) == (503, "unavailable")


@pytest.mark.parametrize("error", [OSError(28, "no space"), SystemExit(1)], ids=["full disk", "closed pipe"])
def test_a_server_whose_log_is_gone_drains_and_ends(error: BaseException) -> None:
    lines: list[str] = []

    def told(line: str) -> None:
        lines.append(line)
        raise error

    service = Service(broken_encoder(), ServerConfig(), {})
    server = Server(service, told)
    thread = threading.Thread(target=server.run, args=([listen("127.0.0.1", 0)],), daemon=True)
    thread.start()
    _until(lambda: server.started)
    with service.scheduler.paused():
        waiting = service.scheduler.submit([[1, 3]])
        server.stop()
        _until(lambda: service.draining)
    thread.join(30)
    assert not thread.is_alive()
    assert not waiting.answer.result(0).errors
    assert lines[-1] == "All that was admitted is answered."


def test_dead_workers_are_503_and_all_who_wait_are_answered() -> None:
    encoder = load_encoder("dense", max_tokens=64, threads=1)
    assert isinstance(encoder, LocalEncoder)
    with server_thread(encoder) as server, ThreadPoolExecutor(8) as callers:
        assert httpx.get(f"{server.url}/health").status_code == 200
        words = make_texts(100, longest=60, seed=9)
        asked = [callers.submit(post, server.url, inputs=words) for _ in range(5)]
        _until(lambda: server.service.scheduler.queued[0] > 100)
        server.service.scheduler._workers.shutdown(wait=False)  # pyright: ignore[reportPrivateUsage]
        statuses = [one.result().status_code for one in asked]
        assert set(statuses) <= {200, 503}
        assert 503 in statuses
        assert httpx.get(f"{server.url}/health").status_code == 503
        refused = post(server.url, inputs="bank")
        assert refused.status_code == 503
        assert "dead" in refused.json()["error"]["message"]


def test_the_key_and_the_texts_are_nowhere_to_be_read() -> None:
    key, canary = "canary-key-0123456789", "canary text 9a8b7c"
    with server_process("--encoder", "dense", "--max-tokens", "16", "--threads", "1", key=key) as server:
        pages = [
            httpx.get(f"{server.url}/{path}", headers={"Authorization": f"Bearer {key}"})
            for path in ("info", "metrics")
        ]
        answers = [
            post(server.url, key=key, inputs=canary),
            post(server.url, inputs=canary),
            post(server.url, key=key, x=canary),
        ]
        assert [answer.status_code for answer in answers] == [200, 401, 400]
        with open(f"/proc/{server.process.pid}/cmdline") as file:
            command = file.read()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        seen = "".join([*server.lines, command, *(page.text for page in pages), *(answer.text for answer in answers)])
    assert key not in seen
    assert canary not in seen
