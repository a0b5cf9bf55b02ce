"""The report in a real browser: nothing runs that is not ours, nothing is fetched, nothing is cut off."""

import itertools
from collections.abc import Generator
from pathlib import Path

import pytest
from selenium.webdriver import ActionChains, Chrome, Keys
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


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (768, False), (390, True)])
def test_no_text_leaves_the_page_at_any_width(page: Path, width: int, dark: bool) -> None:
    with chromium(width=width, dark=dark) as driver:
        driver.get(page.as_uri())
        driver.execute_script(
            "for (const p of document.querySelectorAll('.key, .meta, .lead, .caption, .reason'))"
            "p.append(' ' + 'Donaudampfschifffahrt'.repeat(3))"
        )
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
        small = driver.execute_script(
            """
            return [...document.querySelectorAll("svg.plot text:not(.ring-number)")].filter((text) => {
              const svg = text.closest("svg"), shown = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
              return shown && parseFloat(getComputedStyle(text).fontSize) * shown < 10;
            }).map((text) => text.textContent);
            """
        )
        assert small == []
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


def test_a_finger_reads_the_map_and_the_heads_of_tables(page: Path) -> None:
    with chromium(width=390) as driver:
        driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
        driver.get(page.as_uri())

        def tap(selector: str) -> None:
            at = driver.execute_async_script(
                "const [selector, done] = arguments, e = document.querySelector(selector);"
                "e.scrollIntoView({block: 'center', inline: 'center', behavior: 'instant'});"
                "requestAnimationFrame(() => requestAnimationFrame(() => { const b = e.getBoundingClientRect();"
                "done({x: b.x + b.width / 2, y: b.y + b.height / 2}); }));",
                selector,
            )
            for kind, points in (("touchStart", [at]), ("touchEnd", [])):
                driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        tip = driver.find_element(By.ID, "tip")
        tap("#plot-map .narrow circle.ring")
        WebDriverWait(driver, 10).until(lambda _: "selected in cycle" in tip.text)
        tap("#quality h2")
        WebDriverWait(driver, 10).until(lambda _: not tip.is_displayed())
        for table, head in (
            ("table-functions", "share where another function votes too"),
            ("table-batches", "planned"),
        ):
            tap(f"#{table} th[data-tip^='{head}'] button")
            WebDriverWait(driver, 10).until(lambda _, head=head: tip.text.startswith(head))


def test_keys_reach_what_the_heads_of_tables_mean(driver: Chrome) -> None:
    driver.execute_script("document.querySelector('[aria-label=\"Batches sent to people\"]').focus()")
    ActionChains(driver).send_keys(Keys.TAB).perform()
    tip = driver.find_element(By.ID, "tip")
    WebDriverWait(driver, 10).until(lambda _: tip.text == "planned, sent or confirmed")
    button = driver.switch_to.active_element
    assert button.text == "Waiting"
    assert button.get_attribute("aria-description") == tip.text
    ActionChains(driver).send_keys(Keys.ESCAPE).perform()
    driver.execute_script("document.dispatchEvent(new Event('scroll'))")  # the page may still be on its way
    assert not tip.is_displayed()
    assert driver.find_elements(By.CSS_SELECTOR, "thead th[title]") == []


def test_what_is_chosen_is_seen_where_the_system_chooses_the_colours(driver: Chrome) -> None:
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "forced-colors", "value": "active"}]})
    outlines = driver.execute_script(
        "return ['true', 'false'].map(v => getComputedStyle("
        "document.querySelector(`.tab-bar [aria-pressed=${v}]`)).outlineStyle)"
    )
    assert outlines == ["solid", "none"]
    edge = "const s = getComputedStyle(document.getElementById('tip')); return [s.outlineStyle, s.outlineColor]"
    style, colour = driver.execute_script(edge)
    assert (style, colour != "rgba(0, 0, 0, 0)") == ("solid", True)


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


def test_a_table_over_two_pages_of_paper_keeps_its_head_and_ends_once(page: Path) -> None:
    """Chromium repeats heads without their buttons, and feet before the end; a row alone with them is no matrix."""
    with chromium() as driver:
        driver.get(page.as_uri())
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        look = "const style = e => getComputedStyle(document.querySelector(e)); return ["
        look += "style('#table-functions button').display, style('tfoot').display, style('.heat').breakInside]"
        assert driver.execute_script(look) == ["contents", "table-row-group", "avoid"]


def test_a_matrix_of_many_classes_fits_on_paper(page: Path) -> None:
    with chromium(width=717) as driver:  # A4 between its margins
        driver.get(page.as_uri())
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        wide = driver.execute_script(
            "const table = document.getElementById('table-confusion'); table.classList.add('many');"
            "for (const row of table.rows) { const cell = row.cells[1]; cell.textContent = '60';"
            "for (let n = 0; n < 57; n++) cell.before(cell.cloneNode(true)); }"
            "return table.getBoundingClientRect().width"
        )
        assert wide <= 1.25 * 717, "a browser shrinks a page by as much"


def test_a_table_of_hundreds_of_rows_scrolls_by_itself_with_its_head_in_view(driver: Chrome) -> None:
    inside, head, below = driver.execute_script(
        "const body = document.querySelector('#table-functions tbody'), box = body.closest('.scroll');"
        "while (body.rows.length < 300) body.append(body.rows[0].cloneNode(true));"
        "box.scrollTop = 5000; const top = box.getBoundingClientRect().top;"
        "return [box.clientHeight / innerHeight, body.parentElement.tHead.getBoundingClientRect().top - top,"
        "body.parentElement.tHead.rows[0].cells[0].getBoundingClientRect().top - top]"
    )
    assert inside <= 0.9
    assert head < -4_000  # the row itself went up
    assert 0 <= below < 5
