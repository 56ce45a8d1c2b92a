"""Takes the pictures of docs/images/ from a running service: CSM_URL=… API_KEY=… python -m scripts.pictures"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images"
WIDTH, HEIGHT = 1120, 1360
SECONDS = 60  # at most, for a step of the page


def main() -> int:
    """Write the page after a speech, its waveform alone, and its Talk mode in dark colours while it answers, as PNG."""
    url, key = os.environ["CSM_URL"], os.environ["API_KEY"].partition(",")[0]
    options = ChromeOptions()
    for flag in (
        "--headless=new",
        "--hide-scrollbars",
        "--autoplay-policy=no-user-gesture-required",
        f"--window-size={WIDTH},{HEIGHT}",
    ):
        options.add_argument(flag)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    with Chrome(options) as driver:
        for _ in range(2):  # the first speech of a page also opens its connection
            _open(driver, url, key)
            driver.find_element(By.ID, "speak").click()
            _wait(driver, "return document.getElementById('saying').textContent.startsWith('Finished')")
        driver.save_screenshot(str(FOLDER / "speak.png"))
        driver.find_element(By.CSS_SELECTOR, "canvas").screenshot(str(FOLDER / "waveform.png"))
        dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
        driver.find_element(By.CSS_SELECTOR, "label:has(#mode-talk)").click()
        _wait(driver, "return !document.getElementById('talk-card').hidden")
        driver.find_element(By.ID, "talk-line").send_keys("Good morning! How did you sleep?", Keys.ENTER)
        _wait(driver, "return document.getElementById('talk-first-frame-ms').textContent.endsWith('ms')")
        driver.execute_script("scrollTo(0, 0)")
        driver.save_screenshot(str(FOLDER / "talk.png"))
    return 0


def _open(driver: Chrome, url: str, key: str) -> None:
    driver.get(f"{url}/static/icon.svg")  # same origin, without scripts
    driver.execute_script("sessionStorage.setItem('csm-serve-key', arguments[0])", key)
    driver.get(url)
    _wait(driver, "return document.getElementById('key-state').textContent === 'Key set'")


def _wait(driver: Chrome, condition: str) -> None:
    WebDriverWait(driver, SECONDS, 0.1).until(lambda _: driver.execute_script(condition), condition)


if __name__ == "__main__":
    sys.exit(main())
