"""`siftline webhook`: receive Label Studio's webhooks on loopback, and collect soon after one came."""

import socket
import threading
from pathlib import Path

from flows.cli.terminal.console import say
from flows.project.project import Project
from flows.report.text import counted
from warehouse import SettingsError
from warehouse.catalog.address import LOOPBACK


def receive(root: Path, *, host: str, port: int, every_s: float, register: str) -> None:
    """Serve the receiver until it is interrupted.

    Raises:
        SettingsError: the secret is missing, or `register` is used without Label Studio.
        OptionError: the address cannot be listened on.
    """
    from active.label_studio.service import LabelStudioService
    from engine.serving.connection import listen
    from flows.deployments.webhook import ACTIONS, HEADER, secret_from_env

    project = Project(root)
    secret = secret_from_env()
    with listen(host, port) as listener:
        if host not in LOOPBACK:
            say(f"Listening on {host}: put TLS in front, for the secret travels in a header.")
        if register:
            if not isinstance(project.service, LabelStudioService):
                raise SettingsError("--register needs Label Studio: set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY.")
            project.service.register_webhook(register, headers={HEADER: secret}, actions=ACTIONS)
            say(f"Registered in {project.service.describe()}")  # the address may hold a log-in
        _take_hints(project, secret, listener, every_s)


def _take_hints(project: Project, secret: str, listener: socket.socket, every_s: float) -> None:
    from flows.deployments.webhook import Hint, collect_on_hints, webhook_server
    from flows.servers.prefect_server import use_api

    project.state_path.mkdir(exist_ok=True, mode=0o700)
    hint = Hint(project.state_path / "collect-wanted")

    def gather() -> None:
        with project.only_run():  # a run that is at work is waited for here, and not by runs that Prefect cancels
            pass
        if use_api(project.state_path) is not None:
            from flows.pipelines.triggers import run_collect

            if run_collect(project, say):
                return
        with project.only_run():
            result = project.collect()
        said = result.rows_written.get("annotations", 0)
        if said:
            say(counted(said, "new or changed answer"))

    host, port = listener.getsockname()[:2]
    server = webhook_server(hint, secret, host=host, port=port)
    stop = threading.Event()
    ended: list[BaseException] = []

    def work() -> None:
        try:
            collect_on_hints(hint, gather, stop, say, every_s=every_s)
        except BaseException as error:  # noqa: BLE001 - raised again below
            ended.append(error)
            server.should_exit = True  # a receiver that only takes hints would look well

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    say(f"Webhooks: http://{f'[{host}]' if ':' in host else host}:{port}/hook")
    try:
        server.run([listener])
    finally:
        stop.set()
        worker.join(timeout=30)
    if ended:
        raise ended[0]
