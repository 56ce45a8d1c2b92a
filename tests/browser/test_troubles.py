"""Errors on the page, and the advice it shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import monitored
from tests.browser.page import PLAYBACK_MODES, Page, active
from tests.integration.shared import Server, serving

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture(scope="module")
def trouble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose word the loading of the slow server's engine heeds."""
    return tmp_path_factory.mktemp("trouble") / "word"


@pytest.fixture(scope="module")
def slow_server(driver: Chrome, tmp_path_factory: pytest.TempPathFactory, trouble: Path) -> Iterator[Server]:
    """One slot, no queue, a fallback engine's name, and slower than real time."""
    settings = {"CONCURRENT_REQUESTS_PER_WORKER": "1", "MAX_QUEUED_REQUESTS": "0"}
    model = f"fake:name=espeak-ng,frame_seconds=0.1,trouble={trouble}"
    with serving(tmp_path_factory.mktemp("slow"), MODEL_PATH=model, **settings) as server:
        yield server


@pytest.fixture
def slow_page(driver: Chrome, slow_server: Server) -> Iterator[Page]:
    yield from monitored(Page(driver, slow_server))


def test_a_wrong_key_focuses_its_field(page: Page) -> None:
    page.open(key=None)
    assert page.focused == "key"
    assert page.find("key").get_attribute("type") == "password"
    page.press_keys("wrong", "\n")
    page.until(lambda: "Invalid or missing API Key" in page.notice)
    assert ".env" in page.notice
    assert page.focused == "key"
    page.type("key", "second-key")
    page.press_keys("\n")
    page.until(lambda: page.text("key-state") == "Key set")
    assert page.notice == ""
    assert page.focused == "text"


def test_a_key_is_stored_where_the_user_chose(page: Page) -> None:
    page.open(key=None)
    for tick in (False, True):
        page.type("key", "first-key")
        if tick:
            page.press("key-keep")
        page.press_keys("\n") if page.focused == "key" else page.find("key").submit()
        page.until(lambda: page.text("key-state") == "Key set")
        kept = page.run("return [Object.values(sessionStorage), Object.values(localStorage)]")
        assert kept == ([[], ["first-key"]] if tick else [["first-key"], []])
        page.run("document.getElementById('key-box').open = true")
        if tick:
            page.press("key-forget")
            page.until(lambda: page.text("key-state") == "Key needed")
            assert page.run("return sessionStorage.length + localStorage.length") == 0


@pytest.mark.parametrize("mode", PLAYBACK_MODES)
def test_an_outdated_key_is_reported_in_every_playback_mode(page: Page, mode: str) -> None:
    page.run("sessionStorage.setItem('csm-serve-key', 'old')")
    page.speak("Hello", mode)
    assert page.wait_until_over() == "Failed."
    assert "Invalid or missing API Key" in page.notice
    assert page.focused == "key"


@pytest.mark.parametrize("mode", PLAYBACK_MODES)
def test_error_details_are_shown_in_every_playback_mode(page: Page, mode: str) -> None:
    page.choose_playback_mode(mode)
    page.run("document.getElementById('tuning').open = true")
    page.type("tune-cfg_guidance_weight", "1.5")
    page.run("document.getElementById('text').value = 'x'.repeat(3001)")
    page.press("speak")
    assert page.wait_until_over() == "Failed."
    assert "text has 3001 characters" in page.notice


@pytest.mark.parametrize("mode", PLAYBACK_MODES)
def test_an_aborted_stream_is_reported_in_every_playback_mode(page: Page, mode: str) -> None:
    page.speak("[raise@20]" + "x" * 30, mode)
    assert page.wait_until_over().startswith("Failed")
    assert page.notice != ""


def test_busy_shows_a_retry_countdown(slow_page: Page) -> None:
    page = slow_page
    with page.server.ask("text=" + "x" * 600):
        page.server.wait_until(lambda: active(page.server) == 1)
        page.speak("Hello", "source")
        page.wait_until_over()
        assert "All slots are busy" in page.notice
    page.server.wait_until(lambda: active(page.server) == 0)
    again = page.all("#notice button")[0]
    page.until(again.is_enabled)
    again.click()
    page.until(lambda: page.text("saying").startswith("Finished"))
    assert page.notice == ""


def test_slow_generation_is_reported_with_its_underruns(slow_page: Page) -> None:
    slow_page.speak("x" * 20, "socket")
    assert "slower than real time" in slow_page.wait_until_over()
    assert int(slow_page.text("underruns")) >= 1
    assert float(slow_page.text("factor")) > 1


def test_a_fallback_model_is_shown(slow_page: Page) -> None:
    slow_page.press("stand-in-name")
    hint = slow_page.text("stand-in")
    assert "espeak-ng" in hint
    assert "follows only the pitch of a voice" in hint
    assert 0 < hint.index("make serve MODEL=unsloth/csm-1b") < hint.index("HF_TOKEN")
    assert "sesame/csm-1b" in hint


def test_startup_is_shown_until_ready(slow_page: Page, trouble: Path) -> None:
    page = slow_page
    trouble.write_text("hangs", encoding="utf-8")
    page.server.workers()[0].kill()
    page.server.wait_for(503)
    page.driver.refresh()
    page.until(lambda: page.text("service").startswith("Starting"))
    page.until(lambda: page.text("key-state") == "Key set")
    page.speak("Hello", "source")
    page.until(lambda: "Not ready yet" in page.notice)
    trouble.unlink()
    page.until(lambda: page.text("saying") == "The service is ready: press Speak.")
    assert page.notice == ""
    assert page.text("service") == "Ready"


@pytest.fixture
def offline_page(page: Page) -> Iterator[Page]:
    """Without a network."""
    conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.driver.execute_cdp_cmd("Network.enable", {})
    page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": True, **conditions})
    yield page
    page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": False, **conditions})


@pytest.mark.parametrize("mode", PLAYBACK_MODES)
def test_an_unreachable_service_is_reported_in_every_playback_mode(offline_page: Page, mode: str) -> None:
    offline_page.speak("Hello", mode)
    assert offline_page.wait_until_over() == "Failed."
    assert "the service does not respond" in offline_page.notice
    assert "is running" in offline_page.notice
    offline_page.until(lambda: offline_page.text("service") == "No connection")
    assert offline_page.text("host") == "The service does not respond."
