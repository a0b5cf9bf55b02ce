"""What `siftline services` tells of the processes of a project, and how `up` and `down` start and stop them."""

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pytest
from filelock import FileLock

from active.task_folder.service import TaskFolder
from flows.cli.main import run_command
from flows.deployments import services
from flows.project.project import Project
from flows.servers import ports
from flows.servers.background import Background
from flows.servers.prefect_server import prefect_api
from flows.servers.processes import start_time
from tests.prefect_runs import Served, wait_for
from tests.projects import ROOT, give_prefect_database
from warehouse import ServiceError
from warehouse.files.scratch import scratch_folder


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
    printed, said = capsys.readouterr()
    assert "http://127.0.0.1:9" in printed
    assert "http://127.0.0.1:9/api" not in printed, "there is no page"
    here = f"--project {project.root}"
    assert f"To start again what ended: siftline up {here}" in said
    assert f"To start anew what does not answer: siftline down {here}, then siftline up {here}" in said


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
    assert "[annotate] service is 'label-studio', but there is no LABEL_STUDIO_URL and no LABEL_STUDIO_API_KEY" in told
    assert "tasks go to a folder" not in told


def test_a_command_by_hand_does_not_use_the_folder_while_up_has_label_studio(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    record(project.state_path, "deployments")
    (project.root / ".studio").mkdir()
    (project.root / ".studio" / "studio.json").write_text('{"username": "u", "password": "p", "api_key": "k"}')
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


def test_a_prefect_server_that_ends_as_it_starts_says_what_may_be_deleted(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a database that a power cut damaged Prefect's last words are that its start-up failed."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "none.toml"))
    monkeypatch.setattr(services, "PYTHON", (sys.executable, "-c", "raise SystemExit('Application startup failed')"))
    with pytest.raises(ServiceError, match=r"startup failed.*delete .*prefect: it holds only the history of runs"):
        services._prefect_up(project, dict(os.environ), print)  # pyright: ignore[reportPrivateUsage]


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
    studio = Background("label studio", project.root / ".studio")
    studio.start(["/bin/sleep", "300"], dict(os.environ), url="", ready=lambda: True)
    try:
        (project.root / "siftline.toml").write_text("[project")
        assert run_command(["studio", "down", "--project", str(project.root)]) == 0
        assert run_command(["down", "--project", str(project.root)]) == 0
        assert capsys.readouterr().out == "Label Studio stopped\nstopped: deployments\n"
        assert start_time(running.pid) != running.started
    finally:
        studio.stop()
        service.stop()


def test_what_runs_is_stopped_though_nothing_can_be_written(tmp_path: Path) -> None:
    service = Background("deployments", tmp_path / ".siftline")
    running = service.start(["/bin/sleep", "300"], dict(os.environ), url="", ready=lambda: True)
    try:
        stop = (
            "import sys, pathlib; from flows.deployments import services; "
            "print(services.down(pathlib.Path(sys.argv[1])))"
        )
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
