"""The same commands with a real Label Studio: the demo annotator and a person with a browser answer there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from features.ingest.samples import SampleFiles
from flows.pipelines.stages import run_passes, run_stage_in_process
from flows.project.project import Project
from flows.servers.label_studio import StudioInfo
from tests.browser import chromium, requires_chromium
from tests.projects import PLAIN_FUNCTIONS, ROOT, make_small_project
from tests.studio import api, log_in, sign_up
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


def project_of_one_batch(folder: Path, reuters: SampleFiles, title: str) -> Path:
    """A small project without scoring, which asks no more than one batch."""
    root = make_small_project(folder, reuters, train=120, test=30)
    settings = (root / "siftline.toml").read_text("utf-8").partition("[evaluate]")[0]
    settings = (
        settings.replace('"snorkel"', '"majority"')
        .replace("budget = 16", "budget = 8")
        .replace('"siftline-reuters"', f'"{title}"')
    )
    (root / "siftline.toml").write_text(settings, "utf-8")
    (root / "labeling_functions.py").write_text(PLAIN_FUNCTIONS)
    return root


def tasks(studio: StudioInfo, title: str) -> list[dict]:
    [project] = api(studio, "GET", "/api/projects/", params={"title": title}).json()["results"]
    query = {"project": project["id"], "page_size": 500, "fields": "all"}
    return api(studio, "GET", "/api/tasks/", params=query).json()["tasks"]


def test_with_a_server_configured_the_run_pushes_there_and_collects_from_there(
    tmp_path: Path, reuters: SampleFiles, studio: StudioInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project_of_one_batch(tmp_path / "project", reuters, "journey-simulated")
    monkeypatch.setenv("LABEL_STUDIO_URL", studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", studio.api_key)
    project = Project(root)
    run_passes(run_stage_in_process(project), simulated=True)
    project.lake.close()
    assert not (root / "tasks").exists()
    stored = tasks(studio, "journey-simulated")
    assert len({task["data"]["item_id"] for task in stored}) == len(stored) == 8
    assert all(len(task["annotations"]) == 1 for task in stored)
    with Lake(root / "lake", read_only=True) as lake, lake.read() as reader:
        assert reader.scalar("SELECT count(*) FROM gold_labels WHERE simulated") == 8
    assert run_passes(run_stage_in_process(Project(root)), simulated=True).rows_written == 0
    assert len(tasks(studio, "journey-simulated")) == 8


def test_studio_up_starts_a_server_with_the_queue_loaded_and_prints_the_log_in(
    tmp_path: Path, reuters: SampleFiles, prefect_server: str
) -> None:
    """What `make studio` runs after a demo whose budget is spent: one more batch waits for people."""
    root = project_of_one_batch(tmp_path / "project", reuters, "siftline-reuters")
    project = Project(root)
    run_passes(run_stage_in_process(project), simulated=True)
    project.lake.close()
    try:
        up = siftline(root, "studio", "up", "--load", PREFECT_API_URL=prefect_server)
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
            ("answered", 8),
            ("confirmed", 8),
        ]


@pytest.mark.browser
@requires_chromium
def test_an_annotator_labels_five_tasks_with_the_keyboard_and_the_next_cycle_learns_from_them(
    tmp_path: Path, reuters: SampleFiles, studio: StudioInfo, prefect_server: str
) -> None:
    root = project_of_one_batch(tmp_path / "project", reuters, "journey-keyboard")
    server = {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": studio.api_key}
    server |= {"PREFECT_API_URL": prefect_server}
    run = siftline(root, "run", **server)
    assert run.returncode == 0, run.stderr
    assert studio.api_key not in run.stdout + run.stderr
    assert not (root / "tasks").exists()
    annotator = sign_up(studio)
    best = [task["data"]["text"] for task in sorted(tasks(studio, "journey-keyboard"), key=lambda task: task["id"])]
    [project] = api(studio, "GET", "/api/projects/", params={"title": "journey-keyboard"}).json()["results"]
    with chromium(width=1280, height=720) as driver:
        log_in(driver, annotator)
        driver.get(f"{studio.url}/projects/{project['id']}/data?labeling=1")
        for text in best[:5]:
            WebDriverWait(driver, 60).until(lambda page, text=text: shown_text(page) == text.split())
            body = driver.find_element(By.TAG_NAME, "body")
            if "acq" not in chosen(driver):  # the key of a class that is chosen takes the choice back
                body.send_keys("1")
            WebDriverWait(driver, 30).until(lambda page: "acq" in chosen(page))
            driver.save_screenshot(str(tmp_path / "label-studio-task.png"))
            body.send_keys(Keys.CONTROL + Keys.ENTER)
        WebDriverWait(driver, 60).until(lambda page: shown_text(page) == best[5].split())
    collected = siftline(root, "collect", **server)
    assert "5 new or changed answers" in collected.stdout, collected.stdout + collected.stderr
    more = {"SIFTLINE_SELECT__BUDGET": "16", "SIFTLINE_SELECT__REFILL_BELOW": "3"}
    assert siftline(root, "run", **server, **more).returncode == 0
    with Lake(root / "lake", read_only=True) as lake, lake.read() as reader:
        assert reader.rows("SELECT DISTINCT annotator, simulated FROM annotations") == [(annotator.username, False)]
        assert reader.scalar("SELECT count(*) FROM gold_labels WHERE label = 'acq' AND NOT simulated") == 5
        details = reader.rows("SELECT detail FROM runs WHERE stage = 'value' ORDER BY committed_at")
        assert [json.loads(detail)["gold"] for (detail,) in details] == [0, 5]
        assert reader.scalar("SELECT max(cycle) FROM queue") == 2


def shown_text(driver: WebDriver) -> list[str]:
    """The words of the text on the labeling page, none while there is no text."""
    # One step: between two, the page may draw the text anew.
    shown = driver.execute_script("return document.querySelector('.lsf-richtext__container')?.innerText")
    return str(shown or "").split()


def chosen(driver: WebDriver) -> str:
    """The class that is chosen on the page, empty for none."""
    return " ".join(label.text for label in driver.find_elements(By.CSS_SELECTOR, "label:has(input:checked)"))
