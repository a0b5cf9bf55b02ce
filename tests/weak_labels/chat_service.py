"""A language model that is a small HTTP server of this process, and a client's settings for it."""

import contextlib
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.weak_labels.lf_helpers import config
from warehouse import Lake
from weak_labels import prompt
from weak_labels.applying.stage import vote
from weak_labels.prompting.client import PromptClient, PromptConfig

ASKS = prompt("Is this about sports?", {"yes": "sports", "no": None}, model="tiny", name="asks")
TEXTS = {"a": "a goal", "b": "an atom", "c": "a goal"}


class Service(ThreadingHTTPServer):
    """A small chat completion endpoint: yes where the text has a goal."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self.failures: list[tuple[int, dict[str, str], bytes]] = []
        self.takes_s = 0.0
        self.trickles_s = 0.0
        self.fails_on: str | None = None
        self.fails_with = 500
        self.answer = lambda text: "Yes." if "goal" in text else "no"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        failed = self.server.failures.pop(0)[0] if self.server.failures else 0
        self.send_response(failed or (200 if self.path == "/v1/models" else 404))
        self.send_header("content-length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append(body)
        self.server.keys.append(self.headers.get("authorization"))
        self.server.times.append(time.monotonic())
        time.sleep(self.server.takes_s)
        status, headers, content = 200, {}, b""
        if self.server.failures:
            status, headers, content = self.server.failures.pop(0)
        elif body["messages"][-1]["content"] == self.server.fails_on:
            status = self.server.fails_with
        else:
            answer = self.server.answer(body["messages"][-1]["content"])
            usage = {"prompt_tokens": 40, "completion_tokens": 2}
            content = json.dumps({"choices": [{"message": {"content": answer}}], "usage": usage}).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client may have left
            if self.server.trickles_s:
                for byte in content:
                    time.sleep(self.server.trickles_s)
                    self.wfile.write(bytes([byte]))
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def settings(service: Service, folder: Path, **changes: object) -> PromptConfig:
    values = {"url": service.url, "cache": folder / "answers.sqlite", "requests_per_minute": 60_000.0}
    return PromptConfig(**(values | changes))


def run(lake: Lake, given: PromptConfig, function: Any = ASKS) -> Any:
    with PromptClient(given) as client:
        return vote(lake, [function], config(), ask=client.ask)
