"""What an annotator sees and does: a real browser logs in, reads the text as text, and labels with the keyboard."""

from dataclasses import replace
from pathlib import Path

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from active.annotation.service import Task
from active.label_studio.service import LabelStudioService
from flows.servers.label_studio import StudioInfo
from tests.browser import chromium, requested_urls, requires_chromium
from tests.studio import CLASSES, log_in, project_of

pytestmark = [pytest.mark.studio, pytest.mark.browser, requires_chromium]

ATTACK = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>"
HOSTILE = Task(
    item_id="hostile",
    text=f"{ATTACK} {{{{7*7}}}} ${{7*7}} $reason https://example.com/a.png <b>bold</b>",
    cycle=1,
    rank=2,
    value=0.61,
    reason=f"{ATTACK} {{{{7*7}}}}",
    prediction="<b>crude</b> & oil",
    confidence=0.4,
    model_version="end-model-2",
)
PLAIN = Task(
    item_id="plain",
    text=(
        "The ministers of both countries met in Lisbon on Tuesday to settle a quarrel about duties on olive oil.\n"
        "The talks ended without a signature, yet both sides said that a first paper on quotas is ready.\n\n"
        "A second round is planned for spring; exporters ask for a quick end, since the harvest is near."
    ),
    cycle=1,
    rank=1,
    value=0.913,
    reason="speaks for 41 similar texts; the functions disagree: trade, crude",
    prediction="trade",
    confidence=0.62,
    model_version="end-model-1",
)


def text_of(driver: WebDriver) -> str:
    """The labelled text as the page shows it, once it is there."""
    # One step: between two, the page may draw the text anew.
    shown = "return document.querySelector('.lsf-richtext__container')?.innerText.trim()"
    return str(WebDriverWait(driver, 60).until(lambda page: page.execute_script(shown)))


def chosen(driver: WebDriver) -> list[str]:
    radios = driver.find_elements(By.CSS_SELECTOR, "label:has(input[type=radio]:checked)")
    return [radio.text for radio in radios]


def test_texts_and_classes_are_shown_as_text(studio: StudioInfo, service: LabelStudioService) -> None:
    service.ensure_project((*CLASSES, "<b>crude</b> & oil"))
    service.push([HOSTILE])
    project_id = project_of(studio, service)["id"]
    with chromium() as driver:
        log_in(driver, studio)
        driver.get(f"{studio.url}/projects/{project_id}/data?labeling=1")
        assert text_of(driver) == HOSTILE.text
        page = driver.find_element(By.TAG_NAME, "body").text
        assert f"Why this one: {HOSTILE.reason}" in page
        assert "<b>crude</b> & oil" in page
        assert driver.title == "Label Studio"
        assert [text for text in chosen(driver) if "<b>crude</b> & oil" in text], "the suggestion is not chosen"
        assert {url.split("/")[2] for url in requested_urls(driver)} == {studio.url.split("/")[2]}


def test_an_annotator_labels_with_the_keyboard(studio: StudioInfo, service: LabelStudioService, tmp_path: Path) -> None:
    service.ensure_project(("earn", "acq", "crude", "grain", "interest", "money-fx", "ship", "trade"))
    service.push([PLAIN])
    following = replace(
        PLAIN, item_id="next", text="The next text.", cycle=2, prediction="acq", model_version="end-model-2"
    )
    service.push([following])
    project_id = project_of(studio, service)["id"]
    with chromium(width=1280, height=720) as driver:
        log_in(driver, studio)
        driver.get(f"{studio.url}/projects/{project_id}/data?labeling=1")
        assert text_of(driver) == PLAIN.text
        assert [text for text in chosen(driver) if text.startswith("trade")], "the suggestion is not chosen"
        driver.save_screenshot(str(tmp_path / "label-studio-task.png"))
        body = driver.find_element(By.TAG_NAME, "body")
        assert "Its key takes it back." in body.text
        body.send_keys("8")
        WebDriverWait(driver, 30).until(lambda _: not chosen(driver))
        body.send_keys("3")
        WebDriverWait(driver, 30).until(lambda _: [text for text in chosen(driver) if text.startswith("crude")])
        body.send_keys(Keys.CONTROL + Keys.ENTER)
        WebDriverWait(driver, 60).until(lambda _: text_of(driver) == "The next text.")
        assert [text for text in chosen(driver) if text.startswith("acq")], "the later model's suggestion is not chosen"
    (answer,) = service.pull()
    assert (answer.item_id, answer.action, answer.labels) == ("plain", "labelled", ("crude",))
    assert answer.annotator == studio.username
    assert answer.seconds > 0


def test_keys_work_after_a_click_on_the_suggestion(studio: StudioInfo, service: LabelStudioService) -> None:
    """Who confirms it by a click: the radio button would keep the keyboard to itself."""
    service.ensure_project(CLASSES)
    service.push([PLAIN, replace(PLAIN, item_id="next", text="The next text.", rank=2, value=0.5)])
    with chromium() as driver:
        log_in(driver, studio)
        driver.get(f"{studio.url}/projects/{project_of(studio, service)['id']}/data?labeling=1")
        text_of(driver)
        suggestion = driver.find_element(By.CSS_SELECTOR, "label:has(input[type=radio]:checked)")
        ActionChains(driver).move_to_element(suggestion).click().perform()
        ActionChains(driver).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()
        WebDriverWait(driver, 30).until(lambda _: text_of(driver) == "The next text.")
    (answer,) = service.pull()
    assert (answer.item_id, answer.labels) == ("plain", ("trade",))


def test_long_class_names_stand_one_below_the_other_many_in_columns_and_short_ones_in_a_row(
    studio: StudioInfo, service: LabelStudioService
) -> None:
    long = ("Crash or data loss in the desktop application", "Slow", "Praise for the service and the people behind it")
    many = tuple(f"{name} ({number})" for number in range(8) for name in long)
    with chromium(width=1280, height=720) as driver:
        log_in(driver, studio)
        for classes, rows in ((long, 3), (many, 12), (("acq", "crude", "earn", "grain"), 1)):
            service.ensure_project(classes)
            service.push([replace(PLAIN, item_id=f"{rows} rows", prediction=classes[0])])
            driver.get(f"{studio.url}/projects/{project_of(studio, service)['id']}/data?labeling=1")
            text_of(driver)
            choices = driver.find_elements(By.CSS_SELECTOR, "label:has(input[type=radio])")
            assert len(choices) == len(classes)
            assert len({choice.rect["y"] for choice in choices}) == rows
            service = LabelStudioService(studio.url, studio.api_key, f"{service.project} 2")


def test_an_annotator_needs_no_scrolling_to_answer(studio: StudioInfo, service: LabelStudioService) -> None:
    """Not for a long text, and not on a phone, where Label Studio alone lays Submit beside the screen."""
    service.ensure_project(("earn", "acq", "crude", "grain", "interest", "money-fx", "ship", "trade"))
    service.push([replace(PLAIN, text="The talks ended without a signature. " * 150)])
    with chromium(width=1280, height=800) as driver:
        log_in(driver, studio)
        for width, height in ((1280, 800), (390, 844)):
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            driver.get(f"{studio.url}/projects/{project_of(studio, service)['id']}/data?labeling=1")
            text_of(driver)
            submit = driver.find_element(By.XPATH, "//button[normalize-space()='Submit']").rect
            assert submit["x"] + submit["width"] <= width
            assert submit["y"] + submit["height"] <= height
            choices = driver.find_elements(By.CSS_SELECTOR, "label:has(input[type=radio])")
            assert len(choices) == 8
            for choice in choices:
                assert choice.rect["y"] + choice.rect["height"] <= submit["y"]
            assert driver.execute_script("return document.documentElement.scrollWidth") == width
            text = driver.find_element(By.CSS_SELECTOR, ".lsf-richtext__container").rect
            assert text["width"] > 0.75 * min(width, 900)
            page = driver.find_element(By.TAG_NAME, "body").text
            assert "its key. Ctrl+Enter submits" in page
            assert "change it where it is wrong" in page


def test_forty_classes_are_in_sight_below_a_long_text(studio: StudioInfo, service: LabelStudioService) -> None:
    """Else the suggestion may be chosen where nobody sees it."""
    classes = tuple(f"a class of some words {number}" for number in range(40))
    service.ensure_project(classes)
    service.push([replace(PLAIN, text="The talks ended without a signature. " * 150, prediction=classes[-1])])
    with chromium(width=1280, height=800) as driver:
        log_in(driver, studio)
        driver.get(f"{studio.url}/projects/{project_of(studio, service)['id']}/data?labeling=1")
        text_of(driver)
        submit = driver.find_element(By.XPATH, "//button[normalize-space()='Submit']").rect
        choices = [choice.rect for choice in driver.find_elements(By.CSS_SELECTOR, "label:has(input[type=radio])")]
        assert len(choices) == len(classes)
        assert max(choice["y"] + choice["height"] for choice in choices) <= submit["y"]


def test_many_classes_stand_in_columns(studio: StudioInfo, service: LabelStudioService) -> None:
    classes = tuple(f"{'abcdefgh'[: number % 8 + 1]}-{number}" for number in range(40))
    service.ensure_project(classes)
    service.push([replace(PLAIN, prediction=classes[0])])
    with chromium(width=1280, height=800) as driver:
        log_in(driver, studio)
        driver.get(f"{studio.url}/projects/{project_of(studio, service)['id']}/data?labeling=1")
        text_of(driver)
        choices = [choice.rect for choice in driver.find_elements(By.CSS_SELECTOR, "label:has(input[type=radio])")]
        assert len(choices) == len(classes)
        rows = len({choice["y"] for choice in choices})
        assert rows < 12
        assert len({choice["x"] for choice in choices}) == -(-len(classes) // rows)
        assert len({choice["height"] for choice in choices}) == 1, "a name does not fit in its column"
        assert len(driver.find_elements(By.CSS_SELECTOR, "label .lsf-hint")) == 33, "as many keys as Label Studio has"
        assert "its key; click a class that has none. Ctrl+Enter" in driver.find_element(By.TAG_NAME, "body").text


def test_texts_from_right_to_left_begin_on_the_right_and_a_task_of_the_list_fits_a_phone(
    studio: StudioInfo, service: LabelStudioService
) -> None:
    service.ensure_project(CLASSES)
    text = "First line.\n\nהשרים נפגשו בליסבון (2026), OPEC.\nLast line."
    [task] = service.push([replace(PLAIN, text=text)]).values()
    with chromium(width=390, height=844) as driver:
        log_in(driver, studio)
        driver.get(f"{studio.url}/projects/{project_of(studio, service)['id']}/data?task={task}")
        assert text_of(driver) == text
        submit, box = driver.execute_script(  # one step: between two, the page may draw anew
            "const submit = [...document.querySelectorAll('button')].find(b => b.textContent.trim() === 'Submit');"
            "const box = document.querySelector('.lsf-richtext__container');"
            "return [submit, box].map(element => element.getBoundingClientRect().toJSON())"
        )
        assert submit["x"] + submit["width"] <= 390
        assert box["width"] > 0.75 * 390
        lines = driver.execute_script(
            "const lines = [...document.querySelectorAll('.lsf-richtext__line')].filter(line => line.textContent);"
            "return lines.map(line => {"
            "const range = document.createRange(); range.selectNodeContents(line);"
            "const {left, right} = range.getBoundingClientRect(); return [left, right]})"
        )
        end = box["x"] + box["width"]
        assert [left - box["x"] < end - right for left, right in lines] == [True, False, True]
