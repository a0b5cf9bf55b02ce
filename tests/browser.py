"""A real headless Chromium for tests of what people see: one context manager, nothing fetched, nothing left behind.

Debian's `chromium` and `chromium-driver` are used as they are; Selenium gets both paths, so it looks for no driver of
its own on the network. Every browser has a fresh profile that is removed at the end.
"""

import json
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

QUIET_FLAGS = (
    "--headless",
    "--no-sandbox",  # the tests may run as root in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-extensions",
    "--hide-scrollbars",
)

requires_chromium = pytest.mark.skipif(
    shutil.which("chromium") is None or shutil.which("chromedriver") is None,
    reason="chromium and chromium-driver are not installed: apt-get install chromium chromium-driver",
)
"""Mark beside `pytest.mark.browser`: skips where Debian's browser is not installed."""


@contextmanager
def chromium(*, width: int = 1280, height: int = 900, dark: bool = False) -> Generator[webdriver.Chrome]:
    """A headless Chromium that records its console and its network requests.

    Args:
        width, height: of the page in CSS pixels.
        dark: report `prefers-color-scheme: dark` to the page.

    Yields:
        A Selenium driver; see `console_errors` and `requested_urls` for what it recorded.
    """
    binary, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    assert binary, "mark the test with `requires_chromium`"
    assert driver_path, "mark the test with `requires_chromium`"
    with tempfile.TemporaryDirectory(prefix="siftline-chromium-", ignore_cleanup_errors=True) as profile:
        options = Options()
        options.binary_location = binary
        for flag in (*QUIET_FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(executable_path=driver_path))
        try:
            # A window has a least width; the emulated screen has none, so 390 px means 390 px.
            driver.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
            )
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
            yield driver
        finally:
            driver.quit()


def console_errors(driver: webdriver.Chrome) -> list[str]:
    """Messages of level SEVERE in the console since the last call, such as script errors and broken policies."""
    entries: list[dict[str, Any]] = driver.get_log("browser")
    return [str(entry["message"]) for entry in entries if entry["level"] == "SEVERE"]


def requested_urls(driver: webdriver.Chrome) -> list[str]:
    """Every address the page asked for since the last call, the page itself included.

    Left out: `data:` addresses, and `chrome:` ones, which the browser's own first tab asks for.
    """
    urls: list[str] = []
    for entry in driver.get_log("performance"):
        message: dict[str, Any] = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = str(message["params"]["request"]["url"])
            if not url.startswith(("data:", "chrome:")):
                urls.append(url)
    return urls
