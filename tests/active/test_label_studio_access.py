"""Getting in: both kinds of key, tokens that end in the middle of a push, and a server behind TLS."""

import socket
import ssl
import struct
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from active.label_studio.service import LabelStudioService
from active.queue.outbox import QueueConfig
from active.queue.push import push
from flows.servers.label_studio import StudioInfo
from tests.active.plans import plan, states
from tests.active.test_label_studio_faults import LOGIN_PAGE, answering
from tests.servers import make_certificate
from tests.studio import CLASSES, make_tasks, personal_token, proxy
from warehouse import Lake, ServiceError, ServiceRefused, SiftlineError

pytestmark = pytest.mark.studio


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("kind", ["legacy token", "personal access token"])
def test_a_server_behind_tls(
    studio: StudioInfo, service: LabelStudioService, certificate: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    key = studio.api_key if kind == "legacy token" else personal_token(studio)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with proxy(studio, tls=tls) as url:
        with pytest.raises(ServiceRefused, match=r"does not trust.*SSL_CERT_FILE"):
            LabelStudioService(url, key, service.project).ensure_project(CLASSES)
        monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}.crt")
        encrypted = LabelStudioService(url, key, service.project)
        encrypted.ensure_project(CLASSES)
        assert list(encrypted.push(make_tasks(2))) == ["item-0", "item-1"]


def test_a_short_lived_token_that_ends_in_the_middle_is_renewed(
    lake: Lake, studio: StudioInfo, service: LabelStudioService
) -> None:
    token = personal_token(studio)
    ids = plan(lake, service.project, [0.9, 0.8])
    refused: list[str] = []
    renewed: list[str] = []

    def spoil(method: str, path: str) -> bool:
        if path.startswith("/api/token/refresh"):
            renewed.append(path)
        if path.endswith(("/import", "/whoami")) and path not in refused:
            refused.append(path)
            return True
        return False

    with proxy(studio, spoil=spoil) as url:
        through = LabelStudioService(url, token, service.project)
        push(lake, through, QueueConfig(project=service.project, classes=CLASSES))
        assert through.names_of({}) == {}
    assert (len(refused), len(renewed)) == (2, 3)
    assert {item: len(tasks) for item, tasks in service.find(ids).items()} == dict.fromkeys(ids, 1)


def reset(handler: BaseHTTPRequestHandler, _: bytes) -> None:
    """Close the connection as a machine that died does: with RST."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def drip(handler: BaseHTTPRequestHandler, _: bytes) -> None:
    """A body that comes byte by byte and has no end."""
    handler.send_response(201)
    handler.send_header("Content-Length", "1000000000")
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" ")
            handler.wfile.flush()
    except OSError:
        handler.close_connection = True


FAULTS = {
    "reset connection": (reset, ServiceError, "cannot be reached"),
    "429": (answering(429, "{}", retry_after="7"), ServiceError, "asks to wait 7 s"),
    "401": (answering(401, '{"detail": "Invalid token."}'), ServiceRefused, "Account & Settings"),
    "log-in page": (answering(200, LOGIN_PAGE, "text/html"), ServiceError, "log-in page"),
    "slow body": (drip, ServiceError, "in time"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_middle_of_a_push_loses_and_doubles_nothing(
    lake: Lake, studio: StudioInfo, service: LabelStudioService, fault: str
) -> None:
    """The third of three requests for tasks is answered wrongly, though the server has stored its tasks."""
    answer, kind, words = FAULTS[fault]
    config = QueueConfig(project=service.project, classes=CLASSES, chunk=2)
    ids = plan(lake, service.project, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    imports: list[str] = []

    def third(method: str, path: str) -> bool:
        if "/import" in path:
            imports.append(path)
        return "/import" in path and len(imports) == 3

    with (
        proxy(studio, swap=lambda *call: answer if third(*call) else None) as url,
        pytest.raises(kind, match=words),
    ):
        push(lake, LabelStudioService(url, studio.api_key, service.project, timeout_s=3), config)
    assert states(lake) == {"confirmed": 4, "sent": 2}
    assert len(service.find(ids)) == 6
    push(lake, service, config)
    assert states(lake) == {"confirmed": 6}
    assert {item: len(tasks) for item, tasks in service.find(ids).items()} == dict.fromkeys(ids, 1)


def test_a_key_that_is_revoked_in_the_middle_needs_a_person_and_loses_nothing(
    lake: Lake, studio: StudioInfo, service: LabelStudioService
) -> None:
    token = personal_token(studio)
    config = QueueConfig(project=service.project, classes=CLASSES)
    ids = plan(lake, service.project, [0.9, 0.8])
    with proxy(studio, spoil=lambda _, path: "/import" in path) as url, pytest.raises(SiftlineError) as raised:
        push(lake, LabelStudioService(url, token, service.project), config)
    assert isinstance(raised.value, ServiceRefused)
    assert token not in str(raised.value)
    assert states(lake) == {"sent": 2}
    push(lake, service, config)
    assert {item: len(tasks) for item, tasks in service.find(ids).items()} == dict.fromkeys(ids, 1)
