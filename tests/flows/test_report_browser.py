"""The report in a real browser: nothing runs that is not ours, nothing is fetched, nothing is cut off."""

import itertools
from collections.abc import Generator
from pathlib import Path

import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from flows.report.page import write_report
from tests.browser import chromium, console_errors, requested_urls, requires_chromium
from tests.flows import report_lake
from tests.lakes import copy_of
from warehouse import Lake

pytestmark = [pytest.mark.browser, requires_chromium]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    with report_lake.full_lake(folder / "lake") as lake:
        title = f"Project {report_lake.HOSTILE}"
        return write_report(lake, folder / "report.html", title=title, classes=report_lake.CLASSES)


@pytest.fixture
def driver(page: Path) -> Generator[Chrome]:
    with chromium() as browser:
        browser.get(page.as_uri())
        yield browser


def test_nothing_is_fetched_and_nothing_fails(driver: Chrome, page: Path) -> None:
    for button in driver.find_elements(By.CSS_SELECTOR, "button, summary"):
        driver.execute_script("arguments[0].click()", button)
    assert console_errors(driver) == []
    assert requested_urls(driver) == [page.as_uri()]
    assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_hostile_texts_run_nothing_and_are_read_as_text(driver: Chrome) -> None:
    assert driver.title.startswith("Project <img src=x")
    assert driver.find_elements(By.CSS_SELECTOR, "main img, h1 img") == []
    heading = driver.find_element(By.TAG_NAME, "h1").text
    assert "<script>document.title='owned'</script>" in heading
    assert "{{7*7}}" in heading
    assert "⟨U+001B⟩[31mred" in driver.find_element(By.ID, "list-queue").text


def test_the_policy_stops_a_script_that_got_in(driver: Chrome) -> None:
    driver.execute_script(
        "const s = document.createElement('div'); s.innerHTML = `<img src=x onerror=\"document.title='owned'\">`;"
        "document.body.append(s); const t = document.createElement('script');"
        "t.textContent = \"document.title='owned'\"; document.body.append(t);"
    )
    assert driver.title != "owned"
    assert any("Content Security Policy" in message for message in console_errors(driver))


def test_classes_whose_names_begin_alike_can_be_told_apart_in_the_confusion_matrix(driver: Chrome) -> None:
    cut = driver.execute_script(
        "return [...document.querySelectorAll('.heat th[scope] bdi')].map(name => {"
        "name.textContent = 'Northern department: requests concerning invoices';"
        "return [name, name.closest('th')].some(e => e.scrollWidth > e.clientWidth || e.scrollHeight > e.clientHeight);"
        "})"
    )
    assert len(cut) >= 4
    assert not any(cut)


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_no_text_leaves_the_page_at_any_width(page: Path, width: int, dark: bool) -> None:
    with chromium(width=width, dark=dark) as driver:
        driver.get(page.as_uri())
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        # Text of a picture that reaches beyond its own picture would be cut on paper or hidden under a neighbour.
        cut = driver.execute_script(
            """
            return [...document.querySelectorAll("svg.plot text")].filter((text) => {
              const box = text.getBoundingClientRect(), frame = text.closest("svg").getBoundingClientRect();
              return box.width && (box.left < frame.left - 1 || box.right > frame.right + 1 ||
                                   box.top < frame.top - 1 || box.bottom > frame.bottom + 3);
            }).map((text) => text.textContent);
            """
        )
        assert cut == []
        page_colour = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (sum(int(v) for v in page_colour[4:-1].split(",")) < 200) == dark


@pytest.mark.parametrize("dark", [False, True])
def test_figures_of_the_confusion_matrix_stand_out_from_their_shade(page: Path, dark: bool) -> None:
    """By WCAG 2.2, 1.4.3: at least 4.5 to 1 for text of this size, on every shade."""
    with chromium(dark=dark) as driver:
        driver.get(page.as_uri())
        cells = driver.execute_script(
            """
            const cell = document.querySelector(".heat tbody td");
            const pen = document.createElement("canvas").getContext("2d");
            const sheet = getComputedStyle(document.querySelector("main section")).backgroundColor;
            const painted = (...colours) => {
              for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
              return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
            };
            return ["hit", "miss"].flatMap((kind) => [...Array(11).keys()].map((shade) => {
              cell.className = `${kind} h${shade}`;
              const style = getComputedStyle(cell);
              return [cell.className, painted(style.color), painted(sheet, style.backgroundColor)];
            }));
            """
        )
    faint = {name: round(contrast(ink, ground), 2) for name, ink, ground in cells if contrast(ink, ground) < 4.5}
    assert len(cells) == 22
    assert faint == {}


def contrast(ink: list[int], ground: list[int]) -> float:
    """Contrast of two colours (red, green, blue, 0 to 255), 1 to 21 (WCAG 2.2, contrast ratio)."""

    def luminance(colour: list[int]) -> float:
        parts = [v / 255 / 12.92 if v / 255 <= 0.04045 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in colour]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted((luminance(ink), luminance(ground)))
    return (high + 0.05) / (low + 0.05)


def test_a_click_on_a_heading_sorts_the_table(driver: Chrome) -> None:
    driver.execute_script("document.querySelector('#curve details').open = true")
    table = driver.find_element(By.ID, "table-curve")
    mean = table.find_element(By.XPATH, ".//th/button[starts-with(text(), 'Mean')]")
    driver.execute_script("arguments[0].click()", mean)
    means = [float(c.text) for c in table.find_elements(By.CSS_SELECTOR, "tbody tr > :nth-child(4)")]
    assert means == sorted(means, reverse=True)
    assert table.find_element(By.CSS_SELECTOR, "th[aria-sort]").get_attribute("aria-sort") == "descending"


def test_a_dot_of_the_map_tells_its_text(driver: Chrome) -> None:
    ring = driver.find_element(By.CSS_SELECTOR, "#plot-map .wide circle.ring")
    # A page tells its `scroll` with the next frame, and scrolling hides the tip: the pointer comes after it.
    driver.execute_async_script(
        "const [ring, done] = arguments; ring.scrollIntoView({block: 'center', behavior: 'instant'});"
        "requestAnimationFrame(() => requestAnimationFrame(done));",
        ring,
    )
    tip = driver.find_element(By.ID, "tip")
    steps = itertools.count()

    def told(_: Chrome) -> bool:
        # A hand moves on, so a movement that a busy browser has lost is followed by another.
        ActionChains(driver).move_to_element_with_offset(ring, next(steps) % 2, 0).perform()
        return tip.is_displayed()

    WebDriverWait(driver, 10).until(told)
    assert "selected in cycle" in tip.text
    assert "about" in tip.text


def test_one_class_of_the_map_can_be_looked_at_alone(driver: Chrome) -> None:
    button = driver.find_element(By.CSS_SELECTOR, "#map-legend button")
    driver.execute_script("arguments[0].click()", button)
    assert button.get_attribute("aria-pressed") == "true"
    chosen = button.get_attribute("data-class")
    faded = driver.find_elements(By.CSS_SELECTOR, "#plot-map .wide .faded")
    assert faded
    assert all(shape.get_attribute("data-class") != chosen for shape in faded)


def test_an_empty_warehouse_opens_without_an_error(tmp_path: Path) -> None:
    with copy_of(Lake, tmp_path / "lake") as lake:
        out = write_report(lake, tmp_path / "report.html", title="Empty", classes=("a", "b"))
    with chromium() as driver:
        driver.get(out.as_uri())
        assert console_errors(driver) == []
        assert len(driver.find_elements(By.CSS_SELECTOR, ".missing")) == 9


def test_paper_has_nothing_to_open_and_no_heading_alone(page: Path) -> None:
    with chromium() as driver:
        driver.get(page.as_uri())
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        shown = (
            "return [...document.querySelectorAll('details')].filter(d => d.checkVisibility()).map(d => d.className)"
        )
        assert set(driver.execute_script(shown)) <= {"text"}
        driver.execute_script("document.querySelector('#made details').open = true")
        assert "" in driver.execute_script(shown), "what the reader opened is printed"
        kept = "return [getComputedStyle(document.querySelector('.lead')).breakInside, "
        kept += "...['h2', 'h3', '.lead'].map(e => getComputedStyle(document.querySelector(e)).breakAfter)]"
        assert driver.execute_script(kept) == ["avoid"] * 4
