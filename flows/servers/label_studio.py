"""A real Label Studio server on this machine: started detached on loopback, found again, stopped.

The server runs in an environment of its own (`.venv-labelstudio`), because label-studio brings a package named `attr`
that shadows attrs. Everything it keeps lies below one folder of mode 0700: SQLite database, media, log, and
`studio.json` (0600) with the log-in and the API key. It signs up nobody, reports to nobody and asks nobody for updates.
"""

import json
import os
import secrets
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from flows.servers.background import Background, Running
from flows.servers.ports import answers, is_free, pick_port
from flows.servers.processes import listening_addresses
from warehouse import ServiceError, SettingsError
from warehouse.catalog.address import is_own
from warehouse.files.atomic_file import replaced_file

DEFAULT_USERNAME = "annotator@siftline.local"
ENVIRONMENT = ".venv-labelstudio"
# The first start in an environment applies 261 migrations: 25 s on an idle core, minutes where others work too.
START_TIMEOUT_S = 600.0
FIRST_PORT = 8080
_DATA = "LABEL_STUDIO_BASE_DATA_DIR"
"""Environment variable of the server: the folder of its data."""
_TAKEN = (
    "Another program took port {} of 127.0.0.1 while Label Studio started. Start it again: it gets another port then."
)

_QUIET = {
    "PATH": os.defpath,
    "LANG": "C.UTF-8",
    "LABEL_STUDIO_COLLECT_ANALYTICS": "false",
    "LABEL_STUDIO_LATEST_VERSION_CHECK": "false",
    "LABEL_STUDIO_SENTRY_DSN": "",
    "LABEL_STUDIO_FRONTEND_SENTRY_DSN": "",
    # The log-in and start pages have the server fetch tips from GitHub, which no setting turns off: nothing listens on
    # the discard port, so this and every other request to the outside fails at once.
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """How to get in: what `studio.json` holds. Its repr shows neither password nor key."""

    username: str
    password: str = field(repr=False)
    api_key: str = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudioInfo(Account):
    """A running local server: where it is and how to get in."""

    url: str
    pid: int


class StudioServer:
    """One Label Studio server with all its data below one folder.

    Attributes:
        process: the server's process, to stop it and to find its log.
        account_path: the file with log-in and key.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        environment: Path | None = None,
    ) -> None:
        """Describe the server; nothing is started or written yet.

        Args:
            folder: where the server keeps everything; created with mode 0700.
            port: TCP port on 127.0.0.1; None takes the last one used here, else the first free one from 8080 on.
            environment: virtual environment that holds label-studio; None looks for `.venv-labelstudio` beside
                Siftline's own packages and in the current folder.
        """
        self.folder = folder.absolute()
        self.environment = environment or _find_environment()
        self.process = Background("label studio", self.folder, patience_s=START_TIMEOUT_S)
        self.account_path = self.folder / "studio.json"
        self._port = port

    def start(self) -> StudioInfo:
        """Start the server, or find the one that already runs on this folder, and wait until it answers.

        Returns:
            Address, log-in and key.

        Raises:
            SettingsError: the environment is missing, the port is taken, or the file with the key is damaged.
            ServiceError: the server died or did not answer in time; the message names its log.
        """
        program = self._program()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)
        with replaced_file(self.folder / ".gitignore", durable=False) as ignored:  # never through a link
            ignored.write_text("*\n", encoding="ascii")
        with FileLock(self.folder / "studio.lock"):
            account = self._account()
            running = self.process.status()
            if running is not None and account is not None and not self.process.moved():
                return _info(self.process.await_ready(running, self._is_ready), account)
            self.process.stop()  # in a folder that was moved it opens its database by the path, and finds none
            self._provide_database(program)
            port = self._pick_port()
            account = account or self._new_account()
            command = [str(program), "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)]
            url = f"http://127.0.0.1:{port}"
            try:
                running = self.process.start(command, self._variables(account), url=url, ready=self._is_ready)
            except ServiceError as error:
                # It opens the port long after that was picked: a second one, started at the same time, has it then.
                raise error if is_free(port) else ServiceError(_TAKEN.format(port)) from None
            return _info(running, account)

    def status(self) -> StudioInfo | None:
        """The running server, or None when it does not run."""
        running = self.process.status()
        account = None if running is None else self._account()
        return None if running is None or account is None else _info(running, account)

    def _program(self) -> Path:
        program = self.environment / "bin" / "label-studio"
        if not program.is_file():
            raise SettingsError(
                f"{program} is not there: Label Studio needs an environment of its own. `make studio-env` creates it "
                f"(without the repository: python3 -m venv {ENVIRONMENT} && {ENVIRONMENT}/bin/pip install "
                "'label-studio>=1.23.2'). Or use a server you have: set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY."
            )
        return program

    def _provide_database(self, program: Path) -> None:
        """Give a new folder an empty database that has all migrations.

        Making one takes 25 s or more, so it is made once and kept in the environment. It holds no user and no key. A
        server of a newer version applies what it lacks.
        """
        database = self.folder / "data" / "label_studio.sqlite3"
        template = self.environment / "siftline-empty.sqlite3"
        if database.exists():
            return
        if not template.exists() and os.access(self.environment, os.W_OK):
            with FileLock(self.environment / "siftline-empty.lock"):
                if not template.exists():
                    self._make_template(program, template)
        if template.exists():
            database.parent.mkdir(mode=0o700, exist_ok=True)
            part = database.with_suffix(".part")
            shutil.copyfile(template, part)
            part.chmod(0o600)
            part.replace(database)

    def _make_template(self, program: Path, template: Path) -> None:
        """Make the empty database; first remove what starts that were killed in the middle of this left behind."""
        for left in self.environment.glob("siftline-*"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=self.environment, prefix="siftline-") as scratch:
            made = Path(scratch) / "label_studio.sqlite3"
            variables = {**_QUIET, "HOME": scratch, _DATA: scratch}
            try:
                subprocess.run(
                    [str(program), "version"],
                    env=variables,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    timeout=START_TIMEOUT_S,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise ServiceError(
                    f"Label Studio did not make its tables within {START_TIMEOUT_S:.0f} s; this machine is too busy. "
                    "Start it again when it has less to do."
                ) from error
            if made.exists():
                made.replace(template)

    def _variables(self, account: Account) -> dict[str, str]:
        """The server's whole environment. Nothing is inherited: it also reads plain names such as HOST and DEBUG.

        Password and key go this way and not as arguments, because every user can read a process's arguments.
        """
        return {
            **_QUIET,
            "HOME": str(self.folder.resolve()),
            _DATA: str((self.folder / "data").resolve()),
            "LABEL_STUDIO_USERNAME": account.username,
            "LABEL_STUDIO_PASSWORD": account.password,
            "LABEL_STUDIO_USER_TOKEN": account.api_key,
            # Off by default; read once, when the first user's organization is created.
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
            "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "false",
            # Only this machine's own pages may talk to it, whatever name another page resolves to 127.0.0.1.
            "LABEL_STUDIO_ALLOWED_HOSTS": "127.0.0.1,localhost",
            "LABEL_STUDIO_CORS_ALLOW_ALL_ORIGINS": "false",
        }

    def _is_ready(self) -> bool:
        running = self.process.status()
        if running is None:
            return False
        port = urlsplit(running.url).port
        addresses = listening_addresses(running.pid)
        # It looks for the next free port when another process took this one meanwhile: then it is not ours.
        if addresses and addresses != {("127.0.0.1", port)}:
            self.process.stop()
            raise ServiceError(_TAKEN.format(port))
        return bool(addresses) and answers(f"{running.url}/health", timeout_s=10)

    def _pick_port(self) -> int:
        if self._port is None:
            last = self.process.last()
            return pick_port(FIRST_PORT, former=0 if last is None else urlsplit(last.url).port or 0)
        if not is_free(self._port):
            raise SettingsError(f"port {self._port} on 127.0.0.1 is taken; name another one or leave it to Siftline")
        return self._port

    def _account(self) -> Account | None:
        path = self.account_path
        try:
            told = json.loads(path.read_text("utf-8"))
            return Account(username=told["username"], password=told["password"], api_key=told["api_key"])
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            raise SettingsError(
                f"{path} is damaged ({type(error).__name__}); the log-in and the key of the server were in it. Bring "
                f"it back from a backup; or remove {self.folder}, with all answers in it, to begin anew."
            ) from None

    def _new_account(self) -> Account:
        account = Account(username=DEFAULT_USERNAME, password=secrets.token_urlsafe(18), api_key=secrets.token_hex(20))
        with replaced_file(self.account_path) as temporary:  # mode 0600
            temporary.write_text(json.dumps(asdict(account), indent=2), "utf-8")
        return account


def studio_server(project_dir: Path) -> StudioServer:
    """The local server that belongs to a project; its data lies in `.studio/` of the project folder."""
    return StudioServer(project_dir / ".studio")


def studio_key_file(project_dir: Path, url: str, key: str) -> Path | None:
    """The file with the key of the project's local server, where that has this address and key; else None."""
    if not is_own(url):
        return None
    server = studio_server(project_dir)
    info = server.status()
    return server.account_path if info is not None and (info.url, info.api_key) == (url.rstrip("/"), key) else None


def _find_environment() -> Path:
    beside_packages = Path(__file__).resolve().parents[2] / ENVIRONMENT
    return beside_packages if beside_packages.is_dir() else Path.cwd() / ENVIRONMENT


def _info(running: Running, account: Account) -> StudioInfo:
    return StudioInfo(url=running.url, pid=running.pid, **asdict(account))
