"""Voices on the page: upload, replace, record, play and delete; and HTML in names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app.voices.recordings import recording as make_recording
from tests.browser.page import Page, get_json

HOSTILE = '<img src=x onerror="document.title=1">'
_LIST = """
const fetched = window.fetch;
window.fetch = (path, ...rest) => new URL(path, location).pathname === "/voices" && !rest[0]?.method
  ? Promise.resolve(new Response(JSON.stringify(%s))) : fetched(path, ...rest);
"""
# A list with a preloaded voice, and details that come when what `held` holds is called.
_HELD = """
window.held = [];
const fetched = window.fetch;
const made = {
  "/voices": ["amy.wav", "anna.wav"],
  "/voices/anna.wav": { id: "anna.wav", seconds: 9, has_transcript: true, preloaded: true },
};
window.fetch = async (address, options) => {
  const path = new URL(address, location).pathname;
  if (options?.method || !path.startsWith("/voices")) return fetched(address, options);
  if (path !== "/voices") await new Promise((resolve) => window.held.push(resolve));
  return path in made ? new Response(JSON.stringify(made[path])) : fetched(address, options);
};
"""


def upload(page: Page, path: Path, name: str, transcript: str = "") -> None:
    page.press("add-voice")
    page.find("voice-file").send_keys(str(path))
    page.type("voice-name", name)
    page.find("transcript").send_keys(transcript)
    page.press("voice-save")


def delete(page: Page, name: str) -> None:
    page.voice_action("remove", name)
    page.driver.find_element("css selector", "#delete-dialog .danger").click()
    page.until(lambda: page.text("voices-said") == f"{name} was deleted.")


@pytest.fixture
def amy(page: Page, recording: Path) -> Iterator[str]:
    upload(page, recording, "amy.wav")
    page.until(lambda: page.voices == ["amy.wav"])
    yield "amy.wav"
    if "amy.wav" in page.voices:
        delete(page, "amy.wav")


def about(page: Page, voice: str) -> str:
    return page.driver.find_element("css selector", f"li[data-voice='{voice}'] .about").text


def test_a_voice_is_uploaded_played_and_deleted(page: Page, amy: str) -> None:
    assert page.text("voices-said") == "amy.wav was added and selected."
    assert page.value("voice") == amy
    page.until(lambda: about(page, amy) == "1.5 s · no transcript")
    page.voice_action("play", amy)
    assert page.wait_until_over().startswith("Finished")
    page.voice_action("remove", amy)
    assert page.text("delete-name") == amy
    page.press_keys("\ue00c")  # Escape cancels
    assert get_json(page.server, "/voices") == [amy]
    delete(page, amy)
    assert page.voices == []
    assert get_json(page.server, "/voices") == []
    assert page.value("voice") == ""


def test_a_voice_is_replaced(page: Page, amy: str, tmp_path: Path) -> None:
    before = get_json(page.server, f"/voices/{amy}")["sha256"]
    other = tmp_path / "other.flac"
    other.write_bytes(make_recording("flac", seconds=2.5))
    page.voice_action("replace", amy)
    page.find("voice-file").send_keys(str(other))
    page.find("transcript").send_keys("Other words.")
    page.press("voice-save")
    page.until(lambda: page.text("voices-said") == "amy.wav was replaced and selected.")
    page.until(lambda: about(page, amy) == "2.5 s · with transcript")
    assert get_json(page.server, f"/voices/{amy}")["sha256"] != before


def test_a_voice_is_recorded_from_the_microphone(page: Page) -> None:
    page.press("add-voice")
    sentence = page.text("sentence")
    page.press("record")
    page.until(lambda: page.text("recording").startswith(("2 s", "3 s")))
    page.press("record")
    page.until(lambda: page.value("transcript") == sentence)
    assert page.value("voice-name") == "my-voice.webm"
    page.until(lambda: page.run("return document.getElementById('voice-preview').readyState > 0"))
    page.press("voice-save")
    page.until(lambda: page.voices == ["my-voice.webm"])
    details = get_json(page.server, "/voices/my-voice.webm")
    assert details["has_transcript"]
    assert details["seconds"] > 1.5
    delete(page, "my-voice.webm")


def test_upload_errors_are_shown_in_the_dialog(page: Page, amy: str, recording: Path, tmp_path: Path) -> None:
    upload(page, recording, amy)
    page.until(lambda: "amy.wav" in page.text("voice-problem"))
    assert "another name" in page.text("voice-problem")
    page.press("voice-cancel")
    junk = tmp_path / "junk.wav"
    junk.write_bytes(b"nothing to hear " * 100)
    upload(page, junk, "junk.wav")
    page.until(lambda: "try again" in page.text("voice-problem"))
    page.press("voice-cancel")
    page.press("add-voice")
    assert page.text("voice-problem") == ""
    page.press("voice-save")  # without a recording
    assert page.focused == "voice-file"
    assert "record one" in page.run("return document.activeElement.validationMessage")
    page.press("voice-cancel")
    assert page.voices == [amy]


def test_only_own_voices_can_be_changed(page: Page, amy: str) -> None:
    held = page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _HELD})
    page.open()
    page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", held)
    page.until(lambda: page.run("return held.length") == 2)
    shown = "#voices button:not([hidden])[data-action]"
    assert [each.text for each in page.all(shown)] == ["Play", "Play"]  # nothing is known of either
    page.run("held.forEach((answer) => answer())")
    page.until(lambda: about(page, "anna.wav") == "9.0 s · with transcript · preloaded")
    page.until(lambda: about(page, amy) != "")
    assert [each.text for each in page.all(shown)] == ["Play", "Replace", "Delete", "Play"]


def test_names_and_transcripts_are_never_interpreted_as_html(page: Page, tmp_path: Path) -> None:
    file = tmp_path / f"{HOSTILE}.wav"
    file.write_bytes(make_recording("wav", seconds=1.5))
    page.press("add-voice")
    page.find("voice-file").send_keys(str(file))
    assert page.value("voice-name") == "img src-x onerror-document.title-1.wav"
    page.find("transcript").send_keys(HOSTILE)
    page.press("voice-save")
    page.until(lambda: page.voices == ["img src-x onerror-document.title-1.wav"])
    delete(page, page.voices[0])

    script = page.driver.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument", {"source": _LIST % json.dumps([HOSTILE])}
    )
    page.open()
    page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
    assert page.voices == [HOSTILE]
    assert page.all("#voices img, #voice img") == []
    page.voice_action("remove", HOSTILE)
    assert page.text("delete-name") == HOSTILE
    page.press_keys("\ue00c")
    assert page.driver.title == "csm-serve"
