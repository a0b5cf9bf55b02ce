"""The local Label Studio server: one per folder, on loopback only, found again, its secrets kept."""

import json
import socket
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from flows.cli.main import run_command
from flows.project.project import Project
from flows.servers.label_studio import StudioInfo, StudioServer
from flows.servers.processes import listening_addresses, start_time
from tests.prefect_runs import wait_for
from tests.studio import api, free_port
from warehouse import ServiceError, ServiceRefused, SettingsError


@pytest.mark.studio
def test_a_second_start_finds_the_running_server(studio_server: StudioServer, studio: StudioInfo) -> None:
    assert StudioServer(studio_server.folder).start() == studio
    assert StudioServer(studio_server.folder).status() == studio


@pytest.mark.studio
def test_it_listens_on_loopback_only(studio: StudioInfo) -> None:
    assert listening_addresses(studio.pid) == {("127.0.0.1", int(studio.url.rpartition(":")[2]))}


@pytest.mark.studio
def test_secrets_are_in_private_files_and_nowhere_else(studio_server: StudioServer, studio: StudioInfo) -> None:
    folder = studio_server.folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "studio.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(studio_server.process.log.stat().st_mode) == 0o600
    shown = (
        Path(f"/proc/{studio.pid}/cmdline").read_bytes().decode() + studio_server.process.log.read_text() + repr(studio)
    )
    assert studio.password not in shown
    assert studio.api_key not in shown
    assert (folder / ".gitignore").read_text() == "*\n"


@pytest.mark.studio
def test_nobody_can_sign_up(studio: StudioInfo) -> None:
    with httpx.Client(base_url=studio.url, timeout=30) as client:
        client.get("/user/signup/")
        form = {"email": "stranger@example.com", "password": "a-long-password", "allow_newsletters": "false"}
        client.post("/user/signup/", data=form)
    users = api(studio, "GET", "/api/users/").json()
    assert "stranger@example.com" not in {user["email"] for user in users}


@pytest.mark.studio
def test_other_names_and_other_sites_are_turned_away(studio: StudioInfo) -> None:
    assert httpx.get(studio.url + "/version", headers={"Host": "evil.example"}, timeout=30).status_code == 400
    answer = httpx.get(studio.url + "/version", headers={"Origin": "https://evil.example"}, timeout=30)
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.studio
def test_stopped_and_started_it_keeps_log_in_and_key(studio_copy: StudioServer, studio: StudioInfo) -> None:
    assert studio_copy.status() is None
    first = studio_copy.start()
    assert (first.username, first.password, first.api_key) == (studio.username, studio.password, studio.api_key)
    assert first.url != studio.url
    assert api(first, "GET", "/api/current-user/whoami").json()["email"] == studio.username
    assert studio_copy.process.stop() is True
    assert listening_addresses(first.pid) == set()
    assert studio_copy.status() is None
    assert studio_copy.process.stop() is False


@pytest.mark.studio
def test_in_a_folder_that_was_moved_it_is_started_again(studio_copy: StudioServer) -> None:
    """It opens its database by the path with each request."""
    first = studio_copy.start()
    moved = StudioServer(studio_copy.folder.rename(studio_copy.folder.with_name("moved")))
    try:
        second = moved.start()
        assert second.url == first.url
        assert second.pid != first.pid
        assert api(second, "GET", "/api/projects/").is_success
        assert moved.start() == second
    finally:
        moved.process.stop()


def test_without_the_environment_it_says_how_to_make_one(tmp_path: Path) -> None:
    server = StudioServer(tmp_path / "studio", environment=tmp_path / "none")
    with pytest.raises(SettingsError, match="make studio-env"):
        server.start()
    assert not (tmp_path / "studio").exists()


def stand_in(folder: Path, script: str) -> Path:
    """An environment whose label-studio is a shell script: for ends that the real one cannot be made to show."""
    (folder / "bin").mkdir(parents=True)
    program = folder / "bin" / "label-studio"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return folder


def test_a_server_that_dies_is_reported_with_its_last_words(tmp_path: Path) -> None:
    server = StudioServer(tmp_path / "studio", environment=stand_in(tmp_path / "env", "echo no space left; exit 3"))
    with pytest.raises(ServiceError, match="no space left"):
        server.start()
    assert server.status() is None


def test_a_port_that_another_program_took_meanwhile_is_told_with_the_way_out(tmp_path: Path) -> None:
    elsewhere = f'[ "$1" = version ] || exec {sys.executable} -m http.server 0 --bind 127.0.0.1'
    server = StudioServer(tmp_path / "studio", environment=stand_in(tmp_path / "env", elsewhere))
    with pytest.raises(ServiceError, match=r"took port \d+ of 127\.0\.0\.1 while Label Studio .* Start it again"):
        server.start()
    assert server.status() is None


def test_a_port_that_is_taken_just_before_it_is_opened_is_told_with_the_way_out(tmp_path: Path) -> None:
    port, taken = free_port(), tmp_path / "taken"
    ends = f'until [ -e {taken} ]; do sleep 0.05; done; echo "Error: That port is already in use."; exit 1'
    environment = stand_in(tmp_path / "env", f'[ "$1" = version ] || {{ {ends}; }}')
    server = StudioServer(tmp_path / "studio", port=port, environment=environment)

    def take() -> socket.socket:
        wait_for(server.process.status)
        door = socket.create_server(("127.0.0.1", port))
        taken.touch()
        return door

    with ThreadPoolExecutor(1) as beside:
        door = beside.submit(take)
        with pytest.raises(ServiceError, match=rf"took port {port} of 127\.0\.0\.1 while .* Start it again"):
            server.start()
        door.result().close()


def test_a_machine_too_busy_for_the_first_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.servers.label_studio.START_TIMEOUT_S", 0.2)
    server = StudioServer(tmp_path / "studio", environment=stand_in(tmp_path / "env", "exec sleep 60"))
    with pytest.raises(ServiceError, match="too busy"):
        server.start()


def test_what_a_killed_first_start_left_is_removed_by_the_next(tmp_path: Path) -> None:
    environment = stand_in(tmp_path / "env", "exit 3")
    left = environment / "siftline-k1ll3d"
    left.mkdir()
    (left / "label_studio.sqlite3").write_text("half a database")
    with pytest.raises(ServiceError, match="ended while it started"):
        StudioServer(tmp_path / "studio", environment=environment).start()
    assert [path for path in environment.glob("siftline-*") if path.is_dir()] == []


def test_a_link_in_a_folder_from_somebody_else_leads_no_write_outside(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "studio").mkdir()
    (tmp_path / "studio" / ".gitignore").symlink_to(tmp_path / "mine")
    environment = stand_in(tmp_path / "env", "exit 0")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SettingsError, match="is taken"):
        StudioServer(tmp_path / "studio", port=taken.getsockname()[1], environment=environment).start()
    assert (tmp_path / "mine").read_text() == "precious"
    assert (tmp_path / "studio" / ".gitignore").read_text() == "*\n"


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment = stand_in(tmp_path / "env", "exit 0")
        with pytest.raises(SettingsError, match=f"port {port}"):
            StudioServer(tmp_path / "studio", port=port, environment=environment).start()


@pytest.mark.parametrize("content", [b'{"password": "secret-word"', b'{"password": "secret-word\xff"}', b"[]", b""])
def test_a_damaged_record_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "studio.json").write_bytes(content)
    server = StudioServer(tmp_path, environment=stand_in(tmp_path / "env", "exit 0"))
    with pytest.raises(SettingsError, match=r"studio\.json is damaged .* remove .*, with all answers in it") as raised:
        server.start()
    assert "secret-word" not in str(raised.value)


@pytest.mark.studio
def test_doctor_tries_the_key(
    studio: StudioInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", studio.api_key)
    assert run_command(["doctor", "--project", str(tmp_path)]) == 0
    assert "the key sees" in capsys.readouterr().out
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "0" * 40)
    assert run_command(["doctor", "--project", str(tmp_path)]) == 2
    assert "does not accept the key" in capsys.readouterr().out


@pytest.mark.studio
def test_who_gave_the_local_server_a_new_key_is_told_where_it_belongs(
    studio: StudioInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "siftline.toml").write_text(
        '[project]\nname = "p-1"\nclasses = ["a", "b"]\n[[sources]]\nname = "s"\npath = "s.jsonl"\n'
    )
    (tmp_path / "labeling_functions.py").write_text("")
    file = tmp_path / ".studio" / "studio.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"username": studio.username, "password": studio.password, "api_key": "0" * 40}))
    running = {"url": studio.url, "pid": studio.pid, "started": start_time(studio.pid)}
    (file.parent / "services").mkdir()
    (file.parent / "services" / "label-studio.json").write_text(json.dumps(running))
    # Its process says for which folder it runs, and this is not that one.
    monkeypatch.setattr("flows.servers.background.started_for", lambda *_: True)
    monkeypatch.setenv("LABEL_STUDIO_URL", studio.url)  # as `siftline up` gives it to what it starts
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "0" * 40)
    assert run_command(["doctor", "--project", str(tmp_path)]) == 2
    with pytest.raises(ServiceRefused) as refused:
        Project(tmp_path).service.find(["item"])
    for told in (capsys.readouterr().out, str(refused.value)):
        assert f"does not accept the key in {file}" in told
        assert "write it as api_key into that file; where `siftline up` runs the project, call it again" in told
        assert "where LABEL_STUDIO_API_KEY is set by hand, set that anew too" in told
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "1" * 40)  # of a terminal from before the file was mended
    with pytest.raises(ServiceRefused, match=r"the key in LABEL_STUDIO_API_KEY: .* and set LABEL_STUDIO_API_KEY to it"):
        Project(tmp_path).service.find(["item"])
