"""The same commands with a real Label Studio: the demo annotator answers there, and a queue is loaded for people."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from features.samples import SampleFiles
from flows.studio import StudioInfo
from tests.projects import ROOT, make_small_project
from tests.studio import api
from warehouse import Lake

pytestmark = pytest.mark.studio


def siftline(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli.main", *arguments, "--project", str(root)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def tasks(studio: StudioInfo, title: str) -> list[dict]:
    [project] = api(studio, "GET", "/api/projects/", params={"title": title}).json()["results"]
    query = {"project": project["id"], "page_size": 500, "fields": "all"}
    return api(studio, "GET", "/api/tasks/", params=query).json()["tasks"]


def test_with_a_server_configured_the_run_pushes_there_and_collects_from_there(
    tmp_path: Path, reuters: SampleFiles, studio: StudioInfo
) -> None:
    root = make_small_project(tmp_path / "project", reuters, train=120, test=30)
    settings = (root / "siftline.toml").read_text("utf-8").replace('"siftline-reuters"', '"journey-simulated"')
    (root / "siftline.toml").write_text(settings, "utf-8")
    server = {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": studio.api_key}
    run = siftline(root, "run", "--annotator", "simulated", **server)
    assert run.returncode == 0, run.stderr
    assert studio.api_key not in run.stdout + run.stderr
    assert not (root / "tasks").exists()
    stored = tasks(studio, "journey-simulated")
    assert len({task["data"]["item_id"] for task in stored}) == len(stored) == 16
    assert all(len(task["annotations"]) == 1 for task in stored)
    with Lake(root / "lake", read_only=True) as lake, lake.read() as reader:
        assert reader.scalar("SELECT count(*) FROM gold_labels WHERE simulated") == 16
    again = siftline(root, "run", "--annotator", "simulated", **server)
    assert " 0 rows written" in again.stdout, again.stdout
    assert len(tasks(studio, "journey-simulated")) == 16


def test_studio_up_starts_a_server_with_the_queue_loaded_and_prints_the_log_in(
    tmp_path: Path, reuters: SampleFiles
) -> None:
    """What `make studio` runs after a demo whose budget is spent: one more batch waits for people."""
    root = make_small_project(tmp_path / "project", reuters, train=120, test=30)
    assert siftline(root, "run", "--annotator", "simulated").returncode == 0
    try:
        up = siftline(root, "studio", "up", "--load")
        assert up.returncode == 0, up.stderr
        url = re.search(r"Label Studio: (http://\S+)", up.stdout)
        login = re.search(r"log-in: (\S+)  password: (\S+)", up.stdout)
        assert url is not None, up.stdout
        assert login is not None, up.stdout
        assert "8 tasks wait for annotators" in up.stdout
        shown = siftline(root, "studio", "status")
        assert url[1] in shown.stdout
    finally:
        down = siftline(root, "studio", "down")
    assert down.returncode == 0
    with Lake(root / "lake", read_only=True) as lake, lake.read() as reader:
        assert reader.rows("SELECT state, count(*) FROM queue GROUP BY 1 ORDER BY 1") == [
            ("answered", 16),
            ("confirmed", 8),
        ]
