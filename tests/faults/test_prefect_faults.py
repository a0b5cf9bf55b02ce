"""Prefect's server away, its database locked, its result folder torn; SIGTERM and the time limit in a call that hangs.

A run finishes, or fails by type: exit code 3 and words, never a traceback; and the next run ends well.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from features.ingest.samples import SampleFiles
from flows.deployments import services
from flows.pipelines.time_limits import time_limit
from flows.project.project import Project
from flows.project.recovery import unfinished
from tests.prefect_runs import wait_for
from tests.projects import PLAIN_FUNCTIONS, ROOT, make_small_project
from tests.servers import answering
from warehouse.catalog.write_lock import FolderLock

COMMAND = ["run", "--passes", "1", "--project"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, reuters: SampleFiles, prefect_database: Path) -> Path:
    """A project that has run once, so that what follows is quick."""
    root = make_small_project(
        tmp_path_factory.mktemp("faults") / "project", reuters, train=40, test=10, prefect=prefect_database
    )
    settings = (root / "siftline.toml").read_text()
    settings = settings.replace('"snorkel"', '"majority"').partition("[evaluate]")[0]
    (root / "siftline.toml").write_text(settings)
    (root / "labeling_functions.py").write_text(PLAIN_FUNCTIONS)
    ended = start(root).communicate()[1]
    assert (root / "lake").is_dir(), ended
    return root


@pytest.fixture
def root(base: Path, tmp_path: Path) -> Path:
    """A copy with one more record, so that a run has something to commit."""
    copy = tmp_path / "project"
    shutil.copytree(base, copy, ignore=shutil.ignore_patterns("*.lock"))
    (copy / "more.jsonl").write_text('{"text": "Oil prices rose on Monday.", "id": "more-1"}\n')
    with (copy / "siftline.toml").open("a") as file:
        file.write('\n[[sources]]\nname = "more"\npath = "more.jsonl"\nid = "id"\n')
    return copy


def start(root: Path, *python: str, **variables: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    # Two tries in place of five: a run waits a minute for a server that restarts, which a test need not.
    environment |= {"PREFECT_CLIENT_MAX_RETRIES": "1", "PREFECT_PROFILES_PATH": str(root / "none.toml"), **variables}
    command = [sys.executable, *(python or ("-m", "flows.cli.main")), *COMMAND, str(root)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def in_a_stage(root: Path, process: subprocess.Popen[str]) -> None:
    def there() -> bool:
        assert process.poll() is None, process.communicate()[1]
        return any(record.stage for record in unfinished(root / ".siftline"))

    wait_for(there)


def server_of(root: Path) -> int:
    """Process id of the run's own Prefect server."""
    home = f"PREFECT_HOME={root / '.siftline' / 'prefect'}".encode()
    for process in Path("/proc").iterdir():
        try:
            if b"flows.servers.prefect_process" in (process / "cmdline").read_bytes() and home in (
                process / "environ"
            ).read_bytes().split(b"\0"):
                return int(process.name)
        except OSError:
            continue
    raise AssertionError("the run has no server")


def finished_or_typed(process: subprocess.Popen[str]) -> int:
    words = process.communicate()[1]
    assert process.returncode in (0, 3), words
    assert "Traceback" not in words
    if process.returncode == 3:
        assert "Prefect's server" in words
    return process.returncode


def ends_well(root: Path) -> None:
    process = start(root)
    words = process.communicate()[1]
    assert process.returncode == 0, words
    assert not unfinished(root / ".siftline")


def test_the_server_dies_in_the_middle_and_its_result_folder_is_torn(root: Path) -> None:
    process = start(root)
    with FolderLock(root / "lake").held():
        in_a_stage(root, process)
        os.kill(server_of(root), signal.SIGKILL)
    assert process.stderr is not None
    said: list[str] = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("siftline: Prefect's server went away"):
            break
    assert not [line for line in said if "Error" in line or "prefect." in line], "each event that nobody took is told"
    process.wait(timeout=10)  # it does not stay to send what nobody takes
    assert process.returncode == 3
    storage = root / ".siftline" / "prefect" / "storage"
    shutil.rmtree(storage, ignore_errors=True)
    storage.write_bytes(b"\x00torn")
    ends_well(root)


@pytest.mark.parametrize(
    ("version", "code", "words"),
    [(None, 3, "Prefect's server went away"), ("2.20.0", 2, "Bring both to one version")],
    ids=["away", "another version"],
)
def test_the_server_is_well_at_first_and_then_is_not(root: Path, version: str | None, code: int, words: str) -> None:
    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/api/health":
                self.answer("true")
            elif version is not None:
                self.answer(json.dumps(version))
            else:
                self.close_connection = True

        def answer(self, body: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

    with answering(Server) as url:
        process = start(root, PREFECT_API_URL=f"{url}/api")
        said = process.communicate()[1]
    assert "Traceback" not in said
    assert words in said
    assert process.returncode == code


def test_a_schedule_whose_server_stays_away_ends_in_words(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(root / "none.toml"))
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "1")
    services._prefect_up(Project(root), os.environ, print)  # pyright: ignore[reportPrivateUsage]
    try:
        command = [sys.executable, "-m", "flows.cli.main", "serve", "--project", str(root)]
        environment = {**os.environ, "SIFTLINE_SERVE_READY": str(root / "ready")}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        wait_for((root / "ready").exists)
    finally:
        services.Background("prefect", root / ".siftline").stop()
    words = process.communicate()[1]
    assert process.returncode == 3, words
    assert words.splitlines()[-1].startswith("siftline: Prefect's server did not answer for some minutes")


SHOWS = """
import contextlib
import flows.pipelines.artifacts as artifacts
from prefect.exceptions import MissingContextError
from warehouse.maintenance.compaction import Maintained
artifacts.PROGRESS_EVERY_S = 0.0
with artifacts.StageProgress("embed", lambda done, total: None) as progress:
    progress(1, 3)
    progress(2, 3)
names = ("rows_flushed", "files_merged", "files_made", "files_rewritten", "rows_superseded", "files_removed")
counts = dict.fromkeys(names, 0)
with contextlib.suppress(MissingContextError):  # outside a run there is no log to tell of it
    artifacts.publish_maintenance("p", Maintained(**counts, snapshots_expired=(), catalog_bytes=None, vacuumed=True))
"""


def test_a_run_does_not_stand_still_for_what_it_would_show_to_a_server_that_is_away() -> None:
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(503)
            self.send_header("Retry-After", "0")  # the client's own waits are a minute in all
            self.send_header("Content-Length", "0")
            self.end_headers()

    with answering(Server) as url:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        environment |= {"PREFECT_API_URL": f"{url}/api"}
        environment |= {"PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false"}
        ended = subprocess.run([sys.executable, "-c", SHOWS], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    # Progress and the artifact, each with one more try; the second progress is not told so soon after.
    assert asked == ["/api/artifacts/"] * 4


def test_its_database_is_locked(root: Path) -> None:
    process = start(root)
    with FolderLock(root / "lake").held():
        in_a_stage(root, process)
        other = sqlite3.connect(root / ".siftline" / "prefect" / "prefect.db", isolation_level=None, timeout=60)
        other.execute("BEGIN EXCLUSIVE")
    try:
        time.sleep(5)
    finally:
        other.execute("ROLLBACK")
        other.close()
    if finished_or_typed(process):
        ends_well(root)


def test_sigterm_stops_a_run_by_hand_within_ten_seconds(root: Path) -> None:
    process = start(root)
    with FolderLock(root / "lake").held():
        in_a_stage(root, process)
        process.send_signal(signal.SIGTERM)
        words = process.communicate(timeout=10)[1]  # the promise
    assert process.returncode in (130, -signal.SIGTERM, 128 + signal.SIGTERM), words
    assert words.count("stopped by SIGTERM; what was committed is kept, run again to go on\n") == 1
    # What a handler raises in a callback of a weak reference is lost to Python; `prompt_stop` then ends the process,
    # as it also does where the handler is slow.
    lost = process.returncode == 128 + signal.SIGTERM
    assert [record.ended for record in unfinished(root / ".siftline")] == ["" if lost else "stopped by SIGTERM"]


EARLY = """
import os, signal
import flows.cli.run as run
from flows.cli.main import main
get_ready = run._get_ready
def then_patch(project):
    get_ready(project)  # Prefect must not be imported before
    import prefect.task_engine as engine
    make = engine._create_task_run_locally
    def stop(*arguments, **named):
        os.kill(os.getpid(), getattr(signal, os.environ["FATE"]))
        return make(*arguments, **named)
    engine._create_task_run_locally = stop
run._get_ready = then_patch
main()
"""


@pytest.mark.parametrize(
    ("name", "code", "words", "ended"),
    [
        ("SIGTERM", -signal.SIGTERM, "stopped by SIGTERM; what", "stopped by SIGTERM"),
        ("SIGINT", 130, "interrupted; what", "interrupted by hand"),
    ],
)
def test_a_signal_before_prefect_has_made_the_run_of_a_stage(
    root: Path, name: str, code: int, words: str, ended: str
) -> None:
    """Prefect's engine then fails with an error of its own."""
    process = start(root, "-c", EARLY, FATE=name)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == code, said
    assert said.count(f"{words} was committed is kept, run again to go on\n") == 1
    assert "Traceback" not in said
    assert [record.ended for record in unfinished(root / ".siftline")] == [ended]


def test_sigterm_while_its_server_starts_is_said(root: Path) -> None:
    process = start(root)
    assert process.stderr is not None
    while "Starting a run" not in (line := process.stderr.readline()):
        assert line
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=10)[1] == "stopped by SIGTERM; what was committed is kept, run again to go on\n"
    assert process.returncode == -signal.SIGTERM


HANGS = """
import hashlib, signal, sys
import flows.pipelines.time_limits as limits
limits.GRACE_S = 1.0
def handler(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGTERM, handler)
bound = limits.prompt_stop(1.0) if sys.argv[1] == "stop" else limits.time_limit(0.5)
with bound:
    print("in", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"p", b"s", 2**31 - 1)  # C code that asks Python for nothing, for many minutes
"""


def test_a_limit_needs_no_stream_of_the_system() -> None:
    """What a notebook, a test or a service has in the place of sys.stderr may have no number; then no run began."""
    with contextlib.redirect_stderr(io.StringIO()), time_limit(60):
        pass


@pytest.mark.parametrize(("bound", "code"), [("stop", 128 + signal.SIGTERM), ("limit", 1)])
def test_a_call_that_does_not_return_is_left(bound: str, code: int) -> None:
    command = [sys.executable, "-c", textwrap.dedent(HANGS), bound]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    if bound == "stop":
        time.sleep(1)  # so that the call has begun: a signal between the two lines is an ordinary interrupt
        process.send_signal(signal.SIGTERM)
    words = process.communicate(timeout=60)[1]
    assert process.returncode == code
    if bound == "limit":
        assert "pbkdf2_hmac" in words or "most recent call first" in words
    else:
        assert words == "stopped by SIGTERM; what was committed is kept, run again to go on\n"


QUERY = """
import signal
import duckdb
from flows.pipelines.time_limits import prompt_stop
def handler(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGTERM, handler)
with prompt_stop(20.0) as signals:
    print(signals.meant(RuntimeError("its own")), flush=True)
    try:
        duckdb.sql("SELECT count(*) FROM range(100000000000) a WHERE hash(range) = 1").fetchall()
    except RuntimeError as error:
        print(signals.meant(error))
    except KeyboardInterrupt:
        print(15)
"""


def test_a_signal_that_ends_a_query_is_known_for_what_it_is() -> None:
    """DuckDB puts an error of its own in its place."""
    process = subprocess.Popen([sys.executable, "-c", QUERY], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    time.sleep(0.5)  # into the query
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "15\n"
