"""Conversations on the page: the microphone's speech in, the answer's samples out, interruptions, lost connections."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

from engine import FRAME_SAMPLES, SAMPLE_RATE
from tests.browser import listening
from tests.browser.conftest import monitored
from tests.browser.page import Page, active
from tests.integration.shared import Server, serving
from tests.model_server import ModelHandler, model_server

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

# The fake engine speaks 80 ms per character: 7.8 s, which the next turn, 6 s after the one before, interrupts.
WORDS = "tell me how long the way is and what there is to see along it for somebody who has never been here"

_REFUSE_MICROPHONE = (
    "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError'); }"
)
_COLLECT = """
const send = WebSocket.prototype.send;
window.sent = [];
WebSocket.prototype.send = function (data) { window.sent.push(JSON.parse(data)); return send.call(this, data); };
"""


class Recogniser(ModelHandler):
    """Hears the same words in every recording."""

    def answer(self) -> None:
        self.read_body()
        self.send_transcript(WORDS)


@pytest.fixture(scope="module")
def talk_server(driver: Chrome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Recognises speech, and has no language model."""
    with (
        model_server(Recogniser) as url,
        serving(
            tmp_path_factory.mktemp("talk"),
            MODEL_PATH="fake:frame_seconds=0.02",
            STT_BASE_URL=url,
            NO_PROXY="127.0.0.1",
        ) as server,
    ):
        yield server


@pytest.fixture
def talk_page(driver: Chrome, talk_server: Server) -> Iterator[Page]:
    for page in monitored(Page(driver, talk_server)):
        page.press("mode-talk")
        yield page
        if page.text("talk") == "End conversation":
            page.press("talk")


def captions(page: Page, role: str) -> list[tuple[str, str]]:
    """The words of each turn of a side, and the note behind them."""
    script = """return [...document.querySelectorAll(`#captions li[data-role=${arguments[0]}]`)]
      .map((each) => [each.querySelector(".words").textContent, each.querySelector("small").textContent])"""
    return [(words, note) for words, note in page.run(script, role)]


def sent(page: Page, kind: str) -> list[dict[str, Any]]:
    return [event for event in page.run("return window.sent") if event["type"] == kind]


def test_speech_is_answered_and_interrupts_the_answer(audio_tap: None, talk_page: Page) -> None:
    page = talk_page
    page.press("talk")
    page.until(lambda: page.text("talk-state") == "Listening" or captions(page, "user"))
    assert "repeats what it hears" in page.text("talk-missing")
    page.until(lambda: captions(page, "user")[:1] == [(WORDS, "")])
    page.until(lambda: captions(page, "assistant"))
    page.until(lambda: page.text("talk-state") == "Answering")
    page.until(lambda: captions(page, "assistant")[0][1] == "interrupted")
    page.until(lambda: len(captions(page, "assistant")[0][0]) < len(WORDS))  # what was not heard is dropped
    page.until(lambda: len(captions(page, "user")) > 1)
    sound = listening.recorded_audio(page)

    loud = np.abs(sound) > 1e-3
    start = int(np.flatnonzero(loud)[0])
    quiet = np.flatnonzero(listening.rms(sound[start:]) < 1e-3) * SAMPLE_RATE // 100
    answer = listening.trim_silence(sound[start : start + int(quiet[0])])
    assert SAMPLE_RATE < answer.size < len(WORDS) * FRAME_SAMPLES
    assert listening.discontinuities(answer).size == 0
    heard = captions(page, "assistant")[0][0].split()
    assert heard == WORDS.split()[: len(heard)]
    expected = answer.size / (len(WORDS) * FRAME_SAMPLES) * len(WORDS.split())
    assert abs(len(heard) - expected) < 3
    assert int(page.text("talk-total-ms").removesuffix(" ms")) >= int(page.text("talk-silence-ms").removesuffix(" ms"))
    page.press("talk")
    assert page.text("talk-state") == "Off"
    page.server.wait_until(lambda: active(page.server) == 0)


def test_a_transcript_is_downloaded(talk_page: Page, tmp_path: Path) -> None:
    """With the page's content security policy in force, unlike the test with the tap."""
    page = talk_page
    assert not page.find("talk-save").is_enabled()
    page.press("talk")
    page.until(lambda: captions(page, "assistant"))
    page.press("talk")
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page.press("talk-save")
    page.until((tmp_path / "conversation.txt").exists)
    lines = (tmp_path / "conversation.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0].endswith(f"You: {WORDS}")
    assert "Answer: tell me" in lines[1]


def test_a_lost_connection_recovers_with_its_history(talk_page: Page) -> None:
    page = talk_page
    page.run(_COLLECT)
    page.press("talk")
    page.until(lambda: captions(page, "assistant"))
    for worker in page.server.workers():
        worker.kill()
    page.until(lambda: page.text("talk-state").startswith("Connection lost"))
    page.type("talk-line", "Are you there?")
    page.press("talk-send")  # kept until there is a connection
    turns = len(captions(page, "user"))
    assert captions(page, "user")[0] == (WORDS, "")
    page.until(lambda: not page.text("talk-state").startswith("Connection lost"))
    page.until(lambda: len(captions(page, "user")) > turns)
    restored = [event["item"] for event in sent(page, "conversation.item.create")]
    assert restored[0] == {"type": "message", "role": "user", "content": [{"type": "input_text", "text": WORDS}]}
    assert restored[1]["role"] == "assistant"
    assert any(each["content"][0]["text"] == "Are you there?" for each in restored)
    page.until(lambda: page.text("talk-state") == "Answering")


def test_push_to_talk_with_the_keyboard(talk_page: Page) -> None:
    page = talk_page
    page.run(_COLLECT)
    page.run("document.getElementById('talk').focus()")
    page.press_keys(Keys.TAB, Keys.TAB)  # past the voice
    assert page.focused == "push-to-talk"
    page.press_keys(" ")
    ActionChains(page.driver).key_down(Keys.SHIFT).send_keys(Keys.TAB, Keys.TAB).key_up(Keys.SHIFT).perform()
    assert page.focused == "talk"
    page.press_keys(Keys.ENTER)
    page.until(lambda: page.find("talk-hold").is_enabled())
    page.press_keys(Keys.TAB)
    assert page.focused == "talk-hold"
    for turn in (1, 2):  # the second interrupts the answer to the first
        before = len(sent(page, "input_audio_buffer.append"))
        ActionChains(page.driver).key_down(" ").perform()
        assert page.text("talk-state") == "You speak"
        page.until(lambda: len(sent(page, "input_audio_buffer.append")) > before + 25)  # noqa: B023 - within the turn
        ActionChains(page.driver).key_up(" ").perform()
        page.until(lambda: page.text("talk-state") == "Answering")
        assert len(captions(page, "user")) == len(captions(page, "assistant")) == turn
    page.until(lambda: captions(page, "assistant")[0][1] == "interrupted")
    count = len(sent(page, "input_audio_buffer.append"))
    page.press_keys(Keys.ESCAPE)
    page.until(lambda: captions(page, "assistant")[1][1] == "interrupted")
    assert len(sent(page, "input_audio_buffer.append")) == count


def test_typed_lines_need_no_microphone_and_interrupt(talk_page: Page) -> None:
    page = talk_page
    page.run(_REFUSE_MICROPHONE)
    page.run(_COLLECT)
    page.run("document.getElementById('talk-line').focus()")
    page.press_keys(Keys.ENTER)  # an empty line is none
    assert page.text("talk-state") == "Off"
    page.press_keys(WORDS, Keys.ENTER)
    page.until(lambda: page.text("talk-state") == "Answering")
    assert captions(page, "user") == [(WORDS, "")]
    assert page.focused == "talk-line"
    page.press_keys("Thank you.", Keys.ENTER)
    page.until(lambda: captions(page, "assistant")[0][1] == "interrupted")
    page.until(lambda: len(captions(page, "assistant")) == 2)
    assert captions(page, "user") == [(WORDS, ""), ("Thank you.", "")]
    assert captions(page, "assistant")[1][0] == "Thank you."
    assert len(captions(page, "assistant")[0][0]) < len(WORDS)
    kinds = [event["type"] for event in page.run("return window.sent")]
    assert kinds.index("conversation.item.truncate") < len(kinds) - 1 - kinds[::-1].index("response.create")
    assert sent(page, "input_audio_buffer.append") == []
    page.until(lambda: page.text("talk-state") == "Listening")
    page.press_keys(Keys.TAB, Keys.TAB, Keys.ENTER)
    assert page.focused == "talk"
    assert page.text("talk-state") == "Off"


def test_a_line_is_typed_beside_the_microphone(talk_page: Page) -> None:
    page = talk_page
    page.press("talk")
    page.until(lambda: captions(page, "user"))
    page.type("talk-line", "Thank you.")
    page.press("talk-send")
    page.until(lambda: ("Thank you.", "") in captions(page, "user"))
    page.until(lambda: any(words == "Thank you." for words, _ in captions(page, "assistant")))


def test_the_voice_is_changed_within_a_conversation(talk_page: Page) -> None:
    page = talk_page
    page.run(_COLLECT)
    page.press("talk")
    page.until(lambda: captions(page, "user"))
    page.choose("talk-voice", "speaker_2")
    assert page.value("voice") == "speaker_2"
    assert sent(page, "session.update")[-1]["session"]["audio"]["output"]["voice"] == "speaker_2"


def test_a_refused_microphone_is_explained(talk_page: Page) -> None:
    page = talk_page
    page.run(_REFUSE_MICROPHONE)
    page.press("talk")
    page.until(lambda: "permission denied" in page.notice)
    assert "address bar" in page.notice
    assert page.text("talk-state") == "Off"


def test_an_outdated_key_ends_the_conversation(talk_page: Page) -> None:
    page = talk_page
    page.run("sessionStorage.setItem('csm-serve-key', 'old')")
    page.press("talk")
    page.until(lambda: "Invalid or missing API Key" in page.notice)
    assert page.focused == "key"
    assert page.text("talk-state") == "Off"


def test_without_https_talking_is_explained(talk_page: Page) -> None:
    page = talk_page
    source = "Object.defineProperty(window, 'isSecureContext', { value: false })"
    script = page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
    page.open()
    page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
    page.press("mode-talk")
    assert "https or on localhost" in page.text("talk-missing")
    assert not page.find("talk").is_enabled()
