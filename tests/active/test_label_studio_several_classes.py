"""Several classes on the real server: suggested as a set, chosen with the keyboard, none as an answer."""

import uuid
from dataclasses import replace

import pyarrow as pa
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from active.label_studio.service import LabelStudioService
from active.queue.collect import collect
from active.queue.outbox import QueueConfig
from active.queue.push import push
from flows.servers.label_studio import StudioInfo
from tests.active.plans import plan
from tests.active.test_label_studio_page import text_of
from tests.browser import chromium, requires_chromium
from tests.studio import CLASSES, api, log_in, make_tasks, project_of
from warehouse import Lake, Upsert

pytestmark = pytest.mark.studio


@pytest.fixture
def service(studio: StudioInfo) -> LabelStudioService:
    """A project of its own whose tasks take several classes; `ensure_project` has not been called."""
    return LabelStudioService(studio.url, studio.api_key, f"several {uuid.uuid4().hex[:12]}", multi_label=True)


def chosen(driver: WebDriver) -> list[str]:
    """Names of the classes that are ticked, without their keys."""
    boxes = driver.find_elements(By.CSS_SELECTOR, "label:has(input[type=checkbox]:checked)")
    return [name for name in CLASSES for box in boxes if box.text.startswith(name)]


def test_a_project_with_one_class_becomes_one_with_several_and_back(
    studio: StudioInfo, service: LabelStudioService
) -> None:
    single = LabelStudioService(studio.url, studio.api_key, service.project)
    single.ensure_project(CLASSES)
    service.ensure_project(CLASSES)
    assert 'choice="multiple"' in str(project_of(studio, service)["label_config"])
    single.ensure_project(CLASSES)
    assert 'choice="single-radio"' in str(project_of(studio, service)["label_config"])


def test_sets_none_and_skips_reach_the_warehouse(studio: StudioInfo, service: LabelStudioService, lake: Lake) -> None:
    config = QueueConfig(project=service.project, classes=CLASSES, multi_label=True)
    items = plan(lake, service.project, [0.9, 0.8, 0.7, 0.6, 0.5])
    with lake.read() as reader:
        rows = reader.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM queue ORDER BY rank").to_pylist()
    suggested = ([0, 2], [], None, None, None)
    rows = [{**row, "prediction": -1, "predictions": of} for row, of in zip(rows, suggested, strict=True)]
    with lake.stage("suggest", version=1, inputs=()) as stage:
        stage.commit([Upsert("queue", pa.Table.from_pylist(rows))])
    push(lake, service, config)
    tasks = {item: found[0] for item, found in service.find(items).items()}
    shown = api(studio, "GET", f"/api/tasks/{tasks[items[0]]}/").json()["predictions"][0]
    assert shown["result"][0]["value"]["choices"] == [CLASSES[0], CLASSES[2]]
    shown = api(studio, "GET", f"/api/tasks/{tasks[items[1]]}/").json()["predictions"][0]
    assert shown["result"] == []

    def answer(item: str, **body: object) -> None:
        api(studio, "POST", f"/api/tasks/{tasks[item]}/annotations/", json={"lead_time": 2.5, **body})

    part = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": ["crude", "earn"]}}
    answer(items[0], result=[part])
    answer(items[1], result=[])
    answer(items[2], result=[], was_cancelled=True)
    service.annotate(tasks[items[3]], labels=("acq", "trade"), annotator="simulated", seconds=1)
    service.annotate(tasks[items[4]], labels=(), annotator="simulated", seconds=1)
    assert collect(lake, service, config).rows_written["annotations"] == 5
    with lake.read() as reader:
        found = reader.rows(
            "SELECT item_id, action, class_id, class_ids, simulated FROM current_annotations ORDER BY item_id"
        )
        assert reader.rows("SELECT DISTINCT state FROM queue") == [("answered",)]
    assert found == [
        (items[0], "labelled", -1, [0, 2], False),
        (items[1], "labelled", -1, [], False),
        (items[2], "skipped", -1, None, False),
        (items[3], "labelled", -1, [1, 3], True),
        (items[4], "labelled", -1, [], True),
    ]
    assert not collect(lake, service, config).committed


@pytest.mark.browser
@requires_chromium
def test_an_annotator_ticks_two_classes_and_submits_none(studio: StudioInfo, service: LabelStudioService) -> None:
    service.ensure_project(CLASSES)
    suggestions = (("trade",), (), ())
    tasks = [
        replace(task, prediction=None, predictions=of, text=f"Text {task.rank}.")
        for task, of in zip(make_tasks(3), suggestions, strict=True)
    ]
    service.push(tasks)
    project_id = project_of(studio, service)["id"]
    with chromium(width=1280, height=720) as driver:
        log_in(driver, studio)
        driver.get(f"{studio.url}/projects/{project_id}/data?labeling=1")
        assert text_of(driver) == "Text 1."
        WebDriverWait(driver, 30).until(lambda page: chosen(page) == ["trade"])
        assert "Where none does, submit without one." in driver.find_element(By.TAG_NAME, "body").text
        body = driver.find_element(By.TAG_NAME, "body")
        body.send_keys("3")
        WebDriverWait(driver, 30).until(lambda page: chosen(page) == ["crude", "trade"])
        body.send_keys(Keys.CONTROL + Keys.ENTER)
        WebDriverWait(driver, 60).until(lambda page: text_of(page) == "Text 2.")
        assert chosen(driver) == []
        driver.find_element(By.TAG_NAME, "body").send_keys(Keys.CONTROL + Keys.ENTER)
        WebDriverWait(driver, 60).until(lambda page: text_of(page) == "Text 3.")
    answers = {answer.item_id: (answer.action, set(answer.labels)) for answer in service.pull()}
    assert answers == {"item-0": ("labelled", {"crude", "trade"}), "item-1": ("labelled", set())}
