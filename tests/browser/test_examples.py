"""The browser's examples in the documentation run in Chromium, unchanged but for the address and the key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.browser.page import Page
from tests.browser.test_client import PACKAGE, ROOT, javascript
from tests.browser.test_modules import evaluate
from tests.integration.shared import KEY, Server

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

BROWSER = ROOT / "docs" / "clients" / "browser.md"
PLAYER = ROOT / "docs" / "examples" / "player.html"

# What the page around an example has, and what shows that the example worked, by a word of the example.
_AROUND = {
    "PcmPlayer": ("", "return await new Promise((resolve) => (player.onEnd = () => resolve('ended')));"),
    "getReader": (
        "let bytes = 0; const take = (part) => (bytes += part.length);",
        "return bytes > 10_000 ? 'ended' : bytes;",
    ),
    "new WebSocket": (
        """let samples = 0, finish; const ended = new Promise((resolve) => (finish = resolve));
        const play = (part) => (samples += part.length), console = { log: finish, error: finish };""",
        "const told = await ended; stop(); return samples > 10_000 && /first after/.test(told) ? 'ended' : told;",
    ),
}


def runnable(example: str) -> tuple[str, str, str]:
    """What goes before an example, the example as the body of a function, and what goes after it."""
    (around,) = (each for word, each in _AROUND.items() if word in example)
    body = re.sub(
        r'^import (\{[^}]+\}) from "csm-serve-client";', r'const \1 = await import("/static/client/index.js");', example
    )
    return around[0], body, around[1]


def test_the_examples_in_javascript_run(page: Page) -> None:
    examples = [*javascript(BROWSER), *(each for each in javascript(PACKAGE / "README.md") if "node:" not in each)]
    assert len(examples) >= len(_AROUND)
    for example in examples:
        before, body, after = runnable(example)
        body = body.replace("http://localhost:8000", page.server.url).replace('"KEY"', json.dumps(KEY))
        named = f"const url = location.origin, key = {json.dumps(KEY)};"
        assert evaluate(page, f"{named} {before} {body} {after}") == "ended", example


def test_an_audio_tag_plays(driver: Chrome, server: Server, tmp_path: Path) -> None:
    (tag,) = re.findall(r"^```html\n(.*?)^```$", BROWSER.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    own = tmp_path / "page.html"
    own.write_text(tag.replace("http://localhost:8000", server.url).replace("KEY", KEY), encoding="utf-8")
    driver.get(own.as_uri())
    driver.execute_script("document.querySelector('audio').play()")
    ended = "return document.querySelector('audio').ended"
    WebDriverWait(driver, 30, 0.1).until(lambda _: driver.execute_script(ended), "the audio does not end")
    driver.get("about:blank")


@pytest.fixture
def player(driver: Chrome, server: Server) -> Iterator[Chrome]:
    """docs/examples/player.html from its file, with the address and the key of the service."""
    driver.get(PLAYER.as_uri())
    for field, value in (("url", server.url), ("key", KEY)):
        found = driver.find_element(By.ID, field)
        found.clear()
        found.send_keys(value)
    yield driver
    driver.get("about:blank")


def wait_for_status(driver: Chrome, pattern: str) -> None:
    def status() -> str:
        return driver.find_element(By.ID, "status").text

    WebDriverWait(driver, 30, 0.1).until(lambda _: re.search(pattern, status()), f"timeout: {status()}")


@pytest.mark.parametrize(("way", "status"), [("tag", "^playing"), ("mse", "^playing"), ("ws", r"^\d+ ms of speech")])
def test_the_example_page_plays_and_reports_errors(player: Chrome, way: str, status: str) -> None:
    player.find_element(By.ID, way).click()
    wait_for_status(player, status)
    player.find_element(By.ID, "key").send_keys("wrong")
    player.find_element(By.ID, way).click()
    wait_for_status(player, "key|API Key")
