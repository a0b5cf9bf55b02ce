"""Processes in the background: what a killed one leaves, its port, who finds it, and no proxy before it."""

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pytest
from filelock import FileLock

from active.task_folder import TaskFolder
from engine.errors import UnavailableError
from flows import ports, services
from flows.background import Background
from flows.cli.main import run_command
from flows.prefect_server import check_api, configured_api_url, prefect_api
from flows.processes import start_time
from flows.project import Project
from flows.studio import StudioServer
from tests.prefect_runs import Served, wait_for
from tests.projects import ROOT, give_prefect_database
from tests.studio import free_port
from warehouse import ServiceError, SettingsError
from warehouse.scratch import scratch_folder


def test_what_a_killed_service_left_is_stopped(tmp_path: Path) -> None:
    children = tmp_path / "children"
    service = Background("deployments", tmp_path)
    script = f"sleep 300 & echo $! > {children}.part; mv {children}.part {children}; wait"
    running = service.start(["/bin/sh", "-c", script], dict(os.environ), url="", ready=children.exists)
    child = int(children.read_text())
    began = start_time(child)
    assert began
    os.kill(running.pid, signal.SIGKILL)
    while start_time(running.pid) == running.started:
        time.sleep(0.01)
    assert start_time(child) == began, "it outlives the process that started it"

    assert service.stop()
    deadline = time.monotonic() + 10
    while start_time(child) == began and time.monotonic() < deadline:
        time.sleep(0.01)
    assert start_time(child) != began
    assert not service.stop(), "nothing is left"


def test_a_stranger_with_the_former_number_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["/bin/sleep", "300"], start_new_session=True)
    service = Background("deployments", tmp_path)
    try:
        record = tmp_path / "services" / "deployments.json"
        record.parent.mkdir()
        record.write_text(f'{{"pid": {stranger.pid}, "started": 1, "url": ""}}')
        assert service.status() is None
        assert not service.stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_copied_project_leaves_the_processes_of_the_first_one_alone_and_a_moved_one_keeps_its_own(
    tmp_path: Path,
) -> None:
    first = Background("deployments", tmp_path / "first" / ".siftline")
    running = first.start(["/bin/sleep", "300"], dict(os.environ), url="", ready=lambda: True)
    try:
        shutil.copytree(tmp_path / "first", tmp_path / "copy")
        copy = Background("deployments", tmp_path / "copy" / ".siftline")
        assert copy.last() == running
        assert copy.status() is None
        assert not copy.stop()
        (tmp_path / "link").symlink_to(tmp_path / "first")
        assert first.status() == Background("deployments", tmp_path / "link" / ".siftline").status() == running
        (tmp_path / "first").rename(tmp_path / "moved")
        assert Background("deployments", tmp_path / "moved" / ".siftline").stop()
        assert start_time(running.pid) != running.started
    finally:
        if start_time(running.pid) == running.started:
            os.kill(running.pid, signal.SIGKILL)


def test_a_copied_folder_of_label_studio_is_not_the_running_server(tmp_path: Path) -> None:
    (tmp_path / "first" / "data").mkdir(parents=True)
    environment = {**os.environ, "LABEL_STUDIO_BASE_DATA_DIR": str(tmp_path / "first" / "data")}
    server = subprocess.Popen(["/bin/sleep", "300"], env=environment)
    try:
        known = {"port": 8080, "username": "u", "password": "p", "api_key": "k", "pid": server.pid}
        started = {"started": start_time(server.pid)}
        (tmp_path / "first" / "studio.json").write_text(json.dumps(known | started))
        shutil.copytree(tmp_path / "first", tmp_path / "copy")
        assert StudioServer(tmp_path / "first").status() is not None
        assert StudioServer(tmp_path / "copy").status() is None
        assert not StudioServer(tmp_path / "copy").stop()
        assert server.poll() is None
    finally:
        server.kill()
        server.wait()


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


class Ok(BaseHTTPRequestHandler):
    """Answers everything, but as web frameworks do no path that begins with two slashes."""

    def do_GET(self) -> None:
        self.send_response(404 if self.requestline.startswith("GET //") else 200)
        self.end_headers()
        self.wfile.write(b"direct")


@pytest.fixture
def own_server() -> Iterator[str]:
    """Address of a server on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Ok) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


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
    assert services._answers(own_server)  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setenv("ALL_PROXY", own_server)
    assert services._answers("http://prefect.example:4200/api/health")  # pyright: ignore[reportPrivateUsage]


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


def record(state: Path, name: str, url: str = "") -> None:
    """This very process as a service of the project."""
    (state / "services").mkdir(parents=True, exist_ok=True)
    content = {"pid": os.getpid(), "started": start_time(os.getpid()), "url": url}
    (state / "services" / f"{name}.json").write_text(json.dumps(content))


def test_a_prefect_server_that_only_starts_is_said_to_be_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "none.toml"))
    record(tmp_path, "prefect", "http://127.0.0.1:9/api")
    with pytest.raises(ServiceError, match="does not answer"), prefect_api(tmp_path):
        pass


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project that leaves open where annotators answer."""
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "siftline.toml").write_text(
        '[project]\nname = "p"\nclasses = ["a", "b"]\n[[sources]]\nname = "s"\npath = "s.jsonl"\n'
    )
    return Project(tmp_path)


def test_an_engine_of_ones_own_answers_whether_its_address_ends_in_a_slash_or_not(
    project: Project, own_server: str
) -> None:
    path = project.root / "siftline.toml"
    settings = path.read_text()
    for address in (own_server, own_server.rstrip("/")):
        path.write_text(f'{settings}[engine]\nurl = "{address}"\n')
        lines = services.status(Project(project.root))
        assert [line.state for line in lines if line.name == "engine"] == ["yours"]


def test_a_label_studio_of_ones_own_is_asked_whether_it_answers(
    project: Project, own_server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for address, state in ((own_server, "yours"), ("http://127.0.0.1:9", "away")):
        monkeypatch.setenv("LABEL_STUDIO_URL", address)
        assert [line.state for line in services.status(project) if line.name == "label studio"] == [state]
    assert run_command(["services", "--project", str(project.root)]) == 0
    assert "What to do about one that is away: siftline doctor" in capsys.readouterr().err


def test_what_ended_is_told_with_the_command_that_starts_it(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(project.root / "none.toml"))
    assert run_command(["services", "--project", str(project.root)]) == 0
    assert capsys.readouterr().err == ""  # never started, as where systemd runs it
    record(project.state_path, "prefect", "http://127.0.0.1:9/api")
    (project.state_path / "services" / "deployments.json").write_text('{"pid": 1, "started": 1}')
    assert run_command(["services", "--project", str(project.root)]) == 0
    said = capsys.readouterr().err
    assert "To start again what ended: siftline up" in said
    assert "To start anew what does not answer: siftline down, then siftline up" in said


def test_deployments_that_up_did_not_start_are_yours_while_they_are_served(project: Project) -> None:
    def told() -> str:
        return next(line.state for line in services.status(project) if line.name == "deployments")

    project.state_path.mkdir()
    with scratch_folder(project.state_path, services.SERVING):  # as `siftline serve` holds one
        assert told() == "yours"
    assert told() == "does not run"
    project.state_path.joinpath(f"{services.SERVING}abcdefgh").mkdir()
    assert told() == "does not run", "that of one which was killed"


def test_a_prefect_whose_database_was_removed_does_not_pass_for_well(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(project.root / "none.toml"))

    def told() -> str:
        assert run_command(["services", "--project", str(project.root)]) == 0
        seen = capsys.readouterr()
        return seen.out + seen.err

    database = project.state_path / "prefect" / "prefect.db"
    database.parent.mkdir(parents=True)
    command = [sys.executable, "-c", "import sys, time; kept = open(sys.argv[1], 'w'); time.sleep(300)", str(database)]
    service = Background("prefect", project.state_path)
    service.start(command, dict(os.environ), url="", ready=database.exists)
    try:
        assert "lost its database" not in told()
        database.unlink()
        assert "lost its database" in (said := told())
        assert "To begin anew: siftline up" in said
        database.touch()  # as its next connection does
        assert "lost its database" in told()
    finally:
        service.stop()


def test_doctor_does_not_speak_of_a_folder_where_the_settings_ask_for_label_studio(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    with (project.root / "siftline.toml").open("a") as file:
        file.write('[annotate]\nservice = "label-studio"\n')
    assert run_command(["doctor", "--project", str(project.root)]) == 2
    told = capsys.readouterr().out
    assert "[annotate] service is 'label-studio', but LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY is not set" in told
    assert "tasks go to a folder" not in told


def test_a_command_by_hand_does_not_use_the_folder_while_up_has_label_studio(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    record(project.state_path, "deployments")
    (project.root / ".studio").mkdir()
    (project.root / ".studio" / "studio.json").write_text(
        '{"port": 8080, "username": "u", "password": "p", "api_key": "k", "pid": 1, "started": 1}'
    )
    with pytest.raises(ServiceError, match="siftline up"):
        _ = project.service
    assert run_command(["doctor", "--project", str(project.root)]) == 2
    assert "The Label Studio of `siftline up` does not run" in capsys.readouterr().out


def test_without_label_studio_tasks_go_to_the_folder_also_beside_up(project: Project) -> None:
    record(project.state_path, "deployments")
    assert isinstance(project.service, TaskFolder)


def test_prefects_server_has_its_pages_where_its_code_may_not_be_written_forgets_old_runs_and_keeps_places(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_database: Path
) -> None:
    give_prefect_database(project.state_path, prefect_database)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "none.toml"))
    (tmp_path / "site").mkdir()
    # Nobody writes below /proc, not even root.
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import pathlib, prefect\n"
        "prefect.__ui_static_subpath__ = prefect.__ui_v2_static_subpath__ = pathlib.Path('/proc/self/ui')\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}"}
    environment["PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS"] = "5"
    try:
        url = services._prefect_up(project, environment, print)  # pyright: ignore[reportPrivateUsage]
        page = httpx.get(url.removesuffix("api"), headers={"Accept": "text/html"}, follow_redirects=True)
        assert page.status_code == 200
        assert "<html" in page.text
        ask = Served(project.root).ask
        flow = ask("POST", "/flows/", name="cycle")["id"]
        old, new = (ask("POST", "/flow_runs/", flow_id=flow, state={"type": "COMPLETED"})["id"] for _ in range(2))
        with contextlib.closing(sqlite3.connect(project.state_path / "prefect" / "prefect.db", timeout=60)) as base:
            base.execute("UPDATE flow_run SET end_time = '2020-01-01 00:00:00' WHERE id = ?", [str(UUID(old))])
            base.commit()
        wait_for(lambda: [run["id"] for run in ask("POST", "/flow_runs/filter")] == [new])
        ask("POST", "/v2/concurrency_limits/", name="place", limit=1)
        taken = {"names": ["place"], "slots": 1, "lease_duration": 300}
        place = ask("POST", "/v2/concurrency_limits/increment-with-lease", **taken)["lease_id"]
        assert (project.state_path / "prefect" / "concurrency_leases" / f"{place}.json").exists(), "outlives the server"
    finally:
        Background("prefect", project.state_path).stop()


def test_a_port_once_taken_is_nobody_elses_and_one_that_answers_is_not_taken_for_ones_own(
    project: Project, own_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_database: Path
) -> None:
    give_prefect_database(project.state_path, prefect_database)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "none.toml"))
    others: list[int] = []
    stand_between = services._prefect_at  # pyright: ignore[reportPrivateUsage]

    def at_once(door: socket.socket, *rest: object) -> str:
        # Another `up` looks for a port after this one did and before its server listens.
        with ports.take_port(services.PREFECT_PORT) as other:
            others.append(other.getsockname()[1])
        return stand_between(door, *rest)  # type: ignore[arg-type]

    stranger = urlsplit(own_server).port
    monkeypatch.setattr(services, "PREFECT_PORT", stranger)
    monkeypatch.setattr(services, "_prefect_at", at_once)
    try:
        url = services._prefect_up(project, dict(os.environ), print)  # pyright: ignore[reportPrivateUsage]
        assert len({stranger, urlsplit(url).port, *others}) == 3
        assert httpx.get(f"{url}/admin/version").json()
    finally:
        Background("prefect", project.state_path).stop()


def test_what_runs_is_stopped_though_the_settings_are_wrong(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    service = Background("deployments", project.state_path)
    running = service.start(["/bin/sleep", "300"], dict(os.environ), url="", ready=lambda: True)
    studio = project.root / ".studio"
    (studio / "data").mkdir(parents=True)
    environment = {**os.environ, "LABEL_STUDIO_BASE_DATA_DIR": str(studio / "data")}
    server = subprocess.Popen(["/bin/sleep", "300"], env=environment)
    try:
        known = {"port": 8080, "username": "u", "password": "p", "api_key": "k", "pid": server.pid}
        (studio / "studio.json").write_text(json.dumps(known | {"started": start_time(server.pid)}))
        (project.root / "siftline.toml").write_text("[project")
        threading.Thread(target=server.wait, daemon=True).start()  # else it stays as a zombie
        assert run_command(["studio", "down", "--project", str(project.root)]) == 0
        assert run_command(["down", "--project", str(project.root)]) == 0
        assert capsys.readouterr().out == "Label Studio stopped\nstopped: deployments\n"
        assert start_time(running.pid) != running.started
    finally:
        server.kill()
        service.stop()


def test_what_runs_is_stopped_though_nothing_can_be_written(tmp_path: Path) -> None:
    service = Background("deployments", tmp_path / ".siftline")
    running = service.start(["/bin/sleep", "300"], dict(os.environ), url="", ready=lambda: True)
    try:
        stop = "import sys, pathlib; from flows import services; print(services.down(pathlib.Path(sys.argv[1])))"
        mount = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && exec "$2" -P -c "$3" "$1"'
        command = [
            "unshare",
            "--mount",
            "--map-root-user",
            "sh",
            "-c",
            mount,
            "sh",
            str(tmp_path),
            sys.executable,
            stop,
        ]
        if subprocess.run([*command[:3], "true"], capture_output=True).returncode:
            pytest.skip("this machine lets nobody mount a folder of their own (user namespaces are off)")
        ended = subprocess.run(command, capture_output=True, text=True)
        assert ended.stdout == "['deployments']\n", ended.stderr
        assert start_time(running.pid) != running.started
    finally:
        service.stop()


def test_another_up_or_down_is_waited_for_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "PATIENCE_S", 0.1)
    (tmp_path / ".siftline").mkdir()
    lock = FileLock(tmp_path / ".siftline" / "services.lock", thread_local=False)
    lock.acquire()
    told: list[str] = []

    def tell(words: str) -> None:
        told.append(words)
        lock.release()

    assert services.down(tmp_path, tell) == []
    assert told == ["waiting for another siftline up or down of this project, which is at work"]


def test_a_folder_that_is_no_project_has_nothing_to_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["down"], ["studio", "down"]):
        assert run_command([*command, "--project", str(tmp_path)]) == 2
        assert "There is no siftline.toml" in capsys.readouterr().err


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


def write_settings(project: Project, encoder: str, url: str, patience_s: float = 60) -> None:
    text = (project.root / "siftline.toml").read_text().partition("[encoder]")[0]
    engine = f'[engine]\nurl = "{url}"\npatience_s = {patience_s}\n'
    (project.root / "siftline.toml").write_text(f"{text}[encoder]\n{encoder}\n{engine}")


def test_the_engine_of_up_follows_the_settings(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    service = Background("engine", project.state_path)
    urls = [f"http://127.0.0.1:{free_port()}", f"http://localhost:{free_port()}/", "http://engine.invalid:8180"]
    stops = "stopping the engine's server, which was started with other settings or another encoder"
    starts = "starting the engine's server"

    def told_by_up(encoder: str, url: str) -> list[str]:
        write_settings(project, encoder, url)
        told: list[str] = []
        services._engine_up(Project(project.root), os.environ, told.append)  # pyright: ignore[reportPrivateUsage]
        return told

    try:
        assert told_by_up('name = "dense"\nmax_tokens = 32', urls[0]) == [starts]
        assert told_by_up('name = "dense"\nmax_tokens = 32\nstored = "float16"', urls[0]) == []
        assert told_by_up('name = "dense"\nmax_tokens = 64', urls[1]) == [stops, starts]
        assert Project(project.root).encoder.max_tokens == 64
        assert told_by_up('name = "dense"\nmax_tokens = 64', urls[2]) == [stops]
        assert service.status() is None
    finally:
        service.stop()


def test_who_starts_an_engine_that_is_away_is_named(project: Project, own_server: str) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    write_settings(project, 'name = "dense"', f"{url}/", patience_s=0)
    record = project.state_path / "services" / "engine.json"
    record.parent.mkdir(parents=True)

    def told(of_up: str) -> str:
        record.write_text(f'{{"pid": 1, "started": 1, "url": "{of_up}"}}')
        with pytest.raises(UnavailableError) as away:
            _ = Project(project.root).encoder
        return str(away.value)

    assert "Start it with `siftline up`" in told(url), "the one of `up` died"
    assert "Start it with `siftline engine serve`" in told(own_server)
    write_settings(project, 'name = "dense"', own_server)
    by_hand = services.engine_start(Project(project.root))
    assert by_hand == "siftline engine serve", "`up` starts none where another answers"


def test_the_engine_of_up_is_started_again_with_another_file(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(services, "_answers", lambda _: False)
    monkeypatch.setattr(Background, "start", lambda *_, asks, **__: asked.append(asks))
    write_settings(project, 'name = "mine.safetensors"', "http://127.0.0.1:8180")
    for content in (b"first", b"first", b"second"):
        (project.root / "mine.safetensors").write_bytes(content)
        services._engine_up(Project(project.root), {}, lambda _: None)  # pyright: ignore[reportPrivateUsage]
    assert asked[0] == asked[1] != asked[2]


def test_the_engine_of_up_computes_where_the_settings_say(project: Project) -> None:
    write_settings(project, 'device = "cuda"\nprecision = "bf16"\nactive = 0.5', url := "http://127.0.0.1:8180")
    command = services._engine_command(Project(project.root), url)  # pyright: ignore[reportPrivateUsage]
    options = command[command.index("serve") + 1 :]
    options = dict(zip(options[::2], options[1::2], strict=True))
    assert options["--device"] == "cuda"
    assert (options["--precision"], options["--active"]) == ("bf16", "0.5")
