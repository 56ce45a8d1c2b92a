"""Page object of the web page."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any

from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.integration.shared import KEY, Server

ENDED = ("Finished", "Stopped", "Failed")
PLAYBACK_MODES = ("socket", "source", "element")


class Page:
    def __init__(self, driver: Chrome, server: Server) -> None:
        self.driver = driver
        self.server = server

    def open(self, key: str | None = KEY) -> None:
        """Load the page with a stored API key."""
        self.driver.get(f"{self.server.url}/static/icon.svg")  # same origin, without scripts
        self.run("sessionStorage.clear(); localStorage.clear();")
        if key is not None:
            self.run("sessionStorage.setItem('csm-serve-key', arguments[0])", key)
        self.driver.get(self.server.url)
        if key == KEY:
            self.until(lambda: self.text("key-state") == "Key set")

    # ---- reading

    def find(self, element_id: str) -> WebElement:
        return self.driver.find_element(By.ID, element_id)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, element_id: str) -> str:
        return self.find(element_id).text

    def value(self, element_id: str) -> str:
        return str(self.find(element_id).get_property("value"))

    @property
    def focused(self) -> str:
        """The id of the element that has the focus."""
        return str(self.run("return document.activeElement.id"))

    @property
    def voices(self) -> list[str]:
        return [each.text for each in self.all("#voices .name")]

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, holds: Callable[[], Any]) -> None:
        """Wait for a condition."""
        WebDriverWait(self.driver, 30, 0.1).until(lambda _: holds(), f"timeout: {self.text('saying')!r} {self.notice}")

    @property
    def notice(self) -> str:
        return self.text("notice")

    # ---- acting

    def press(self, element_id: str) -> None:
        self.find(element_id).click()

    def press_keys(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def type(self, element_id: str, words: str) -> None:
        field = self.find(element_id)
        field.clear()
        field.send_keys(words)

    def choose_playback_mode(self, mode: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, f"input[value={mode}]").click()

    def choose(self, element_id: str, value: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, f"#{element_id} option[value='{value}']").click()

    def speak(self, text: str, mode: str) -> None:
        self.choose_playback_mode(mode)
        self.type("text", text)
        self.press("speak")

    def wait_until_over(self) -> str:
        """Wait until playback ends. Returns the status text."""
        self.until(lambda: self.text("saying").startswith(ENDED))
        return self.text("saying")

    def voice_action(self, action: str, voice: str) -> None:
        """Press an action button of a voice."""
        row = next(each for each in self.all("#voices li") if each.get_attribute("data-voice") == voice)
        button = row.find_element(By.CSS_SELECTOR, f"[data-action={action}]")
        self.until(button.is_displayed)  # once it is known whether the voice can be changed
        button.click()


def get_json(server: Server, path: str) -> Any:
    """GET a path of the service directly."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", path, headers={"X-API-Key": KEY})
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def active(server: Server) -> int:
    """Number of active slots."""
    return sum(worker["active"] for worker in get_json(server, "/system-status")["workers"])
