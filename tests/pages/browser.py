"""Chromium without a window, on one page at a time: what it shows, what it complains about, what it loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait


def installed() -> tuple[str, str] | None:
    """Chromium and its driver, where both are installed."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


class Browser:
    def __init__(self, browser: str, driver: str) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(driver))

    def open(
        self, page: Path | str, *, width: int = 1280, height: int = 800, dark: bool = False, still: bool = True
    ) -> None:
        """Show a page, a file or an address, in a window of this size, and wait until it says that it is ready."""
        self.look(width=width, height=height, dark=dark, still=still)
        for kind in ("browser", "performance"):
            self.log(kind)  # what earlier pages left
        self.driver.get("about:blank")
        self.driver.get(page if isinstance(page, str) else page.as_uri())
        self.until("return document.documentElement?.dataset.ready !== undefined")

    def look(self, *, width: int = 1280, height: int = 800, dark: bool = False, still: bool = True) -> None:
        """Let the window be this large, and the reader's wishes these, from now on."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        wanted = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce" if still else "",
        }
        self.command(
            "Emulation.setEmulatedMedia", features=[{"name": name, "value": value} for name, value in wanted.items()]
        )

    def command(self, name: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, parameters)

    def until(self, script: str) -> None:
        WebDriverWait(self.driver, 60, poll_frequency=0.02).until(lambda driver: driver.execute_script(script))

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector)).strip()

    def style(self, selector: str, name: str) -> str:
        return str(
            self.run("return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]", selector, name)
        )

    def point(self, element: WebElement) -> None:
        ActionChains(self.driver, duration=0).move_to_element(element).perform()

    def press(self, *keys: str) -> None:
        for key in keys:
            ActionChains(self.driver, duration=0).send_keys(key).perform()

    def log(self, kind: str) -> list[dict[str, Any]]:
        return list(self.driver.get_log(kind))  # type: ignore[no-untyped-call]

    def complaints(self) -> list[str]:
        """What stands in the console since the page was opened."""
        return [str(entry["message"]) for entry in self.log("browser")]

    def requests(self) -> list[str]:
        """What the page asked for beside itself and what is embedded in it."""
        messages = (json.loads(entry["message"])["message"] for entry in self.log("performance"))
        asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        assert asked, "not even the page itself was seen: the log is not working"
        return [
            url
            for url in asked
            if not url.startswith("data:") and url.partition("#")[0] != self.driver.current_url.partition("#")[0]
        ]

    def close(self) -> None:
        self.driver.quit()
