"""A server that refuses, is away or is no Label Studio: the right kind of error, the way out, and never the key."""

import gzip
import json
import logging
import socket
import ssl
import threading
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote_plus

import httpx
import pytest

from active.label_studio.environment import server_from_env
from active.label_studio.service import LabelStudioService
from engine.client.proxies import client_for
from engine.errors import OptionError
from flows.servers.label_studio import StudioInfo
from tests.servers import make_certificate
from tests.studio import Answer, http_server
from warehouse import ServiceError, ServiceRefused, SettingsError, SiftlineError
from weak_labels.prompting.client import PromptClient, PromptConfig

CANARY = "canary-5d41402abc4b2a76b9719d911017c592"
LOGIN_PAGE = "<!doctype html><html><head><title>Log in</title></head><body><form></form></body></html>"


def answering(status: int, content: str, kind: str = "application/json", **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        data = content.encode()
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


CALLS: list[Callable[[LabelStudioService], object]] = [
    lambda service: service.ensure_project(("a", "b")),
    lambda service: service.find(["x"]),
    lambda service: service.pull(),
    lambda service: service.names_of({"1": [("1", "2026-01-01T00:00:00Z")]}),
]

FAULTS = {
    "unauthorized": (answering(401, f'{{"detail": "Invalid token {CANARY}."}}'), ServiceRefused, "Account & Settings"),
    "forbidden": (answering(403, '{"detail": "no"}'), ServiceRefused, "LABEL_STUDIO_API_KEY"),
    "not found": (answering(404, "<title>nginx</title>", "text/html"), ServiceRefused, "LABEL_STUDIO_URL"),
    "bad request": (answering(400, '{"detail": "Validation error"}'), ServiceRefused, "Validation error"),
    "redirect": (answering(302, "", location="https://other.example/"), ServiceRefused, "https://other.example/"),
    "too many": (answering(429, "{}", retry_after="7"), ServiceError, "asks to wait 7 s"),
    "server error": (answering(500, f"<h1>Oops {CANARY}</h1>", "text/html"), ServiceError, "status 500"),
    "tags without end": (answering(500, 40_000 * "<title" + 40_000 * "<title>"), ServiceError, "status 500"),
    "gateway": (answering(504, "timeout", "text/plain"), ServiceError, "status 504"),
    "log-in page": (answering(200, LOGIN_PAGE, "text/html"), ServiceError, "log-in page: Log in"),
    "empty": (answering(200, ""), ServiceError, "LABEL_STUDIO_URL"),
    "other JSON": (answering(200, '{"hello": "world"}'), ServiceError, "LABEL_STUDIO_URL"),
    "a list": (answering(200, "[1, 2]"), ServiceError, "LABEL_STUDIO_URL"),
    "null": (answering(200, "null"), ServiceError, "LABEL_STUDIO_URL"),
    "lists without end": (answering(200, 100_000 * "["), ServiceError, "LABEL_STUDIO_URL"),
}


def assert_no_canary(error: BaseException, log: pytest.LogCaptureFixture) -> None:
    text = "".join(traceback.format_exception(error))
    while error.__context__ is not None:  # also what `from None` only hides
        error = error.__context__
        if isinstance(error, SiftlineError):
            text += str(error)
    assert CANARY not in text
    assert CANARY not in log.text


@pytest.mark.parametrize("call", CALLS, ids=["ensure_project", "find", "pull", "names_of"])
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_kind_and_its_way_out(
    fault: str, call: Callable[[LabelStudioService], object], caplog: pytest.LogCaptureFixture
) -> None:
    answer, kind, words = FAULTS[fault]
    caplog.set_level(logging.DEBUG)
    with http_server(answer) as url, pytest.raises(kind) as raised:
        call(LabelStudioService(url, CANARY, "some project", timeout_s=10))
    assert words in str(raised.value)
    assert_no_canary(raised.value, caplog)


# Header {"alg":"HS256"}, payload {"token_type":"refresh","exp":32503680000}; the signature is not looked at.
PERSONAL = "eyJhbGciOiJIUzI1NiJ9.eyJ0b2tlbl90eXBlIjoicmVmcmVzaCIsImV4cCI6MzI1MDM2ODAwMDB9.AAAA"


@pytest.mark.parametrize("key", [CANARY, PERSONAL], ids=["legacy", "personal"])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, ServiceRefused),
        (408, ServiceError),
        (409, ServiceRefused),
        (425, ServiceError),
        (429, ServiceError),
        (500, ServiceError),
        (503, ServiceError),
    ],
)
def test_a_request_is_sent_once_whatever_comes_back(status: int, kind: type[SiftlineError], key: str) -> None:
    requests: list[str] = []

    def count(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        if handler.path.startswith("/api/token/refresh"):
            return answering(200, json.dumps({"access": PERSONAL}))(handler, body)
        requests.append(handler.path)
        return answering(status, "{}")(handler, body)

    with http_server(count) as url, pytest.raises(kind):
        LabelStudioService(url, key, "some project").pull()
    assert len(requests) == (2 if (status, key) == (401, PERSONAL) else 1), "but for one more with a new token"


def test_a_proxy_of_the_environment_stands_before_other_hosts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        asked.append(handler.path)
        answering(403, "{}")(handler, body)

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with http_server(refuse) as url:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # where nothing listens
        with pytest.raises(ServiceRefused):
            LabelStudioService(url, CANARY, "some project").pull()
        monkeypatch.setenv("HTTP_PROXY", url)
        with pytest.raises(ServiceRefused):
            LabelStudioService("http://studio.example", CANARY, "some project").pull()
    assert asked[0].startswith("/api/")
    assert asked[-1].startswith("http://studio.example/api/")
    for address in ("socks9://user:secret@127.0.0.1:9", "http://user:secret/of#mine@127.0.0.1:9"):
        monkeypatch.setenv("ALL_PROXY", address)
        LabelStudioService("http://127.0.0.1:8080", CANARY, "some project")
        with pytest.raises(SettingsError, match=r"proxy that the environment names.*begins with http://") as raised:
            LabelStudioService("http://studio.example", CANARY, "some project")
        assert "secret" not in str(raised.value)


def test_a_server_that_lists_the_same_tasks_again_and_again_is_given_up() -> None:
    at = "2026-01-01T00:00:00Z"
    project = {"id": 1, "title": "some project", "created_at": at, "task_number": 0}
    tasks = [{"id": number, "data": {"item_id": f"i{number}"}, "updated_at": at} for number in (1, 2)]

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        found = {"count": 1, "results": [project]} if "/projects" in handler.path else {"total": 3, "tasks": tasks}
        answering(200, json.dumps(found))(handler, body)

    with http_server(answer) as url:
        service = LabelStudioService(url, CANARY, "some project", timeout_s=10)
        with pytest.raises(ServiceError, match="lists the same tasks again"):
            service.find(["i1"])


def test_a_server_that_lists_the_same_projects_again_and_again_is_given_up() -> None:
    projects = [
        {"id": 1, "title": "some project", "task_number": 0},
        {"id": 2, "title": "some project of another name"},
    ]
    found = json.dumps({"count": 300, "results": projects})
    with http_server(answering(200, found)) as url, pytest.raises(ServiceError, match="lists the same projects again"):
        LabelStudioService(url, CANARY, "some project", timeout_s=10).find(["i1"])


def test_of_two_projects_with_the_title_none_is_taken() -> None:
    projects = [{"id": number, "title": "some project", "task_number": 0} for number in (1, 2)]
    found = json.dumps({"count": 2, "results": projects})
    with (
        http_server(answering(200, found)) as url,
        pytest.raises(ServiceRefused, match=r"\(ids 1, 2\); rename all but"),
    ):
        LabelStudioService(url, CANARY, "some project", timeout_s=10).find(["i1"])


def test_a_project_that_does_not_say_how_many_tasks_it_has_is_not_taken_for_an_empty_one() -> None:
    """Else somebody's own project would get another page."""
    found = {"count": 1, "results": [{"id": 1, "title": "some project"}], "total": 0, "tasks": []}
    with (
        http_server(answering(200, json.dumps(found))) as url,
        pytest.raises(ServiceError, match="an answer that is not Label Studio's"),
    ):
        LabelStudioService(url, CANARY, "some project", timeout_s=10).find(["i1"])


def test_a_page_that_the_server_refuses_though_no_class_goes_is_told_in_the_servers_words() -> None:
    labels = {"label": {"labels": ["a"], "to_name": ["text"], "type": "Choices", "inputs": []}}
    project = {"id": 1, "title": "some project", "task_number": 0, "label_config": "", "parsed_label_config": labels}

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        if "/validate" in handler.path:
            return answering(400, '{"detail": "no such tag"}')(handler, body)
        found = {"release": "1.23.2", "count": 1, "results": [project]}
        return answering(200, json.dumps(found))(handler, body)

    with http_server(answer) as url, pytest.raises(ServiceRefused, match="no such tag") as raised:
        LabelStudioService(url, CANARY, "some project", timeout_s=10).ensure_project(("a", "b"))
    assert "cannot be changed" not in str(raised.value), "nobody is to delete answers for it"


def test_an_address_of_a_look_up_is_no_longer_than_proxies_take() -> None:
    project = {"id": 1, "title": "some project", "task_number": 0}
    asked: list[str] = []

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        asked.append(handler.path)
        found = {"count": 1, "results": [project]} if "/projects" in handler.path else {"total": 0, "tasks": []}
        answering(200, json.dumps(found))(handler, body)

    ids = [f"{number} \u00e9\U0001f600" for number in range(300)]
    with http_server(answer) as url:
        assert LabelStudioService(url, CANARY, "some project", timeout_s=10).find(ids) == {}
    assert all(f'"{number} ' in unquote_plus("".join(asked)) for number in range(300))
    assert max(map(len, asked)) < 8000


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00", "2026-01-01T00:00:00"])
def test_a_time_that_no_clock_shows_leaves_no_traceback_and_no_cursor(at: str) -> None:
    labels = {"label": {"labels": ["a", "b"], "to_name": ["text"], "type": "Choices", "inputs": []}}
    made = {"created_at": "2026-01-01T00:00:00Z", "task_number": 0}
    project = {"id": 1, "title": "some project", "parsed_label_config": labels, **made}
    task = {"id": 1, "data": {"item_id": "i"}, "annotations": [], "updated_at": at}

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        found = {"count": 1, "results": [project]} if "/projects" in handler.path else {"total": 1, "tasks": [task]}
        answering(200, json.dumps(found))(handler, body)

    with http_server(answer) as url:
        service = LabelStudioService(url, CANARY, "some project", timeout_s=10)
        cursor = ""
        for _ in range(2):
            try:
                cursor = service.pull_since(cursor).cursor
            except ServiceError:
                assert not at.startswith("2026")
        assert bool(cursor) == at.startswith("2026")


def test_a_version_of_any_length_is_a_number() -> None:
    with (
        http_server(answering(200, json.dumps({"release": 5000 * "9"}))) as url,
        pytest.raises(ServiceError, match="an answer that is not Label Studio's"),
    ):
        LabelStudioService(url, CANARY, "some project", timeout_s=10).ensure_project(("a", "b"))


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ServiceError, match="cannot be reached"):
            LabelStudioService(url, CANARY, "some project").pull()


def test_a_server_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ServiceError, match="in time"):
            LabelStudioService(url, CANARY, "some project", timeout_s=0.2).pull()


def test_a_body_that_drips_is_given_up() -> None:
    def drip(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000000")
        handler.end_headers()
        try:
            while True:  # each read succeeds at once; only the whole takes too long
                handler.wfile.write(b" ")
                handler.wfile.flush()
        except OSError:
            handler.close_connection = True

    with http_server(drip) as url, pytest.raises(ServiceError, match="in time"):
        LabelStudioService(url, CANARY, "some project", timeout_s=0.3).pull()


@pytest.mark.parametrize(("packed", "words"), [("GZIP", "larger than 256 MiB"), ("gzip, gzip", "any size")])
def test_an_answer_that_unpacks_to_any_size_is_given_up(packed: str, words: str) -> None:
    content = gzip.compress(bytes(300 * 2**20))

    def unfold(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Encoding", packed)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    with http_server(unfold) as url, pytest.raises(ServiceError, match=words):
        LabelStudioService(url, CANARY, "some project").pull()


def test_a_head_that_drips_is_given_up() -> None:
    def drip(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        for _ in range(200):
            if given_up.wait(0.05):
                break
            handler.wfile.write(b"a")
        handler.close_connection = True

    given_up = threading.Event()
    with http_server(drip) as url, ExitStack() as after:
        after.callback(given_up.set)
        with pytest.raises(ServiceError, match="in time"):
            LabelStudioService(url, CANARY, "some project", timeout_s=0.3).pull()


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8080",
        "ftp://host",
        "http://",
        "http://user:pw@host",
        "http://host/?a=b",
        "http://host/#part",
        "http://localhost:80800",
        "http://labels:port",
        "http://[::1",
    ],
)
def test_an_address_that_cannot_be_used(url: str) -> None:
    with pytest.raises(SettingsError, match="LABEL_STUDIO_URL"):
        LabelStudioService(url, CANARY, "some project")


@pytest.mark.parametrize("holds", [None, b"", b"\x30\x82 as DER begins"])
def test_a_certificate_file_that_cannot_be_used_is_named(
    holds: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = tmp_path / "authority.pem"
    if holds is not None:
        authority.write_bytes(holds)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    words = f"SSL_CERT_FILE is '{authority}'.*BEGIN CERTIFICATE"
    with pytest.raises(SettingsError, match=words):
        LabelStudioService("https://labels.invalid", CANARY, "some project")
    with pytest.raises(SettingsError, match=words):
        PromptClient(PromptConfig(url="https://models.invalid/v1", cache=tmp_path / "answers"))
    with pytest.raises(OptionError, match=words):
        client_for("https://engine.invalid", {}, httpx.Timeout(1))


def test_a_file_for_keys_that_cannot_be_written_is_no_fault_of_certificates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "nowhere" / "keys"))
    with pytest.raises(FileNotFoundError, match="nowhere/keys"):
        LabelStudioService("https://labels.invalid", CANARY, "some project")
    with pytest.raises(FileNotFoundError, match="nowhere/keys"):
        client_for("https://engine.invalid", {}, httpx.Timeout(1))


def test_a_certificate_of_another_name_is_not_told_to_need_an_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}.crt")
    way = r"mismatch.*Ask the server by a name that its certificate holds"
    with http_server(lambda handler, _: handler.send_error(404), tls=tls) as url:
        elsewhere = url.replace("127.0.0.1", "localhost")
        with pytest.raises(ServiceRefused, match=way):
            LabelStudioService(elsewhere, CANARY, "some project").ensure_project(["a", "b"])
        given = PromptConfig(url=elsewhere, cache=tmp_path / "answers", attempts=1)
        with PromptClient(given) as client, pytest.raises(ServiceError, match=way):
            client.check()


@pytest.mark.parametrize("key", ["two words", "tail\n", "schlüssel"])
def test_a_key_that_cannot_be_one(key: str) -> None:
    with pytest.raises(SettingsError, match="LABEL_STUDIO_API_KEY") as raised:
        LabelStudioService("http://127.0.0.1:1", key, "some project")
    assert key not in str(raised.value)


def test_an_expired_personal_access_token() -> None:
    # Header {"alg":"HS256"}, payload {"token_type":"refresh","exp":1}; the signature is not looked at.
    expired = "eyJhbGciOiJIUzI1NiJ9.eyJ0b2tlbl90eXBlIjoicmVmcmVzaCIsImV4cCI6MX0.AAAA"
    with pytest.raises(ServiceRefused, match="expired") as raised:
        LabelStudioService("http://127.0.0.1:1", expired, "some project")
    assert expired not in str(raised.value)


def test_names_that_label_studio_does_not_take() -> None:
    for name in ("ab", "x" * 51):
        with pytest.raises(SettingsError, match="3 to 50"):
            LabelStudioService("http://127.0.0.1:1", CANARY, name)


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert server_from_env() is None
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:1/prefix/")
    with pytest.raises(SettingsError, match="LABEL_STUDIO_API_KEY is not"):
        server_from_env()
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", CANARY + "\n")
    server = server_from_env()
    assert server is not None
    service = LabelStudioService(*server, "some project")
    assert service.describe() == "Label Studio project 'some project' at http://127.0.0.1:1/prefix"
    assert CANARY not in repr(service) + repr(vars(service)["_connection"].place)


@pytest.mark.studio
def test_a_wrong_key_on_the_real_server(studio: StudioInfo) -> None:
    with pytest.raises(ServiceRefused, match=r"Invalid token.*Account & Settings"):
        LabelStudioService(studio.url, CANARY, "some project").ensure_project(("a", "b"))


@pytest.mark.studio
def test_a_wrong_path_on_the_real_server(studio: StudioInfo) -> None:
    with pytest.raises(SiftlineError, match="LABEL_STUDIO_URL"):
        LabelStudioService(studio.url + "/projects", studio.api_key, "some project").ensure_project(("a", "b"))
