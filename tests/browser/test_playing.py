"""All three ways to play: what is heard, when it is stopped, and what can be kept of it."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine import FRAME_SAMPLES, SAMPLE_RATE
from tests.browser import listening
from tests.browser.page import WAYS, Page, active

TEXT = "x" * 20  # 1.6 seconds: the engine makes 80 ms of each character

LONG = "x" * 600  # twelve seconds of work


@pytest.fixture(scope="module")
def taps(driver) -> Iterator[None]:  # type: ignore[no-untyped-def]
    """Listens to the page; the tap is a script that the page's own policy would not let in."""
    driver.execute_cdp_cmd("Page.enable", {})
    driver.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})
    script = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": listening.TAP})
    yield
    driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
    driver.execute_cdp_cmd("Page.setBypassCSP", {"enabled": False})


@pytest.fixture
def tapped(taps: None, page: Page) -> Page:
    listening.tap(page)
    return page


def test_samples_from_the_socket_are_heard_as_they_were_made(tapped: Page) -> None:
    tapped.speak(TEXT, "socket")
    assert tapped.wait_until_over() == "Said all of it: 1.6 s."
    sound = listening.sounding(listening.heard(tapped))
    assert abs(sound.size - 20 * FRAME_SAMPLES) < 10  # a sine begins, and may end, in silence
    assert listening.seams(sound).size == 0
    assert tapped.text("gaps") == "0"


@pytest.mark.parametrize("audio", ["wav", "mp3"])
def test_an_element_is_heard_to_the_end(tapped: Page, audio: str) -> None:
    tapped.choose_way("element")
    tapped.choose("format", audio)
    tapped.speak(TEXT, "element")
    assert tapped.wait_until_over().startswith("Said all of it: 1.")
    sound = listening.sounding(listening.heard(tapped))
    assert 19.9 * FRAME_SAMPLES < sound.size < 22 * FRAME_SAMPLES
    middle = sound[: 20 * FRAME_SAMPLES][SAMPLE_RATE // 10 : -SAMPLE_RATE // 10]
    if audio != "mp3":
        assert listening.seams(middle).size == 0
    assert listening.loudness(middle).min() > 0.8 * np.median(listening.loudness(middle))


@pytest.mark.parametrize("audio", ["fmp4", "webm"])
def test_a_media_source_is_heard_to_the_end(tapped: Page, audio: str) -> None:
    tapped.choose_way("source")
    tapped.choose("format", audio)
    tapped.speak(TEXT, "source")
    assert tapped.wait_until_over().startswith("Said all of it: 1.")
    sound = listening.sounding(listening.heard(tapped))
    assert 19 * FRAME_SAMPLES < sound.size < 22 * FRAME_SAMPLES
    middle = sound[: 20 * FRAME_SAMPLES][SAMPLE_RATE // 10 : -SAMPLE_RATE // 10]
    assert listening.loudness(middle).min() > 0.8 * np.median(listening.loudness(middle))
    assert tapped.text("gaps") == "0"


@pytest.mark.parametrize("way", WAYS)
def test_stop_stops_the_sound_and_the_work(tapped: Page, way: str) -> None:
    tapped.speak(LONG, way)
    tapped.until(lambda: tapped.text("saying") == "Speaking.")
    tapped.until(lambda: np.abs(listening.heard(tapped)).max(initial=0) > 0.1)
    assert active(tapped.server) == 1
    tapped.press("stop")
    assert tapped.wait_until_over().startswith("Stopped after ")
    tapped.server.wait_until(lambda: active(tapped.server) == 0)
    before = listening.heard(tapped).size + SAMPLE_RATE // 10
    tapped.until(lambda: listening.heard(tapped).size > before + SAMPLE_RATE // 4)
    assert np.abs(listening.heard(tapped)[before:]).max() == 0
    assert not tapped.find("stop").is_enabled()


def test_another_speech_takes_the_place_of_the_first(tapped: Page) -> None:
    tapped.speak(LONG, "socket")
    tapped.until(lambda: tapped.text("saying") == "Speaking.")
    tapped.speak("x" * 10, "source")
    assert tapped.wait_until_over().startswith("Said all of it: 0.")
    tapped.server.wait_until(lambda: active(tapped.server) == 0)


@pytest.mark.parametrize("way", WAYS)
def test_each_way_tells_its_figures_and_keeps_what_was_heard(page: Page, tmp_path: Path, way: str) -> None:
    """Under the page's own policy, which the tap has to be let past."""
    page.speak("x" * 10, way)
    assert page.wait_until_over().startswith("Said all of it")
    assert page.text("first-audio").endswith(" ms")
    assert 0 < float(page.text("factor")) < 10
    assert page.text("engine") == "fake"
    assert page.text("length").endswith("of 0.8 s")
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page.press("save")
    file = tmp_path / ("speech.mp4" if way == "source" else "speech.wav")
    page.until(file.exists)
    if way == "source":
        assert file.read_bytes()[4:8] == b"ftyp"
    else:
        with wave.open(str(file)) as audio:
            assert (audio.getframerate(), audio.getnframes()) == (SAMPLE_RATE, 10 * FRAME_SAMPLES)
    page.press("seed-keep")
    assert page.value("tune-seed") == page.text("seed")
