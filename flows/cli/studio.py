"""`siftline studio`: a local Label Studio server for this project."""

from pathlib import Path

from flows.cli.console import out
from flows.project import Project
from flows.studio import studio_down, studio_up


def start(root: Path) -> None:
    """Start the server and print its address, its log-in and how to use it."""
    project = Project(root)
    info = studio_up(project.root)
    out.print(f"Label Studio: {info.url}")
    out.print(f"log-in: {info.username}  password: {info.password}")
    out.print("To send the queue there:")
    out.print(f"  export LABEL_STUDIO_URL={info.url} LABEL_STUDIO_API_KEY={info.api_key}")
    out.print(f"  siftline run --project {root}")


def stop(root: Path) -> None:
    """Stop the server."""
    out.print("Label Studio stopped" if studio_down(Project(root).root) else "Label Studio was not running")
