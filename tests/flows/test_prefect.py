"""The Prefect flow around the stages: what is retried, what is said when no server answers, what a server sees."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from flows.cli import doctor
from flows.cli.main import run_command
from flows.cli.run import _went_away  # pyright: ignore[reportPrivateUsage]
from flows.project.project import Project
from flows.servers.prefect_server import QUIET, check_api, configured_api_url, prefect_api
from tests.projects import ROOT, give_prefect_database
from tests.servers import answering, make_certificate
from warehouse import ServiceError, SettingsError
from warehouse.errors import DiskFull

FLOW = """
import json, logging, sys
from pathlib import Path
from flows.servers.prefect_server import prefect_api

with prefect_api(Path(sys.argv[1])) as url:
    import httpx
    from prefect import flow
    import flows.pipelines.flows as cycle
    from engine.errors import UnavailableError
    from warehouse import ServiceError, SettingsError, StageResult

    calls = []

    def stage(project, progress):
        calls.append(1)
        if len(calls) == 1:
            raise kind("first call")
        return StageResult(stage="ingest", token="t", committed=False, detail={"advice": "Look."})

    class Kept(logging.Handler):
        def emit(self, record):
            lines.append(f"{record.levelname} {record.getMessage()}")

    lines = []
    logging.getLogger("prefect.task_runs").addHandler(Kept())

    class Project:
        root = Path(sys.argv[1])

    cycle.STAGES = {"ingest": stage}
    cycle.watch(cycle.OpenProject(project=Project()))
    task = cycle.stage_task.with_options(retry_delay_seconds=0)

    @flow
    def once():
        return task(str(Project.root), "ingest")

    seen = []
    for kind in (ServiceError, UnavailableError, SettingsError):
        calls.clear()
        try:
            once()
            error = ""
        except Exception as caught:
            error = type(caught).__name__
        run = httpx.post(f"{url}/flow_runs/filter", json={"sort": "START_TIME_DESC"}).json()[0]
        of_it = {"flow_runs": {"id": {"any_": [run["id"]]}}}
        tasks = [task["name"] for task in httpx.post(f"{url}/task_runs/filter", json=of_it).json()]
        seen.append([len(calls), error, run["state_type"], tasks])
    own = url.removesuffix("/api")
    let_in = [httpx.get(f"{url}/health", headers={"Origin": o}).headers.get("access-control-allow-origin") == o
              for o in ("http://evil.example", own, own.replace("127.0.0.1", "localhost"))]
    let_in.append(httpx.get(f"{url}/health", headers={"Host": "evil.example"}).status_code)
    looked = [line for line in lines if "Look." in line and "Finished" not in line]
    print(json.dumps([seen, let_in, looked]))
"""


def test_only_transient_errors_are_retried_and_the_server_sees_the_end(tmp_path: Path, prefect_database: Path) -> None:
    give_prefect_database(tmp_path, prefect_database)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    command = [sys.executable, "-c", textwrap.dedent(FLOW), str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    seen, let_in, looked = json.loads(ended.stdout.splitlines()[-1])
    again = [2, "", "COMPLETED", ["ingest"]]
    assert seen == [again, again, [1, "SettingsError", "FAILED", ["ingest"]]], "Label Studio, the engine, a setting"
    assert let_in == [False, True, True, 400]
    assert {line.split(" in ")[0] for line in looked} == {"WARNING ingest: nothing new"}, "what is to be looked at"
    for word in ("telemetry", "database is locked", "Error logging to API"):
        assert word not in ended.stderr


ENDS = """
import sys, threading
from pathlib import Path
from flows.servers.prefect_server import prefect_api

ENDLESS = "SELECT range::VARCHAR AS text FROM range(100000000000) WHERE hash(range) = 1"
root = Path(sys.argv[1]) / "project"
root.mkdir()
(root / "siftline.toml").write_text(
    '[project]\\nname = "p"\\nclasses = ["a", "b"]\\n[schedule]\\ntimeout_min = 0.05\\n'
    f'[[sources]]\\nname = "r"\\nquery = "{ENDLESS}"\\n'
)
with prefect_api(Path(sys.argv[1])):
    from prefect.exceptions import Abort
    import flows.pipelines.flows as pipelines
    from flows.project.project import Project
    from warehouse import WarehouseBusy

    def told(flow):
        try:
            state = flow(str(root), return_state=True)
        except Abort as left:
            state = left.state
        print(state.type.value, state.message)

    told(pipelines.collect)
    settings = root / "siftline.toml"  # the others are to end by themselves, also on a slow machine
    settings.write_text(settings.read_text().replace("timeout_min = 0.05", ""))

    def busy(project, progress):
        raise WarehouseBusy("The catalogue is held by another program.")

    pipelines.STAGES = dict.fromkeys(pipelines.STAGES, busy)
    pipelines.stage_task = pipelines.stage_task.with_options(retry_delay_seconds=0)
    told(pipelines.collect)
    beside = Project(root)
    with beside.only_run():
        told(pipelines.collect)
    held, free = threading.Event(), threading.Event()

    def at_work():
        with beside.only_run():
            held.set()
            free.wait(1.0)

    for flow in (pipelines.cycle, pipelines.refresh):
        held.clear()
        shorter = threading.Thread(target=at_work)
        shorter.start()
        held.wait()
        told(flow)
        shorter.join()
"""


def test_only_who_is_told_at_its_door_that_another_run_is_at_work_leaves_and_none_goes_on_for_ever(
    tmp_path: Path, prefect_database: Path
) -> None:
    """Cancelled wakes nobody, so it may be the end of no run that failed; and a cycle does the most, so it waits."""
    give_prefect_database(tmp_path, prefect_database)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    command = [sys.executable, "-c", ENDS, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    endless, within, collect, cycle, refresh = ended.stdout.splitlines()
    assert endless.startswith("FAILED collect failed at stage ingest: The run took longer than 0.05 minutes and was")
    assert within.startswith("FAILED collect failed at stage ingest: The catalogue is held by another program.")
    assert collect.startswith("CANCELLED Another run of")
    assert cycle.startswith("FAILED cycle failed at the beginning: There is no file of labeling functions")
    assert refresh.startswith("FAILED refresh failed at stage embed"), "it had its turn"


TWICE = """
import asyncio, os, sys
from pathlib import Path
from flows.servers.prefect_server import prefect_api

def run():
    with prefect_api(Path(sys.argv[1])) as url:
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            assert str(client.api_url).rstrip("/") == url
            client.hello().raise_for_status()

async def run_in_a_notebook():
    run()

before = dict(os.environ)
run()
assert dict(os.environ) == before
from prefect.settings import get_current_settings
read = get_current_settings()
asyncio.run(run_in_a_notebook())
assert dict(os.environ) == before
assert get_current_settings() is read, "as a program has them that uses Prefect itself"
"""


def test_a_process_may_run_twice_and_gets_its_environment_back(tmp_path: Path, prefect_database: Path) -> None:
    """The second run asked the server of the first one; and Prefect's home was the project's from then on."""
    give_prefect_database(tmp_path, prefect_database)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    command = [sys.executable, "-c", TWICE, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "never awaited" not in ended.stderr, "the last logs of a run in a notebook"


def test_a_configured_server_that_is_away_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["init", str(tmp_path / "p"), "--classes", "a,b"]) == 0
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert run_command(["run", "--project", str(tmp_path / "p")]) == 3
    said = capsys.readouterr().err
    assert "prefect server start" in said
    assert said.startswith("Starting a run of p\n"), "no server of its own comes first"


def test_a_server_behind_a_log_in_is_not_away() -> None:
    class Gate(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(401 if "/api/" in self.path else 404)

    with answering(Gate) as url:
        check_api(f"{url}/api")
        with pytest.raises(ServiceError, match="404"):
            check_api(f"{url}/other")


def refusing(status: int, answer: bytes) -> type[BaseHTTPRequestHandler]:
    """A server that is well, and gives this one answer to all else."""

    class Gate(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path.endswith("/health") else status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    return Gate


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (401, b"{}", "set PREFECT_API_AUTH_STRING"),
        (403, b"{}", "set PREFECT_API_AUTH_STRING"),
        (500, b"{}", "answers with an error: Server error '500"),
        (200, b'"99.0.0"', "server: 99.0.0. Major versions must match). Bring both to one version"),
    ],
)
def test_doctor_asks_a_server_as_a_run_will(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, answer: bytes, words: str
) -> None:
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    with answering(refusing(status, answer)) as url:
        monkeypatch.setenv("PREFECT_API_URL", f"{url}/api")
        (found,) = doctor._prefect(tmp_path)  # pyright: ignore[reportPrivateUsage]
    assert not found.well
    assert f"{url}/api" in found.words
    assert words in found.words


def test_who_deploys_is_told_of_a_server_of_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_command(["init", str(tmp_path / "p"), "--classes", "a,b"]) == 0
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.deployments.deployments import deploy

    with (
        answering(refusing(200, b'"99.0.0"')) as url,
        temporary_settings({PREFECT_API_URL: f"{url}/api"}),
        pytest.raises(SettingsError, match=r"server: 99\.0\.0\. Major versions must match"),
    ):
        deploy(Project(tmp_path / "p"), "pool")


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (403, b"{}", "set PREFECT_API_AUTH_STRING"),
        (200, b'"99.0.0"', "server: 99.0.0. Major versions must match). Bring both to one version"),
    ],
)
def test_a_run_says_why_a_server_does_not_take_it(tmp_path: Path, status: int, answer: bytes, words: str) -> None:
    (tmp_path / "d.jsonl").write_text('{"text": "x"}\n')
    assert run_command(["init", str(tmp_path / "p"), "--source", str(tmp_path / "d.jsonl"), "--classes", "a,b"]) == 0
    with answering(refusing(status, answer)) as url:
        ended = subprocess.run(
            [sys.executable, "-m", "flows.cli.main", "run", "--project", str(tmp_path / "p")],
            cwd=ROOT,
            env={**os.environ, "PREFECT_API_URL": f"{url}/api"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.returncode == (3 if status == 403 else 2), ended.stderr
    assert words in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr


def test_a_server_whose_authority_prefects_client_is_told_is_not_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Well(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    certificate = make_certificate(tmp_path)
    profile = f'active = "team"\n[profiles.team]\nPREFECT_API_SSL_CERT_FILE = "{certificate}.crt"\n'
    for name in ("SSL_CERT_FILE", "PREFECT_API_SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "profiles.toml"))
    with answering(Well, certificate=certificate) as url:
        with pytest.raises(ServiceError, match="PREFECT_API_SSL_CERT_FILE"):
            check_api(f"{url}/api")
        (tmp_path / "profiles.toml").write_text(profile)
        check_api(f"{url}/api")


def test_the_active_profile_decides_like_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("PREFECT_PROFILES_PATH", raising=False)  # a server of other tests may have set it
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    assert configured_api_url() is None
    (tmp_path / "profiles.toml").write_text(
        'active = "team"\n[profiles.team]\nPREFECT_API_URL = "http://127.0.0.1:4200/api"\n[profiles.other]\n'
    )
    assert configured_api_url() == "http://127.0.0.1:4200/api"
    monkeypatch.setenv("PREFECT_PROFILE", "other")
    assert configured_api_url() is None
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api/")
    assert configured_api_url() == "http://127.0.0.1:4200/api"


def test_damaged_profiles_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("PREFECT_PROFILES_PATH", raising=False)  # a server of other tests may have set it
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    (tmp_path / "profiles.toml").write_text('active = "x\n')
    with pytest.raises(SettingsError, match=r"profiles\.toml is not valid TOML"):
        configured_api_url()


@pytest.mark.parametrize(("free", "error", "words"), [(0, DiskFull, "0 KiB free"), (2**30, ServiceError, "code 1")])
def test_a_server_that_ends_on_a_full_disk_says_so_and_none_starts_under_a_question_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, error: type[Exception], words: str
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "none.toml"))
    monkeypatch.setattr("flows.servers.prefect_server.PYTHON", ("/bin/false",))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free))
    with pytest.raises(error, match=words), prefect_api(tmp_path):
        pass
    # Its database was a file beside the project, of the name before the question mark.
    refused = pytest.raises(SettingsError, match=r"name of its database\. Give the project's folder another name")
    with refused, prefect_api(tmp_path / "what?" / ".siftline"):
        pass
    # Its database was in the folder `my tickets` beside this one.
    with pytest.raises(SettingsError, match="has %20, which would change"), prefect_api(tmp_path / "my%20tickets"):
        pass
    with pytest.raises(SettingsError, match="folder with a shorter path"), prefect_api(tmp_path / "/".join("d" * 250)):
        pass


def test_a_server_that_cannot_start_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docket.py").write_text('raise ImportError("a part of the installation is missing")\n')
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "none.toml"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), str(ROOT))))
    words = r"code 1 \(.*ImportError: a part of the installation is missing\)\. "
    with pytest.raises(ServiceError, match=words), prefect_api(tmp_path):
        pass


STARTS = """
import sys
from pathlib import Path
from flows.servers.prefect_server import prefect_api
from warehouse.errors import DiskFull, ServiceError

try:
    with prefect_api(Path(sys.argv[1])):
        print("started")
except (DiskFull, ServiceError) as error:
    print(error)
"""


def start_in(namespace: Sequence[str], before: str, folder: Path) -> str:
    """What a process that starts a server prints in a namespace of its own, in which a shell did something before."""
    unshare = ["unshare", "--map-root-user", *namespace]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody have a namespace of their own (user namespaces are off)")
    asked = ["sh", "-c", f'{before} exec "$2" -c "$3" "$1"', "sh", str(folder), sys.executable, STARTS]
    ended = subprocess.run([*unshare, *asked], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


def test_a_machine_that_does_not_reach_itself_is_told_at_once(tmp_path: Path) -> None:
    assert "does not reach itself at 127.0.0.1 (Network is unreachable)" in start_in(["--net"], "", tmp_path)
    assert not (tmp_path / "prefect" / "server.log").exists()


@pytest.mark.parametrize("fill", [True, False], ids=["full", "small"])
def test_a_temporary_folder_without_room_is_passed_over_or_named(tmp_path: Path, fill: bool) -> None:
    (tmp_path / "small").mkdir()
    mount = 'mount -t tmpfs -o size=8k tmpfs "$1/small" && export TMPDIR="$1/small";'
    full = 'cat /dev/zero 2>/dev/null > "$1/small/full";' if fill else ""
    told = start_in(["--mount"], f"{mount} {full}", tmp_path)
    if fill:
        assert told == "started\n"
    else:
        assert f"The disk of the temporary folder {tmp_path / 'small'} is full" in told
        assert "let the environment variable TMPDIR name a folder with more" in told


@pytest.mark.parametrize(("free", "words"), [(0, "0 KiB free"), (2**30, "siftline down, then siftline up")])
def test_a_server_that_cannot_work_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, words: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free))
    error = _went_away(httpx.ConnectError("gone"), tmp_path)
    assert words in str(error)
    assert ("PREFECT_API_AUTH_STRING" in str(_went_away(RuntimeError("401 Unauthorized"), tmp_path))) == bool(free)
    assert ("full" in str(error)) == (not free)
