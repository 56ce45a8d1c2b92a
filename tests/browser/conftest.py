from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from engine import SAMPLE_RATE
from tests.app.realtime.harness import silence, speech
from tests.browser import chromium
from tests.integration.shared import Server, serving

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

    from tests.browser.page import Page

EXPECTED = ("Failed to load resource", "WebSocket connection to")  # logged by the browser for every error response


@pytest.fixture(scope="package")
def microphone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the microphone hears: three seconds of speech, and three of silence."""
    path = tmp_path_factory.mktemp("microphone") / "microphone.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.concatenate([speech(), silence(3)]).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="package")
def driver(tmp_path_factory: pytest.TempPathFactory, microphone: Path) -> Iterator[Chrome]:
    found = chromium.find()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        driver = chromium.start(*found, tmp_path_factory.mktemp("chromium"), microphone)
    yield driver
    driver.quit()


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Generates four times faster than real time. Node's tests use it too, with no browser."""
    with serving(
        tmp_path_factory.mktemp("service"), MODEL_PATH="fake:frame_seconds=0.02", MAX_TEXT_LENGTH="3000"
    ) as server:
        yield server


@pytest.fixture
def page(driver: Chrome, server: Server) -> Iterator[Page]:
    """The page with a valid key; after the test, checks that it made no foreign requests and logged no errors."""
    from tests.browser.page import Page

    yield from monitored(Page(driver, server))


def monitored(page: Page) -> Iterator[Page]:
    page.driver.get("about:blank")  # the previous test's page may still send requests and log
    chromium.requested(page.driver)
    page.driver.get_log("browser")
    page.open()
    yield page
    own = (page.server.url, page.server.url.replace("http", "ws"), "blob:", "data:")
    assert [address for address in chromium.requested(page.driver) if not address.startswith(own)] == []
    written = [each["message"] for each in page.driver.get_log("browser") if each["level"] in ("SEVERE", "WARNING")]
    assert [each for each in written if not any(expected in each for expected in EXPECTED)] == []


@pytest.fixture
def audio_tap(driver: Chrome) -> Iterator[None]:
    """Records the page's audio; bypasses the page's content security policy, which forbids the tap's script."""
    from tests.browser import listening

    driver.execute_cdp_cmd("Page.enable", {})
    driver.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})
    script = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": listening.TAP})
    yield
    driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
    driver.execute_cdp_cmd("Page.setBypassCSP", {"enabled": False})


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    from tests.app.voices.recordings import recording

    path = tmp_path / "amy.wav"
    path.write_bytes(recording("wav", seconds=1.5))
    return path
