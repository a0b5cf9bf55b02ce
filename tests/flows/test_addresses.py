"""Ports and addresses of servers: which port one gets, no proxy before own ones, and what is no address."""

import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest

from flows.cli.main import run_command
from flows.project.project import Project
from flows.servers import ports
from flows.servers.prefect_server import check_api, configured_api_url
from tests.projects import ROOT
from tests.studio import http_server
from warehouse import SettingsError


def test_a_port_that_is_held_for_a_moment_is_waited_for() -> None:
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    holder.listen()
    former = holder.getsockname()[1]
    assert not ports.is_free(former)
    threading.Timer(0.5, holder.close).start()
    assert ports.pick_port(former + 1, former=former) == former


def test_a_port_that_another_keeps_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "PORT_TIMEOUT_S", 0.3)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        former = holder.getsockname()[1]
        assert ports.pick_port(20_000, former=former) != former


def test_a_proxy_does_not_stand_before_own_servers(own_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "example.org")
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(httpx.ConnectError):
        httpx.get(own_server)
    ports.reach_loopback_directly()
    assert httpx.get(own_server).text == "direct"
    assert os.environ["NO_PROXY"].split(",")[0] == "example.org"


def test_health_is_asked_by_the_proxy_for_other_hosts_only(own_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    check_api(own_server.rstrip("/"))
    assert ports.answers(own_server)
    monkeypatch.setenv("ALL_PROXY", own_server)
    assert ports.answers("http://prefect.example:4200/api/health")


def test_of_what_answers_no_more_is_read_than_that_it_is_well() -> None:
    asked = threading.Event()

    def never_end(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        handler.send_response(200)
        handler.end_headers()
        asked.wait(10)

    with http_server(never_end) as url:
        assert ports.answers(url, timeout_s=0.5)
        asked.set()


def test_the_command_sees_to_that_before_all_else() -> None:
    script = "import atexit, os, flows.cli.main as m; atexit.register(lambda: print(os.environ['NO_PROXY'])); m.main()"
    environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    ended = subprocess.run(
        [sys.executable, "-c", script, "--version"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.splitlines()[-1] == "127.0.0.1,localhost,::1"


@pytest.mark.parametrize("command", ["services", "run", "serve"])
@pytest.mark.parametrize("url", ["http://localhost:42x0/api", "http://[::1/api", "localhost:4200/api"])
def test_an_address_of_prefect_that_is_none_is_refused_in_words(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, url: str
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", url)
    assert run_command([command, "--project", str(project.root)]) == 2
    assert "PREFECT_API_URL must look like http://host:4200/api" in capsys.readouterr().err


def test_a_log_in_in_the_address_of_prefect_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://me:canary@host:4200/api")
    with pytest.raises(SettingsError, match="without a log-in") as refused:
        configured_api_url()
    assert "canary" not in str(refused.value)
    monkeypatch.delenv("PREFECT_API_URL")
    (tmp_path / "profiles.toml").write_text('active = "team"\n[profiles.team]\nPREFECT_API_URL = 4200\n')
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "profiles.toml"))
    with pytest.raises(SettingsError, match=r"the profile 'team' in .*profiles.toml must look like"):
        configured_api_url()
    cloud = f"https://api.prefect.cloud/api/accounts/{'0' * 8}-{'1' * 4}/workspaces/{'2' * 8}-{'3' * 4}"
    monkeypatch.setenv("PREFECT_API_URL", cloud)
    assert configured_api_url() == cloud


def test_a_log_in_in_the_address_of_label_studio_is_not_shown(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://me:canary@host:8080")
    assert run_command(["services", "--project", str(project.root)]) == 0
    shown = capsys.readouterr().out
    assert "LABEL_STUDIO_URL cannot be used" in shown
    assert "canary" not in shown
