"""A real Label Studio server for tests, one per session on a free port, and helpers around it."""

import shutil
import socket
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from active.annotation.service import Task
from active.label_studio.service import LabelStudioService
from flows.servers.label_studio import StudioInfo, StudioServer

CLASSES = ("earn", "acq", "crude", "trade")


def free_port() -> int:
    """A TCP port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def studio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioServer]:
    """A started server; its first start applies all migrations and takes 25 s or more."""
    server = StudioServer(tmp_path_factory.mktemp("studio") / "server", port=free_port())
    if not (server.environment / "bin" / "label-studio").is_file():
        pytest.skip(f"no Label Studio in {server.environment}: make studio-env")
    server.start()
    yield server
    server.process.stop()


@pytest.fixture(scope="session")
def studio(studio_server: StudioServer) -> StudioInfo:
    """Address, log-in and key of the started server."""
    info = studio_server.status()
    assert info is not None, f"the server ended; see {studio_server.process.log}"
    return info


@pytest.fixture
def service(studio: StudioInfo) -> LabelStudioService:
    """A project of its own on the server; `ensure_project` has not been called."""
    return LabelStudioService(studio.url, studio.api_key, f"test {uuid.uuid4().hex[:12]}")


@pytest.fixture
def studio_copy(studio_server: StudioServer, tmp_path: Path) -> Iterator[StudioServer]:
    """A second server that is not started yet, with the first one's data, so that it has nothing to migrate."""
    shutil.copytree(studio_server.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("studio.lock", "*-journal"))
    server = StudioServer(tmp_path / "copy", port=free_port())
    yield server
    server.process.stop()


def api(studio: StudioInfo, method: str, path: str, **options: object) -> httpx.Response:
    """A request to the server as its user, around the SDK; fails on an error status."""
    headers = {"Authorization": f"Token {studio.api_key}"}
    response = httpx.request(method, studio.url + path, headers=headers, timeout=30, **options)  # pyright: ignore
    assert response.is_success, response.text[:500]
    return response


_personal_tokens: dict[str, str] = {}


def personal_token(studio: StudioInfo) -> str:
    """The personal access token of the server's user, who may have one only."""
    if studio.url not in _personal_tokens:
        _personal_tokens[studio.url] = api(studio, "POST", "/api/token/").json()["token"]
    return _personal_tokens[studio.url]


def project_of(studio: StudioInfo, service: LabelStudioService) -> dict[str, object]:
    """The service's project as the server describes it; there must be exactly one."""
    found = api(studio, "GET", "/api/projects/", params={"title": service.project}).json()["results"]
    assert len(found) == 1, found
    return api(studio, "GET", f"/api/projects/{found[0]['id']}/").json()


def make_tasks(count: int, *, first: int = 0, text: str = "Oil prices rose on Monday.") -> list[Task]:
    """Tasks in descending value, as a selection gives them."""
    return [
        Task(
            item_id=f"item-{number}",
            text=f"{text} ({number})",
            cycle=1,
            rank=number + 1,
            value=1.0 - number / 1000,
            reason="speaks for 12 similar texts; the end model is unsure",
            prediction=CLASSES[number % 4],
            confidence=0.6,
            model_version="end-model-1",
        )
        for number in range(first, first + count)
    ]


def log_in(driver: webdriver.Chrome, studio: StudioInfo) -> None:
    """Log the server's user in, as a person does."""
    driver.get(studio.url + "/user/login/")
    driver.find_element(By.NAME, "email").send_keys(studio.username)
    driver.find_element(By.NAME, "password").send_keys(studio.password)
    driver.find_element(By.CSS_SELECTOR, "form [type=submit]").click()
    WebDriverWait(driver, 60).until(lambda page: "/user/login" not in page.current_url)


Answer = Callable[[BaseHTTPRequestHandler, bytes], None]


@contextmanager
def http_server(answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A real HTTP server on loopback for faults that Label Studio cannot be made to show; yields its address.

    Args:
        answer: called with the request handler and the request's body; writes the response, or none.
        tls: the server's certificate; None for plain HTTP.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self, self.rfile.read(int(self.headers.get("Content-Length") or 0)))

        do_POST = do_PATCH = do_DELETE = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def proxy(
    studio: StudioInfo,
    cut: Callable[[str, str], bool] = lambda *_: False,
    *,
    drop: Callable[[str, str], bool] = lambda *_: False,
    swap: Callable[[str, str], Answer | None] = lambda *_: None,
    spoil: Callable[[str, str], bool] = lambda *_: False,
    tls: ssl.SSLContext | None = None,
) -> Iterator[str]:
    """A proxy before the server that loses requests and responses; all hooks are called with method and path.

    Args:
        studio: the server.
        cut: after the server has answered; True closes the connection without a response.
        drop: before; True closes the connection, and the server never hears of it.
        swap: after the server has answered; what it returns answers in the server's place.
        spoil: before; True breaks the token, so that the server refuses it.
        tls: the proxy's certificate; None for plain HTTP.
    """

    def forward(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        call = handler.command, handler.path
        if drop(*call):
            handler.close_connection = True
            return
        headers = {key: value for key, value in handler.headers.items() if key.lower() != "host"}
        if spoil(*call):
            headers = {key: value for key, value in headers.items() if key.lower() != "authorization"}
        response = httpx.request(
            handler.command, studio.url + handler.path, content=body, headers=headers, timeout=60, trust_env=False
        )
        other = swap(*call)
        if other is not None:
            other(handler, body)
            return
        if cut(*call):
            handler.close_connection = True
            return
        handler.send_response(response.status_code)
        handler.send_header("Content-Type", response.headers.get("content-type", "text/plain"))
        handler.send_header("Content-Length", str(len(response.content)))
        handler.end_headers()
        handler.wfile.write(response.content)

    with http_server(forward, tls) as url:
        yield url


def sign_up(studio: StudioInfo) -> StudioInfo:
    """A further annotator of the server, invited as a person is: address, log-in and a key of their own."""
    link = api(studio, "GET", "/api/invite").json()["invite_url"]
    email, password = f"annotator-{uuid.uuid4().hex[:8]}@siftline.local", uuid.uuid4().hex
    with httpx.Client(base_url=studio.url, timeout=60, trust_env=False) as browser:
        browser.get(link)
        form = {"csrfmiddlewaretoken": browser.cookies["csrftoken"], "email": email, "password": password}
        assert browser.post(link, data=form, headers={"Referer": studio.url + link}).status_code == 302
        token = browser.get("/api/current-user/token").json()["token"]
    return StudioInfo(url=studio.url, username=email, password=password, api_key=token, pid=studio.pid)


def choose(annotator: StudioInfo, task_id: int | str, label: str) -> None:
    """Answer a task as this annotator, the way the labeling page does."""
    part = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}
    api(annotator, "POST", f"/api/tasks/{task_id}/annotations/", json={"result": [part], "lead_time": 2.5})
