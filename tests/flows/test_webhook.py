"""Webhooks lost, doubled, reordered, forged and in a burst of 10,000: hints are one file, and the pull converges."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from active.label_studio.service import LabelStudioService
from flows.cli.main import run_command
from flows.deployments.webhook import (
    ACTIONS,
    HEADER,
    MAX_BODY_BYTES,
    Hint,
    collect_on_hints,
    secret_from_env,
    webhook_server,
)
from flows.servers.label_studio import StudioInfo
from tests.prefect_runs import wait_for
from tests.studio import CLASSES, api, free_port
from warehouse import ServiceRefused, SettingsError, SiftlineError, WarehouseBusy

SECRET = "0123456789abcdef"


@pytest.fixture
def hint(tmp_path: Path) -> Hint:
    return Hint(tmp_path / "collect-wanted")


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    """Set after a while, so that a loop that nobody ends fails its test."""
    event = threading.Event()
    late = threading.Timer(20.0, event.set)
    late.start()
    yield event
    late.cancel()


@pytest.fixture
def receiver(hint: Hint, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """A client of a receiver on loopback that carries the secret."""
    monkeypatch.setattr("flows.deployments.webhook.IDLE_S", 1.0)
    monkeypatch.setattr("flows.deployments.webhook.MOST_CONNECTIONS", 8)
    port = free_port()
    server = webhook_server(hint, SECRET, host="127.0.0.1", port=port)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={HEADER: SECRET}, trust_env=False) as client:
        while not server.started:
            assert thread.is_alive()
            thread.join(0.01)
        yield client
    server.should_exit = True
    thread.join(10)


def test_a_webhook_is_one_hint_that_is_taken_once(receiver: httpx.Client, hint: Hint) -> None:
    assert not hint.take()
    for _ in range(2):
        assert receiver.post("/hook", json={"action": "ANNOTATION_CREATED"}).status_code == 204
    assert hint.take()
    assert not hint.take()


@pytest.mark.parametrize("secret", ["", "wrong", SECRET + "x", SECRET[:-1], "\u00e9" * 16])
def test_a_forged_one_leaves_no_hint(receiver: httpx.Client, hint: Hint, secret: str) -> None:
    answer = receiver.post(
        "/hook", json={"action": "ANNOTATION_CREATED"}, headers={HEADER.encode(): secret.encode("latin-1")}
    )
    assert answer.status_code == 403
    assert not hint.take()


def test_bodies_over_the_limit_are_refused_with_and_without_a_length(receiver: httpx.Client, hint: Hint) -> None:
    assert receiver.post("/hook", content=b"x" * (MAX_BODY_BYTES + 1)).status_code == 413
    assert receiver.post("/hook", content=iter([b"x" * MAX_BODY_BYTES, b"x"])).status_code == 413
    assert not hint.take()
    assert receiver.post("/hook", content=b"\xff not json").status_code == 204  # nobody reads it


def test_a_sender_that_left_before_its_body_was_read_gave_a_hint(receiver: httpx.Client, hint: Hint) -> None:
    """Label Studio waits a second for an answer."""
    head = f"POST /hook HTTP/1.1\r\nHost: siftline\r\n{HEADER}: {SECRET}\r\nContent-Length: 9\r\n\r\n"
    with socket.create_connection((receiver.base_url.host, receiver.base_url.port or 80)) as sender:
        sender.sendall(head.encode() + b"{")
    wait_for(hint.take)


def test_silent_connections_keep_hints_out_for_a_moment_only(receiver: httpx.Client, hint: Hint) -> None:
    with ExitStack() as open_ones:
        for _ in range(9):
            place = (receiver.base_url.host, receiver.base_url.port)
            open_ones.enter_context(socket.create_connection(place)).sendall(b"POST /hook HTTP/1.1\r\n")
        assert receiver.post("/hook", headers={"Connection": "close"}).status_code == 503
        wait_for(lambda: receiver.post("/hook", headers={"Connection": "close"}).status_code == 204)
    assert hint.take()


def test_other_ways_and_methods_are_not_there(receiver: httpx.Client, hint: Hint) -> None:
    assert receiver.get("/health").status_code == 200
    assert receiver.get("/hook").status_code == 405
    assert receiver.post("/").status_code == 404
    assert not hint.take()


def test_a_burst_of_10000_is_one_collect(receiver: httpx.Client, hint: Hint, stop: threading.Event) -> None:
    hook = f"POST /hook HTTP/1.1\r\nHost: siftline\r\n{HEADER}: {SECRET}\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    with socket.create_connection((receiver.base_url.host, receiver.base_url.port or 80), timeout=60) as burst:
        for _ in range(20):  # 500 without a wait for an answer; more would fill what both sides hold for the other
            burst.sendall(hook * 500)
            answers = b""
            while answers.count(b"\r\n\r\n") < 500:
                part = burst.recv(1 << 16)
                assert part, answers[-500:]
                answers += part
            assert answers.count(b"HTTP/1.1 204 ") == 500
    assert [path.name for path in hint.path.parent.iterdir()] == ["collect-wanted"]
    collected: list[int] = []

    def collect() -> None:
        collected.append(1)
        stop.set()

    collect_on_hints(hint, collect, stop, lambda _: None, every_s=0.01)
    assert collected == [1]
    assert not hint.take()


@pytest.mark.parametrize(("failure", "again"), [(WarehouseBusy, True), (ServiceRefused, False)])
def test_a_collect_that_cannot_work_now_is_wanted_again_and_one_that_a_person_must_mend_is_not(
    hint: Hint, stop: threading.Event, failure: type[SiftlineError], again: bool
) -> None:
    said: list[str] = []

    def collect() -> None:
        raise failure("it cannot be done")

    def say(words: str) -> None:
        said.append(words)
        stop.set()

    hint.give()
    collect_on_hints(hint, collect, stop, say, every_s=0.01)
    assert said == ["it cannot be done"]
    assert hint.take() == again


def test_what_comes_while_a_collect_works_is_a_hint_for_the_next(hint: Hint, stop: threading.Event) -> None:
    runs: list[int] = []

    def collect() -> None:
        runs.append(1)
        if len(runs) == 1:
            hint.give()
        else:
            stop.set()

    hint.give()
    collect_on_hints(hint, collect, stop, lambda _: None, every_s=0.01)
    assert runs == [1, 1]


@pytest.mark.parametrize(
    "secret", ["", "short", "x" * 15, "\u00e9" * 20, "0123456789\t abcdef", SECRET + " ", " " + SECRET]
)
def test_a_weak_secret_and_one_that_no_header_carries_are_refused(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv("SIFTLINE_WEBHOOK_SECRET", secret)
    with pytest.raises(SettingsError, match="16 or more"):
        secret_from_env()


@pytest.mark.studio
def test_it_is_registered_once_and_label_studio_refuses_loopback(
    studio: StudioInfo, service: LabelStudioService
) -> None:
    service.ensure_project(CLASSES)
    with pytest.raises(ServiceRefused, match=r"reserved network address.*a public name") as refused:
        service.register_webhook("http://127.0.0.1:8190/hook", headers={HEADER: SECRET}, actions=ACTIONS)
    assert "the key" not in str(refused.value), "a new key would not help"
    for secret in ("an older secret!", SECRET):
        service.register_webhook("http://93.184.215.14/hook", headers={HEADER: secret}, actions=ACTIONS)
    project = api(studio, "GET", "/api/projects/", params={"title": service.project}).json()["results"][0]["id"]
    [hook] = api(studio, "GET", "/api/webhooks/", params={"project": project}).json()
    assert hook["headers"] == {HEADER: SECRET}
    assert sorted(hook["actions"]) == sorted(ACTIONS)


def test_a_port_that_is_taken_or_none_is_refused_before_anything_is_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["init", str(tmp_path / "project"), "--classes", "a,b"]) == 0
    monkeypatch.setenv("SIFTLINE_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "a" * 40)
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = holder.getsockname()[1]
        for port, told in (
            (taken, f"127.0.0.1:{taken} cannot be listened on: .* Choose another --port or --host"),
            (70000, "--port.*65535"),
        ):
            command = ["webhook", "--project", str(tmp_path / "project"), "--port", str(port)]
            assert run_command([*command, "--register", "http://127.0.0.1:1/hook"]) == 2
            said = capsys.readouterr().err
            assert re.search(told, said)
            assert "Webhooks:" not in said
