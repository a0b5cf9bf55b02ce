"""A project and a server for the tests of what runs beside it."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from flows.project.project import Project
from tests.servers import answering


class Ok(BaseHTTPRequestHandler):
    """Answers everything, but as web frameworks do no path that begins with two slashes."""

    def do_GET(self) -> None:
        self.send_response(404 if self.requestline.startswith("GET //") else 200)
        self.end_headers()
        self.wfile.write(b"direct")


@pytest.fixture
def own_server() -> Iterator[str]:
    """Address of a server on this machine."""
    with answering(Ok) as url:
        yield f"{url}/"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project that leaves open where annotators answer."""
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "siftline.toml").write_text(
        '[project]\nname = "p"\nclasses = ["a", "b"]\n[[sources]]\nname = "s"\npath = "s.jsonl"\n'
    )
    return Project(tmp_path)
