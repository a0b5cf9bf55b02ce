"""Connections: what is no HTTP, what is too many, and that each answer is counted, whoever gave it."""

import socket
import time
from collections.abc import Callable
from contextlib import suppress

import httpx
import orjson
import pytest

from engine.serving.config import ServerConfig
from tests.engine.test_every_status_is_produced import KEY, broken_encoder
from tests.engine_servers import ServerThread, post, raw_request, server_thread

POST = b"POST /embed HTTP/1.1\r\nHost: x\r\n"


def until(holds: Callable[[], bool], within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def counted(server: ServerThread, path: str, status: int, **headers: str) -> bool:
    text = httpx.get(f"{server.url}/metrics", headers=headers).text
    return f'siftline_requests_total{{path="{path}",status="{status}"}} 1.0' in text.splitlines()


@pytest.mark.parametrize(
    "content",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,  # TLS
        POST + b"X: " + b"x" * 100_000,
        POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
        POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nno number\r\n",
        POST + b"Transfer-Encoding: gzip\r\n\r\n{}",
    ],
    ids=["words", "tls", "long head", "long number", "two lengths", "broken chunk", "unknown coding"],
)
def test_what_is_no_http_is_told_so_in_json(content: bytes) -> None:
    with server_thread(broken_encoder()) as server:
        head, _, body = raw_request(server.port, content).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 "), head
        assert orjson.loads(body)["error_type"] == "invalid_request"
        assert counted(server, "other", 400)
        until(lambda: server.service.held.now == 0 and server.service.in_progress == 0)
        assert post(server.url, inputs="bank").status_code == 200


def test_connections_above_twice_the_limit_are_closed_before_they_cost_anything() -> None:
    with server_thread(broken_encoder(), ServerConfig(max_connections=3)) as server:
        kept = []
        for number in range(1, 7):
            kept.append(socket.create_connection(("127.0.0.1", server.port)))
            until(lambda number=number: server.service.connections() == number)
        beyond = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        with suppress(ConnectionResetError):
            assert beyond.recv(100) == b""
        assert server.service.connections() == 6
        kept[5].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept[5].recv(4096)[9:12] == b"503"
        for connection in kept:
            connection.close()
        until(lambda: server.service.connections() == 0)
        assert counted(server, "/health", 503)


def test_answers_that_nobody_fetches_are_given_up_the_oldest_first() -> None:
    config = ServerConfig(max_held_bytes=100_000, max_body_bytes=50_000, idle_s=60.0)
    with server_thread(broken_encoder(), config) as server:
        body = orjson.dumps({"inputs": ["bank"] * 500})
        slow = list[socket.socket]()

        def fetch() -> None:
            answer = b""
            while not answer.endswith(b"]]"):
                answer += slow[-1].recv(65536)
            assert len(orjson.loads(answer.partition(b"\r\n\r\n")[2])) == 500

        for number in range(1, 6):
            slow.append(socket.socket())
            slow[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow[-1].connect(("127.0.0.1", server.port))
            slow[-1].sendall(POST + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            until(lambda number=number: f"siftline_request_seconds_count {number}.0" in _metrics(server))
            if number == 1:
                fetch()  # who caught up is none of those who wait
        until(lambda: server.service.connections() == 2)
        fetch()
        for connection in slow:
            connection.close()


def test_who_asks_again_and_fetches_nothing_is_closed_like_who_asks_once() -> None:
    with server_thread(broken_encoder(), ServerConfig(idle_s=1.0)) as server:
        body = orjson.dumps({"inputs": ["bank"] * 500})
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", server.port))
            slow.sendall(2 * (POST + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)))
            until(lambda: "siftline_request_seconds_count 2.0" in _metrics(server))
            until(lambda: server.service.connections() == 0)


def test_an_answer_that_is_fetched_slowly_comes_whole() -> None:
    with server_thread(broken_encoder(), ServerConfig(idle_s=1.0)) as server:
        for listener in server.server.servers[0].sockets:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # so that each part that is fetched shows
        body = orjson.dumps({"inputs": ["bank"] * 500})
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", server.port))
            slow.sendall(POST + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            answer = slow.recv(4096)
            began = time.monotonic()
            while not answer.endswith(b"]]"):
                time.sleep(0.025 if time.monotonic() - began < 2.5 else 0)
                part = slow.recv(2048)
                assert part, f"cut off after {time.monotonic() - began:.1f} s"
                answer += part
            assert time.monotonic() - began > 2.0, "longer than a client may fetch nothing"
        assert len(orjson.loads(answer.partition(b"\r\n\r\n")[2])) == 500


def _metrics(server: ServerThread) -> str:
    return server.service.metrics.text().decode()


def test_each_answer_is_counted_also_those_that_no_path_gave() -> None:
    with server_thread(broken_encoder(), ServerConfig(key=KEY)) as server:
        right = {"Authorization": f"Bearer {KEY}"}
        assert httpx.get(f"{server.url}/info").status_code == 401
        for number in range(2):
            name = f"nowhere{number}"
            assert httpx.get(f"{server.url}/{name}").status_code == 401
            assert name not in httpx.get(f"{server.url}/metrics", headers=right).text
        assert httpx.get(f"{server.url}/nowhere", headers=right).status_code == 404
        assert httpx.get(f"{server.url}/embed", headers=right).status_code == 405
        assert httpx.post(f"{server.url}/embed", headers=right, content=b"{").status_code == 400
        for path, status in (("/info", 401), ("other", 404), ("/embed", 405), ("/embed", 400)):
            assert counted(server, path, status, **right), (path, status)


def test_a_path_with_a_slash_too_many_is_no_redirect() -> None:
    with server_thread(broken_encoder()) as server:
        response = httpx.post(f"{server.url}/embed/", json={"inputs": "bank"})
        assert (response.status_code, response.json()["error_type"]) == (404, "not_found")
