from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser import chromium
from tests.integration.shared import Server, serving

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

    from tests.browser.page import Page

EXPECTED = ("Failed to load resource", "WebSocket connection to")  # what browsers write of every refusal


@pytest.fixture(scope="package")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    found = chromium.find()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        driver = chromium.start(*found, tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


@pytest.fixture(scope="package")
def server(driver: Chrome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Four times as fast as it is heard."""
    with serving(
        tmp_path_factory.mktemp("service"), MODEL_PATH="fake:frame_seconds=0.02", MAX_TEXT_LENGTH="3000"
    ) as server:
        yield server


@pytest.fixture
def page(driver: Chrome, server: Server) -> Iterator[Page]:
    """The page with a key that is right; whatever is done on it, it asks nobody else and breaks no rule of its own."""
    from tests.browser.page import Page

    yield from watched(Page(driver, server))


def watched(page: Page) -> Iterator[Page]:
    page.driver.get("about:blank")  # the page of the test before, which may be another service's, still asks and writes
    chromium.requested(page.driver)
    page.driver.get_log("browser")
    page.open()
    yield page
    own = (page.server.url, page.server.url.replace("http", "ws"), "blob:", "data:")
    assert [address for address in chromium.requested(page.driver) if not address.startswith(own)] == []
    written = [each["message"] for each in page.driver.get_log("browser") if each["level"] in ("SEVERE", "WARNING")]
    assert [each for each in written if not any(expected in each for expected in EXPECTED)] == []


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    from tests.app.voices.recordings import recording

    path = tmp_path / "amy.wav"
    path.write_bytes(recording("wav", seconds=1.5))
    return path
