"""What goes wrong, and what the page says there is to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import watched
from tests.browser.page import WAYS, Page, active
from tests.integration.shared import Server, serving

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture(scope="module")
def slow_server(driver: Chrome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One slot, no queue, a stand-in's name, and slower than it is heard."""
    settings = {"CONCURRENT_REQUESTS_PER_WORKER": "1", "MAX_QUEUED_REQUESTS": "0"}
    model = "fake:name=espeak-ng,load_seconds=2,frame_seconds=0.1"
    with serving(tmp_path_factory.mktemp("slow"), MODEL_PATH=model, **settings) as server:
        yield server


@pytest.fixture
def slow_page(driver: Chrome, slow_server: Server) -> Iterator[Page]:
    yield from watched(Page(driver, slow_server))


def test_a_wrong_key_leads_back_to_its_field(page: Page) -> None:
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


def test_a_key_is_kept_where_it_is_said_to_be(page: Page) -> None:
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


@pytest.mark.parametrize("way", WAYS)
def test_a_key_that_is_no_longer_right_is_told_in_every_way(page: Page, way: str) -> None:
    page.run("sessionStorage.setItem('csm-serve-key', 'old')")
    page.speak("Hello", way)
    assert page.wait_until_over() == "It went wrong."
    assert "Invalid or missing API Key" in page.notice
    assert page.focused == "key"


@pytest.mark.parametrize("way", WAYS)
def test_the_words_of_the_service_are_shown_in_every_way(page: Page, way: str) -> None:
    page.choose_way(way)
    page.run("document.getElementById('tuning').open = true")
    page.type("tune-cfg_guidance_weight", "1.5")
    page.run("document.getElementById('text').value = 'x'.repeat(3001)")
    page.press("speak")
    assert page.wait_until_over() == "It went wrong."
    assert "text has 3001 characters" in page.notice


@pytest.mark.parametrize("way", WAYS)
def test_a_speech_that_breaks_is_not_taken_for_a_whole_one(page: Page, way: str) -> None:
    page.speak("[raise@20]" + "x" * 30, way)
    assert page.wait_until_over().startswith("It went wrong")
    assert page.notice != ""


def test_while_everybody_speaks_there_is_a_time_to_try_again(slow_page: Page) -> None:
    page = slow_page
    with page.server.ask("text=" + "x" * 600):
        page.server.wait_until(lambda: active(page.server) == 1)
        page.speak("Hello", "source")
        page.wait_until_over()
        assert "Everybody is speaking" in page.notice
    page.server.wait_until(lambda: active(page.server) == 0)
    again = page.all("#notice button")[0]
    page.until(again.is_enabled)
    again.click()
    page.until(lambda: page.text("saying").startswith("Said all of it"))
    assert page.notice == ""


def test_what_is_made_too_slowly_is_counted_and_told(slow_page: Page) -> None:
    slow_page.speak("x" * 20, "socket")
    assert "slower than it is heard" in slow_page.wait_until_over()
    assert int(slow_page.text("gaps")) >= 1
    assert float(slow_page.text("factor")) > 1


def test_a_stand_in_is_called_one(slow_page: Page) -> None:
    slow_page.press("stand-in-name")
    hint = slow_page.text("stand-in")
    assert "espeak-ng" in hint
    assert "HF_TOKEN" in hint
    assert "sesame/csm-1b" in hint


def test_a_start_is_watched_until_it_is_over(slow_page: Page) -> None:
    page = slow_page
    dead = page.server.workers()[0]
    dead.kill()
    page.server.wait_for(503)
    page.driver.refresh()
    page.until(lambda: page.text("service").startswith("Starting"))
    page.until(lambda: page.text("key-state") == "Key set")
    page.speak("Hello", "source")
    page.until(lambda: "Not ready yet" in page.notice)
    page.until(lambda: page.text("saying") == "It is ready now: press Speak.")
    assert page.notice == ""
    assert page.text("service") == "Ready"


@pytest.fixture
def cut_off(page: Page) -> Iterator[Page]:
    """Nothing gets through any more."""
    conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.driver.execute_cdp_cmd("Network.enable", {})
    page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": True, **conditions})
    yield page
    page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": False, **conditions})


@pytest.mark.parametrize("way", WAYS)
def test_a_service_that_does_not_answer_is_told_in_every_way(cut_off: Page, way: str) -> None:
    cut_off.speak("Hello", way)
    assert cut_off.wait_until_over() == "It went wrong."
    assert "the service does not answer" in cut_off.notice
    assert "Start it" in cut_off.notice
    cut_off.until(lambda: cut_off.text("service") == "No answer")
