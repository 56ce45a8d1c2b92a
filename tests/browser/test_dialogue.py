"""The script editor: a voice for each name, playback, the keyboard, and what is wrong with a script."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium.webdriver.common.keys import Keys

from engine import FRAME_SAMPLES, SAMPLE_RATE
from tests.browser.page import Page, active

SCRIPT = "Ann: xxxxx\nspeaker_3: xxx\n  xx\nAnn: xxxxx"  # the fake engine speaks 80 ms per character
SECONDS = (5 + 6 + 5) * FRAME_SAMPLES / SAMPLE_RATE


@pytest.fixture
def page(page: Page) -> Iterator[Page]:
    yield page
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def cast(page: Page) -> dict[str, str]:
    names = [label.text for label in page.all("#cast-rows label")]
    return dict(zip(names, [str(each.get_property("value")) for each in page.all("#cast-rows select")], strict=True))


def test_each_name_gets_a_voice_and_the_dialogue_is_played(page: Page) -> None:
    page.press("mode-dialogue")
    page.type("script", SCRIPT)
    page.type("gap", "500")
    assert cast(page) == {"Ann": "speaker_0", "speaker_3": "speaker_3"}
    page.choose("cast-0", "speaker_2")
    page.find("script").send_keys(Keys.END, "\nBob: x")
    assert cast(page) == {"Ann": "speaker_2", "speaker_3": "speaker_3", "Bob": "speaker_2"}
    page.find("script").send_keys(*[Keys.BACKSPACE] * 7)
    assert page.text("script-count") == "3 turns, 2 voices"
    page.find("script").send_keys(Keys.CONTROL, Keys.ENTER)
    assert page.wait_until_over().startswith(f"Finished: {SECONDS + 1:.1f} s.")
    assert page.text("engine") == "fake"
    page.choose_playback_mode("source")
    page.press("speak")
    assert page.wait_until_over().startswith("Finished: ")
    page.press("mode-speak")
    assert page.find("text").is_displayed()
    assert not page.find("script").is_displayed()


def test_stop_ends_a_dialogue(page: Page) -> None:
    page.press("mode-dialogue")
    page.type("script", f"Ann: {'x' * 300}\nBob: {'x' * 300}")
    page.press("speak")
    page.until(lambda: page.text("saying") == "Speaking.")
    page.press_keys(Keys.ESCAPE)
    assert page.wait_until_over().startswith("Stopped")
    page.server.wait_until(lambda: active(page.server) == 0)


def test_a_script_that_is_no_dialogue_is_explained_and_fits_a_phone(page: Page) -> None:
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.run("document.getElementById('mode-dialogue').click()")
    names = "".join(f"A rather long name, number {number}: {'x' * 60}\n" for number in range(10))
    for script, problem in (
        ("Ann: Hello.", "A dialogue needs two turns, a line each."),
        ("Hello.\nAnn: Hi.", "Line 1 has no name: write “Name: line”."),
        ("Ann: Hello.\nBob:\n", "A turn of Bob has no text."),
        (names, ""),
    ):
        page.run(
            "const script = document.getElementById('script'); script.value = arguments[0];"
            "script.dispatchEvent(new Event('input'))",
            script,
        )
        assert page.find("script").get_property("validationMessage") == problem
    assert len(cast(page)) == 10
    assert page.run("return document.documentElement.scrollWidth") <= 390
    page.press("speak")
    page.until(lambda: page.text("saying") == "Speaking.")
    page.press_keys(Keys.ESCAPE)
    assert page.wait_until_over().startswith("Stopped")
