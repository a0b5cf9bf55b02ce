"""A Prefect API for a run when none is configured: a server process of our own on loopback that ends with us.

A bare `@flow` call starts a temporary server too, but that one calls home, runs services that fight over its SQLite
file ("database is locked") and stays behind when its parent is killed. This one does none of that: its data lies in
the project, its services are off, and it exits when the pipe to its parent closes, however the parent ends.
"""

import logging
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

from flows.servers.background import Background
from flows.servers.ports import answers, reach_loopback_directly
from flows.servers.processes import last_words
from warehouse import ServiceError, SettingsError
from warehouse.catalog.address import is_own, is_plain_address
from warehouse.errors import DiskFull
from warehouse.files.scratch import roomy_folder

START_TIMEOUT_S = 300.0
DATABASE = "prefect.db"
_SQLITE_PATH_BYTES = 504  # 512 with the ending of its journal. Source: MAX_PATHNAME in SQLite's os_unix.c
_NEEDED_BYTES = 1024 * 1024  # with less the database of a new server has no room

PYTHON = (sys.executable, "-P")
"""Modules are not looked for in the folder that it is started in: a project may have a `features.py` of its own."""
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    # The command says what failed in words; the server keeps the traceback.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_CLI_PROMPT": "false",
}
# For each event that a server did not take Prefect's client writes a kilobyte to the terminal, one every 7 s.
_NO_EVENTS_TOLD = {"PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL"}
_SERVICES = (
    "CANCELLATION_CLEANUP",
    "CLEANUP_RECONCILER",
    "FOREMAN",
    "LATE_RUNS",
    "PAUSE_EXPIRATIONS",
    "REPOSSESSOR",
    "SCHEDULER",
    "TRIGGERS",
)


def own_pages(port: int) -> dict[str, str]:
    """The setting by which browsers let only the server's own pages ask it; by default those of any site may."""
    return {"PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port},http://localhost:{port}"}


def data_in(home: Path) -> dict[str, str]:
    """The settings by which a Prefect server keeps all its data in a folder.

    Raises:
        SettingsError: its database would be another file, or one that cannot be opened.
    """
    if wrong := re.search(r"\?|%[0-9A-Fa-f]{2}", str(home)):
        found = "a question mark, at which Prefect would end" if wrong[0] == "?" else f"{wrong[0]}, which would change"
        raise SettingsError(
            f"{home} has {found} the name of its database. Give the project's folder another name, or set "
            "PREFECT_API_URL to a server that you have."
        )
    if len(os.fsencode(home / DATABASE)) > _SQLITE_PATH_BYTES:
        raise SettingsError(
            f"{home / DATABASE} is longer than the {_SQLITE_PATH_BYTES} bytes that SQLite takes. Move the project to a "
            "folder with a shorter path."
        )
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / DATABASE}",
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
        "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
    }


def configured_api_url() -> str | None:
    """The Prefect API that the user configured by environment or by the active profile, or None.

    Raises:
        SettingsError: it is no address, or the profiles cannot be read.
    """
    url, where = _configured("PREFECT_API_URL")
    if url and not is_plain_address(url):  # not repeated: it may hold a password
        raise SettingsError(
            f"PREFECT_API_URL{where} must look like http://host:4200/api or "
            "https://api.prefect.cloud/api/accounts/.../workspaces/..., without a log-in: it stands in messages. A "
            "log-in belongs into PREFECT_API_AUTH_STRING."
        )
    return url.rstrip("/") if url else None


def _configured(name: str) -> tuple[str, str]:
    """A setting of Prefect's by environment or by the active profile, empty where there is none; and where it stands.

    Raises:
        SettingsError: the profiles cannot be read.
    """
    if value := os.environ.get(name):
        return value, ""
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH", str(home / "profiles.toml"))).expanduser()
    if not profiles.is_file():
        return "", ""
    try:
        content = tomllib.loads(profiles.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"Prefect's {profiles} is not valid TOML: {error}. Mend it, or move it away.") from error
    active = os.environ.get("PREFECT_PROFILE", content.get("active", ""))
    value = str(content.get("profiles", {}).get(active, {}).get(name, ""))
    return value, f" of the profile '{active}' in {profiles}"


def local_api_url(state: Path) -> str | None:
    """The API of the server that `siftline up` started for the project with this state folder, or None."""
    record = Background("prefect", state).status()
    return None if record is None else record.url


def require_api(state: Path) -> str:
    """Make a Prefect server that stays reachable for this process; to be called before prefect is imported.

    Args:
        state: the project's state folder.

    Returns:
        The API's address.

    Raises:
        SettingsError: none is configured, and `siftline up` did not start one.
        ServiceError: it does not answer.
    """
    url = use_api(state)
    if url is None:
        raise SettingsError(
            "A schedule needs a Prefect server that stays. `siftline up` starts one on this machine; for one that you "
            "have, set PREFECT_API_URL=http://host:4200/api."
        )
    check_api(url)
    return url


def use_api(state: Path) -> str | None:
    """Point this process to the Prefect server that stays, whether it answers or not; before prefect is imported.

    Args:
        state: the project's state folder.

    Returns:
        The API's address; None where none is configured and `siftline up` did not start one.
    """
    url = configured_api_url() or local_api_url(state)
    if url is not None:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        os.environ["PREFECT_API_URL"] = url
    return url


@contextmanager
def _given_back() -> Generator[None]:
    """What a block sets for Prefect goes with it: the program that it is in may have Prefect for its own, elsewhere."""
    names = (*QUIET, *_NO_EVENTS_TOLD, "PREFECT_API_URL", "PREFECT_HOME", "no_proxy", "NO_PROXY")
    before = {name: os.environ.get(name) for name in names}
    read = None
    if "prefect" in sys.modules:
        from prefect import context

        read = context.GLOBAL_SETTINGS_CONTEXT
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if read is not None:
            from prefect import context

            context.GLOBAL_SETTINGS_CONTEXT = read


@contextmanager
def prefect_api(state: Path, *, meanwhile: Callable[[], object] = lambda: None) -> Generator[str]:
    """Make a Prefect API reachable for this process; must be entered before prefect is imported.

    Args:
        state: folder for the server's data when none is configured.
        meanwhile: called while a server of our own starts, which takes seconds of another core; it may import prefect.

    Yields:
        The API's address.

    Raises:
        ServiceError: the configured server does not answer, or our own does not start.
    """
    with _given_back(), _api(state, meanwhile) as url:
        yield url


@contextmanager
def _api(state: Path, meanwhile: Callable[[], object]) -> Generator[str]:
    for name, value in (QUIET | _NO_EVENTS_TOLD).items():
        os.environ.setdefault(name, value)
    logging.raiseExceptions = False  # the same for its log lines; who asked for this is told once, in words
    url = configured_api_url()
    if url is not None:
        check_api(url)
        yield url
        return
    url = local_api_url(state)
    if url is not None:
        check_api(url)
        os.environ["PREFECT_API_URL"] = url
        _have_prefect_read()
        try:
            yield url
        finally:
            _send_what_waits(url)
        return
    home = state / "prefect"
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.environ["PREFECT_HOME"] = str(home)
    with _own_server(home, meanwhile) as url:
        try:
            yield url
        finally:
            _send_what_waits(url)


def check_api(url: str) -> None:
    """Ask a Prefect API whether it is there.

    Raises:
        ServiceError: it does not answer.
    """
    try:
        authorities, _ = _configured("PREFECT_API_SSL_CERT_FILE")  # by which Prefect's client knows a server of a team
        trusted = ssl.create_default_context(cafile=authorities) if authorities else True
        answer = httpx.get(f"{url.rstrip('/')}/health", timeout=10, trust_env=not is_own(url), verify=trusted)
        if answer.status_code not in (401, 403):  # a log-in is asked for, which Prefect's client brings and we do not
            answer.raise_for_status()
    except httpx.HTTPError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise ServiceError(
                f"The certificate of the Prefect server at {url} is not trusted ({error}). Where an authority of your "
                "own signed it, set PREFECT_API_SSL_CERT_FILE to a file of its certificate."
            ) from error
        raise ServiceError(
            f"The Prefect server at {url} does not answer ({error}). Where `siftline up` started it, wait a minute and "
            "run `siftline up`; where it is yours, start it (`prefect server start`) or unset PREFECT_API_URL to run "
            "without one."
        ) from error


def other_version(error: Exception, url: str) -> SettingsError:
    """The error to raise where Prefect's client refused the version of a server."""
    why = str(error).rstrip(".")
    return SettingsError(
        f"Prefect's server at {url.rstrip('/')} does not go with this Prefect ({why}). Bring both to one version, or "
        "unset PREFECT_API_URL to run without that server."
    )


def behind(error: Exception) -> Exception:
    """What made Prefect's client say "Failed to reach API", which it also does of a server that refused it."""
    cause = error.__cause__
    return cause if isinstance(error, RuntimeError) and isinstance(cause, Exception) else error


def log_in_hint(error: Exception) -> str:
    """What to do about a Prefect server that refused a log-in, to be added to a message; empty for any other error."""
    words = str(error)
    if "401 Unauthorized" not in words and "403 Forbidden" not in words:
        return ""
    return (
        ". It asks for a log-in: set PREFECT_API_AUTH_STRING to the name:password that its "
        "PREFECT_SERVER_API_AUTH_STRING has, or for Prefect Cloud PREFECT_API_KEY"
    )


def disk_full(home: Path) -> DiskFull | None:
    """The error to raise where a Prefect server with its data in a folder could not work for want of space, or None."""
    free = shutil.disk_usage(home).free
    if free >= _NEEDED_BYTES:
        return None
    return DiskFull(f"The disk of {home} is full ({free // 1024} KiB free). Free space and run again.")


def _have_prefect_read() -> None:
    """Have Prefect, which reads its settings once, read those of this run: in a program it may be the second one."""
    if "prefect" in sys.modules:
        from prefect import context

        context.GLOBAL_SETTINGS_CONTEXT = context.root_settings_context()


def _send_what_waits(url: str) -> None:
    """Let Prefect's background workers send their last logs and events while the server is still there."""
    if "prefect" not in sys.modules or not answers(f"{url}/health"):
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    with ThreadPoolExecutor(1) as beside:  # where a loop runs, as in a notebook, they only give something to await
        for worker in (APILogWorker, EventsWorker):
            beside.submit(worker.drain_all, timeout=5).result()


def _check_loopback(port: int) -> None:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except (ConnectionRefusedError, TimeoutError):  # as it should be: nobody listens there yet
        return
    except OSError as error:
        raise ServiceError(
            f"This machine does not reach itself at 127.0.0.1 ({error.strerror}), where a run asks its own Prefect "
            "server. Switch its loopback on (as root: ip link set lo up) and run again."
        ) from error


@contextmanager
def _own_server(home: Path, meanwhile: Callable[[], object]) -> Generator[str]:
    data = data_in(home)
    # Bound here and listened at there, so that no other process can take the port in between.
    door = socket.socket()
    door.bind(("127.0.0.1", 0))
    port = door.getsockname()[1]
    _check_loopback(port)
    environment = {
        **own_pages(port),
        **os.environ,
        **QUIET,
        **data,
        "TMPDIR": roomy_folder(),  # SQLite's temporary files too: it tries no other where the one named is full
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        **{f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _SERVICES},
    }
    url = os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    reach_loopback_directly()  # for Prefect's client too, also where no command of ours began
    log = home / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*PYTHON, "-m", "flows.servers.prefect_process", "beside", str(door.fileno())],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=(door.fileno(),),
            start_new_session=True,  # Ctrl-C is for us; the server must outlive our last words to it
        )
    door.close()
    try:
        meanwhile()
        _have_prefect_read()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers(f"{url}/health"):
            if process.poll() is not None:
                if full := disk_full(home):
                    raise full
                if "disk is full" in log.read_text("utf-8", "replace"):  # SQLite's word, also of its temporary files
                    from warehouse.files.disk_space import temporary_full

                    raise temporary_full()
                raise ServiceError(
                    f"Prefect's server ended with code {process.returncode} ({last_words(log)}). "
                    f"If its data is damaged, delete {home}: it holds only the history of flow runs."
                )
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"Prefect's server did not answer within {START_TIMEOUT_S:.0f} s ({last_words(log)}); "
                    "the machine may be too busy. Run again."
                )
            time.sleep(0.1)
        yield url
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
