"""The three playback modes: played audio, stopping, and downloads."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from engine import FRAME_SAMPLES, SAMPLE_RATE
from tests.browser import listening
from tests.browser.page import PLAYBACK_MODES, Page, active

TEXT = "x" * 20  # 1.6 seconds: the engine generates 80 ms per character

LONG = "x" * 600  # twelve seconds of generation


@pytest.fixture
def tapped(audio_tap: None, page: Page) -> Page:
    listening.tap(page)
    return page


def test_websocket_playback_is_sample_exact(tapped: Page) -> None:
    tapped.speak(TEXT, "socket")
    assert tapped.wait_until_over() == "Finished: 1.6 s."
    sound = listening.trim_silence(listening.recorded_audio(tapped))
    assert abs(sound.size - 20 * FRAME_SAMPLES) < 10  # a sine starts, and may end, at zero
    assert listening.discontinuities(sound).size == 0
    assert tapped.text("underruns") == "0"


@pytest.mark.parametrize("audio", ["wav", "mp3"])
def test_element_playback_is_complete(tapped: Page, audio: str) -> None:
    tapped.choose_playback_mode("element")
    tapped.choose("format", audio)
    tapped.speak(TEXT, "element")
    assert tapped.wait_until_over().startswith("Finished: 1.")
    sound = listening.trim_silence(listening.recorded_audio(tapped))
    assert 19.9 * FRAME_SAMPLES < sound.size < 22 * FRAME_SAMPLES
    middle = sound[: 20 * FRAME_SAMPLES][SAMPLE_RATE // 10 : -SAMPLE_RATE // 10]
    if audio != "mp3":
        assert listening.discontinuities(middle).size == 0
    assert listening.rms(middle).min() > 0.8 * np.median(listening.rms(middle))


@pytest.mark.parametrize("audio", ["fmp4", "webm"])
def test_media_source_playback_is_complete(tapped: Page, audio: str) -> None:
    tapped.choose_playback_mode("source")
    tapped.choose("format", audio)
    tapped.speak(TEXT, "source")
    assert tapped.wait_until_over().startswith("Finished: 1.")
    sound = listening.trim_silence(listening.recorded_audio(tapped))
    assert 19 * FRAME_SAMPLES < sound.size < 22 * FRAME_SAMPLES
    middle = sound[: 20 * FRAME_SAMPLES][SAMPLE_RATE // 10 : -SAMPLE_RATE // 10]
    assert listening.rms(middle).min() > 0.8 * np.median(listening.rms(middle))
    assert tapped.text("underruns") == "0"


@pytest.mark.parametrize("mode", PLAYBACK_MODES)
def test_stop_ends_playback_and_generation(tapped: Page, mode: str) -> None:
    tapped.speak(LONG, mode)
    tapped.until(lambda: tapped.text("saying") == "Speaking.")
    tapped.until(lambda: np.abs(listening.recorded_audio(tapped)).max(initial=0) > 0.1)
    assert active(tapped.server) == 1
    tapped.press("stop")
    assert tapped.wait_until_over().startswith("Stopped after ")
    tapped.server.wait_until(lambda: active(tapped.server) == 0)
    before = listening.recorded_audio(tapped).size + SAMPLE_RATE // 10
    tapped.until(lambda: listening.recorded_audio(tapped).size > before + SAMPLE_RATE // 4)
    assert np.abs(listening.recorded_audio(tapped)[before:]).max() == 0
    assert not tapped.find("stop").is_enabled()


def test_a_new_request_replaces_the_current_one(tapped: Page) -> None:
    tapped.speak(LONG, "socket")
    tapped.until(lambda: tapped.text("saying") == "Speaking.")
    tapped.speak("x" * 10, "source")
    assert tapped.wait_until_over().startswith("Finished: 0.")
    tapped.server.wait_until(lambda: active(tapped.server) == 0)


@pytest.mark.parametrize("mode", PLAYBACK_MODES)
def test_each_playback_mode_shows_figures_and_downloads_the_audio(page: Page, tmp_path: Path, mode: str) -> None:
    """With the page's content security policy in force, unlike the tests with the tap."""
    page.speak("x" * 10, mode)
    assert page.wait_until_over().startswith("Finished")
    assert page.text("first-audio").endswith(" ms")
    assert 0 < float(page.text("factor")) < 10
    assert page.text("engine") == "fake"
    assert page.text("length").endswith("of 0.8 s")
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page.press("save")
    file = tmp_path / ("speech.mp4" if mode == "source" else "speech.wav")
    page.until(file.exists)
    if mode == "source":
        assert file.read_bytes()[4:8] == b"ftyp"
    else:
        with wave.open(str(file)) as audio:
            assert (audio.getframerate(), audio.getnframes()) == (SAMPLE_RATE, 10 * FRAME_SAMPLES)
    page.press("seed-keep")
    assert page.value("tune-seed") == page.text("seed")
