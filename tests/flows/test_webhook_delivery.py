"""Label Studio's own webhooks to the real receiver, lost, doubled and out of order: every answer comes in once."""

import random
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn

from active.label_studio.service import LabelStudioService
from active.queue.collect import collect
from active.queue.cursor import Cursor
from active.queue.outbox import QueueConfig
from active.queue.push import push
from flows.deployments.webhook import ACTIONS, HEADER, Hint, collect_on_hints, webhook_app
from flows.servers import label_studio
from flows.servers.label_studio import StudioInfo, StudioServer
from tests.active.plans import plan, states
from tests.studio import CLASSES, api, choose, free_port, http_server
from warehouse import Lake

SECRET = "0123456789abcdef"
TASKS = 12
PATIENCE_S = 120.0

pytestmark = pytest.mark.studio


@pytest.fixture
def hooking(studio_copy: StudioServer, monkeypatch: pytest.MonkeyPatch) -> StudioInfo:
    """A server that may send webhooks to loopback."""
    monkeypatch.setitem(label_studio._QUIET, "SSRF_PROTECTION_ENABLED", "false")  # pyright: ignore[reportPrivateUsage]
    return studio_copy.start()


class Road:
    """Between the server and the receiver: each hook is lost, passed on twice, or held back and passed on late."""

    def __init__(self, receiver: str) -> None:
        self.receiver, self.dice = receiver, random.Random(5)
        self.came = self.lost = self.doubled = 0
        self.held: list[tuple[dict[str, str], bytes]] = []

    def __call__(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        hook = {HEADER: handler.headers[HEADER]}, body
        self.came += 1
        fate = self.dice.choice(("lost", "doubled", "late"))
        if fate == "lost":
            self.lost += 1
            handler.close_connection = True
            return
        if fate == "late":
            self.held.append(hook)
        else:
            self.doubled += 1
            for _ in range(2):
                self.deliver(hook)
        handler.send_response(204)
        handler.end_headers()

    def deliver(self, hook: tuple[dict[str, str], bytes]) -> None:
        headers, body = hook
        assert httpx.post(self.receiver, headers=headers, content=body, trust_env=False).status_code == 204

    def deliver_late_ones(self) -> None:
        """The newest first."""
        while self.held:
            self.deliver(self.held.pop())


@contextmanager
def receiving(hint: Hint, gather: Callable[[], object]) -> Generator[str]:
    """A receiver with its collector; yields the address for hooks."""
    port, stop = free_port(), threading.Event()
    server = uvicorn.Server(uvicorn.Config(webhook_app(hint, SECRET), port=port, log_level="error"))
    serving = threading.Thread(target=server.run, daemon=True)
    collecting = threading.Thread(
        target=collect_on_hints, args=(hint, gather, stop, print), kwargs={"every_s": 0.05}, daemon=True
    )
    serving.start()
    collecting.start()
    while not server.started:
        assert serving.is_alive()
        serving.join(0.01)
    try:
        yield f"http://127.0.0.1:{port}/hook"
    finally:
        stop.set()
        server.should_exit = True
        collecting.join(60)
        serving.join(10)
        assert not collecting.is_alive()


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def history(lake: Lake) -> list[tuple[Any, ...]]:
    """Every row of `annotations`, in the order of the answers."""
    with lake.read() as reader:
        return reader.rows(
            "SELECT item_id, action, class_id FROM annotations ORDER BY item_id, committed_at, annotation_id"
        )


def test_every_answer_comes_once_whatever_becomes_of_the_hooks(lake: Lake, tmp_path: Path, hooking: StudioInfo) -> None:
    service = LabelStudioService(hooking.url, hooking.api_key, "hooks")
    config = QueueConfig(project=service.project, classes=CLASSES)
    items = plan(lake, service.project, np.linspace(0.9, 0.1, TASKS).tolist())
    push(lake, service, config)
    tasks = {item: held[0] for item, held in service.find(items).items()}
    hint, cursor, collected = Hint(tmp_path / "collect-wanted"), Cursor(tmp_path / "cursor.json"), threading.Lock()

    def gather() -> None:
        with collected:
            collect(lake, service, config, cursor=cursor)

    def latest() -> dict[str, tuple[str, int]]:
        return {item: (action, class_id) for item, action, class_id in history(lake)}

    with receiving(hint, gather) as receiver, http_server(road := Road(receiver)) as address:
        service.register_webhook(address + "/hook", headers={HEADER: SECRET}, actions=ACTIONS)
        for item in items:
            choose(hooking, tasks[item], "acq")
        assert road.came == TASKS
        assert min(road.lost, road.doubled, len(road.held)) > 1
        road.deliver_late_ones()
        # The last hook that arrived came after the last answer, so what the lost ones meant comes with it.
        wait_until(lambda: latest() == dict.fromkeys(items, ("labelled", 1)))
        assert len(history(lake)) == TASKS

        made = {item: api(hooking, "GET", f"/api/tasks/{tasks[item]}/annotations/").json()[0]["id"] for item in items}
        changed, deleted = items[0], items[1]
        crude = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": ["crude"]}}
        api(hooking, "PATCH", f"/api/annotations/{made[changed]}/", json={"result": [crude]})
        api(hooking, "DELETE", f"/api/annotations/{made[deleted]}/")
        assert road.came == TASKS + 2
        gather()  # on its schedule: whatever became of these two
        road.deliver_late_ones()  # and hooks about what is known already

    expected = dict.fromkeys(items, ("labelled", 1)) | {changed: ("labelled", 2), deleted: ("deleted", -1)}
    assert latest() == expected
    rows = history(lake)
    assert len(rows) == TASKS + 2, "an answer came twice, or a change was not kept"
    assert states(lake) == {"answered": TASKS - 1, "confirmed": 1}
