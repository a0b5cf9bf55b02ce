"""A proxy that the environment names stands before engines on other machines, and not before those of this one."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from engine.client.remote import RemoteEncoder
from engine.errors import OptionError, UnavailableError
from tests.engine.test_every_status_is_produced import broken_encoder
from tests.engine_servers import server_thread
from tests.servers import answering

ASKED: list[str] = []


class Recorded(BaseHTTPRequestHandler):
    """A proxy that writes down what it is asked and answers in the server's place."""

    def do_GET(self) -> None:
        ASKED.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    ASKED.clear()


@pytest.fixture
def proxy() -> Iterator[str]:
    with answering(Recorded) as url:
        yield url


def test_this_machine_is_asked_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # where nothing listens
    monkeypatch.setenv("ALL_PROXY", "socks9://127.0.0.1:9")
    with server_thread(broken_encoder()) as server:
        assert RemoteEncoder(server.url, patience_s=0.3).encode(["bank"]).shape[0] == 1


def test_another_machine_is_asked_by_the_proxy_unless_it_is_left_out(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(OptionError, match="is not that of `siftline engine serve`"):
        RemoteEncoder("http://engine.invalid:8180")
    assert ASKED == ["http://engine.invalid:8180/info"]
    monkeypatch.setenv("NO_PROXY", "engine.invalid")
    with pytest.raises(UnavailableError, match="cannot be reached") as raised:
        RemoteEncoder("http://engine.invalid:8180", patience_s=0.3)
    assert "proxy" not in str(raised.value)
    assert len(ASKED) == 1


@pytest.mark.parametrize(
    "url", ["http://engine:port", "http://127.0.0.1:81800", "http://[::1", "http://", "127.0.0.1:8180"]
)
def test_a_mistyped_address_is_no_fault_of_a_proxy(url: str) -> None:
    with pytest.raises(OptionError, match=r"must look like http://host:8180") as raised:
        RemoteEncoder(url, patience_s=0.3)
    assert "proxy" not in str(raised.value)


@pytest.mark.parametrize("url", ["http://me:canary@127.0.0.1:8180", "http:/me:canary@127.0.0.1", "https://canary@[::1"])
def test_a_log_in_in_the_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(OptionError, match="SIFTLINE_ENGINE_KEY") as raised:
        RemoteEncoder(url, patience_s=0.3)
    assert "canary" not in str(raised.value)


def test_a_proxy_that_is_away_or_of_another_kind_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match=r"by the proxy .* add engine\.invalid to NO_PROXY"):
        RemoteEncoder("http://engine.invalid:8180", patience_s=0.3)
    for address in ("socks9://user:secret@127.0.0.1:9", "http://user:secret/of#mine@127.0.0.1:9"):
        monkeypatch.setenv("ALL_PROXY", address)
        with pytest.raises(OptionError, match=r"proxy that the environment names cannot be used") as raised:
            RemoteEncoder("http://engine.invalid:8180")
        assert "secret" not in str(raised.value)
