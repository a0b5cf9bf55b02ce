"""Real servers for tests of the warehouse: PostgreSQL from Debian's packages and rclone as an S3-compatible store."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from warehouse.session.extensions import open_duckdb


@dataclass
class Postgres:
    """A running cluster of its own; `fresh()` gives an empty database."""

    folder: Path
    programs: Path
    password: str
    options: dict[str, Any]
    databases: int = 0
    server: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        settings = ["-k", str(self.folder), "-c", "listen_addresses=", "-F", "-c", "max_connections=200"]
        command = [self.programs / "postgres", "-D", self.folder / "data", *settings]
        with (self.folder / "log").open("ab") as log:
            self.server = subprocess.Popen(command, stderr=log, **self.options)
        server_is_up(self.folder, self.server, self.programs)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """SIGQUIT ends it at once, as a crash does."""
        self.server.send_signal(number)
        self.server.wait()

    @contextlib.contextmanager
    def frozen(self) -> Generator[None]:
        """All of its processes stand still for a block; the kernel goes on to take connections and what is sent."""
        children = Path(f"/proc/{self.server.pid}/task/{self.server.pid}/children")
        self.server.send_signal(signal.SIGSTOP)
        processes = [int(pid) for pid in children.read_text().split()]
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in [*processes, self.server.pid]:
                os.kill(pid, signal.SIGCONT)

    def ask(self, database: str, sql: str) -> None:
        connection = open_duckdb(("postgres_scanner",))
        connection.execute(f"ATTACH 'host={self.folder} user=siftline dbname={database}' AS pg (TYPE postgres)")
        connection.execute(f"CALL postgres_execute('pg', $${sql}$$, use_transaction => false)")
        connection.close()

    def fresh(self) -> str:
        """Setting of a catalogue in a new database."""
        self.databases += 1
        name = f"lake{self.databases}"
        self.ask("postgres", f"CREATE DATABASE {name}")
        return f"postgres:dbname={name} host={self.folder} user=siftline"


@contextlib.contextmanager
def running_postgres() -> Generator[Postgres]:
    """A PostgreSQL of its own on a socket in a temporary folder, as a user without rights when we are root."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.fail("PostgreSQL is not installed: make postgres")
    programs = found[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="siftline-pg-"))
    who: dict = {}
    if os.getuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    password = f"canary-{secrets.token_hex(12)}"
    (folder / "password").write_text(password)
    (folder / "password").chmod(0o644)
    options = {"cwd": folder, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}, **who}
    create = [programs / "initdb", "-D", folder / "data", "-U", "siftline", "-A", "scram-sha-256", "-E", "UTF8"]
    try:
        subprocess.run(
            [*create, "--no-sync", f"--pwfile={folder}/password"], check=True, stdout=subprocess.DEVNULL, **options
        )
        (folder / "password").unlink()
        cluster = Postgres(folder, programs, password, options)
        try:
            cluster.start()
            with pytest.MonkeyPatch.context() as environment:
                environment.setenv("PGPASSWORD", password)
                yield cluster
        finally:
            cluster.stop(signal.SIGQUIT)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


def server_is_up(folder: Path, server: subprocess.Popen, programs: Path) -> None:
    deadline = time.monotonic() + 60
    while subprocess.run([programs / "pg_isready", "-q", "-h", folder]).returncode:
        assert server.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline, "PostgreSQL did not come up in 60 s"
        time.sleep(0.05)


@pytest.fixture
def postgres(postgres_server: Postgres) -> str:
    """Setting of a catalogue in an empty database."""
    return postgres_server.fresh()


@dataclass
class S3:
    """A running S3-compatible store; `folder` holds what is in it."""

    folder: Path
    endpoint: str
    secret: str


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    folder = tmp_path_factory.mktemp("s3")
    (folder / "bucket").mkdir()
    secret = f"canary-{secrets.token_hex(12)}"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rclone = Path(sys.executable).with_name("rclone")
    command = [
        rclone,
        "serve",
        "s3",
        "--addr",
        f"127.0.0.1:{port}",
        "--vfs-cache-mode",
        "off",
        "--dir-cache-time",
        "10ms",  # with 0s a timer of rclone fires without a pause and starves what waits for its lock
        str(folder),
    ]
    environment = {"RCLONE_AUTH_KEY": f'"siftline,{secret}"', "HOME": str(folder.parent), "RCLONE_CONFIG": os.devnull}
    server = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert server.poll() is None, "rclone did not start"
            assert time.monotonic() < deadline, "rclone did not come up in 60 s"
            time.sleep(0.05)
        yield S3(folder, f"http://127.0.0.1:{port}", secret)
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """The store, with the environment that reaches it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "siftline")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    return s3_server
