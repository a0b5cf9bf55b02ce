"""Which servers of a project run on this machine, asked without starting one."""

import os
from pathlib import Path

from engine.client.remote import START
from flows.servers.background import Background
from flows.servers.label_studio import StudioInfo, studio_server
from flows.servers.ports import answers
from warehouse import ServiceError


def engine_start(state: Path, url: str) -> str:
    """The command that starts the engine's server of a project again: `siftline up` where it was started by that.

    Args:
        state: the project's state folder.
        url: where the engine's server should be.
    """
    service = Background("engine", state)
    last = service.last()
    if last is None or last.url != url:
        return START
    # One that died may have been followed by another at its address, which `up` leaves alone.
    return "siftline up" if service.status() is not None or not answers(f"{url}/health") else START


def running_label_studio(root: Path, state: Path, service: str) -> StudioInfo | None:
    """The Label Studio that the deployments of `siftline up` send tasks to; None where they do not run, or use another.

    Args:
        root: the project's folder.
        state: its state folder.
        service: `[annotate] service` of its settings.

    Raises:
        ServiceError: it does not run, while they do.
    """
    if Background("deployments", state).status() is None or not wants_label_studio(root, service):
        return None
    info = studio_server(root).status()
    if info is None:
        raise ServiceError("The Label Studio of `siftline up` does not run. Start it again: siftline up")
    return info


def wants_label_studio(root: Path, service: str) -> bool:
    """Whether a local Label Studio belongs to a project: it is asked for, or was started here before."""
    if service == "folder" or os.environ.get("LABEL_STUDIO_URL"):
        return False
    return service == "label-studio" or (root / ".studio" / "studio.json").is_file()
