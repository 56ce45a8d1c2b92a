"""A dialogue of twelve turns with real audio and real recognition: Kokoro is the user, pocketsphinx hears it."""

from __future__ import annotations

import asyncio
import difflib
import json
import re
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from csm_serve_client import (
    AsyncConversation,
    AsyncCsmClient,
    AudioCommitted,
    AudioDelta,
    ErrorReceived,
    ResponseCreated,
    ResponseDone,
    UserTranscript,
)

from app.audio.encoders.pcm import to_int16
from engine import FRAME_SAMPLES, SAMPLE_RATE, EngineConfig, SpeechRequest, load_engine
from tests.app.realtime.harness import silence
from tests.integration.shared import KEY, Server, serving
from tests.model_server import ModelHandler, model_server

pytest.importorskip("pocketsphinx", reason="pocketsphinx has no wheel for this Python or machine")

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]

LONG = (
    "That is a long story, which begins at the old mill behind the hill and follows the river through every village of "
    "the valley, past the bridge, the market and the school, until it comes to the harbour and the sea, where it ends."
)  # 18 seconds of the fake engine's
HEARD_SECONDS = 1.5  # of an answer that is interrupted
AGAIN, NAME = "Please say that again.", "What is my name?"
# What the user says, and what the language model answers. A turn after a long answer interrupts it.
DIALOGUE = {
    "My name is Robert.": "Hello.",
    "What is the weather like today?": "Sunny.",
    "What time does the train leave?": LONG,
    "Stop, that is enough.": "Sorry.",
    "Where is the nearest hotel?": LONG,
    "How much is a ticket to London?": LONG,
    AGAIN: "",  # what was heard of the last answer
    "Can I take my dog with me?": "Yes.",
    "Where can I buy some bread?": "Here.",
    NAME: "",  # as the user has said
    "How far is it to the station?": "A mile.",
    "Thank you very much.": "Goodbye.",
}


def plain(text: str) -> str:
    """As the recogniser writes it."""
    return re.sub(r"[^a-z ]", "", text.lower())


def understood(transcript: str) -> str | None:
    """The sentence of the dialogue that a transcript stands for, though a word of it be wrong."""

    def likeness(sentence: str) -> float:
        return difflib.SequenceMatcher(None, plain(sentence).split(), transcript.split()).ratio()

    best = max(DIALOGUE, key=likeness)
    return best if likeness(best) >= 0.6 else None


def name_in(words: str) -> str:
    return re.findall(r"my name is (\w+)", words)[-1]


class LanguageModel(ModelHandler):
    """Chat completions out of the dialogue. What it answers to AGAIN and NAME is in the messages alone."""

    requests: list[list[dict[str, str]]]

    def answer(self) -> None:
        messages = json.loads(self.read_body())["messages"]
        self.requests.append(messages)
        *before, last = messages
        question = understood(last["content"])
        answer = "I did not understand that." if question is None else DIALOGUE[question]
        if question == AGAIN:
            answer = next(each["content"] for each in reversed(before) if each["role"] == "assistant")
        elif question == NAME:
            answer = f"{name_in(' '.join(each['content'] for each in before))}."
        self.send_answer(re.findall(r"\S+\s*", answer))


@pytest.fixture(scope="module")
def recordings() -> dict[str, bytes]:
    """The user's turns, spoken by Kokoro: int16 PCM at 24 kHz, with the silence that ends a turn."""
    engine = load_engine(EngineConfig(model="kokoro"))
    try:
        return {
            words: np.concatenate(
                [
                    silence(0.3),
                    to_int16(engine.generate(SpeechRequest(words, seed=1)).samples),
                    silence(0.8),
                ]
            ).tobytes()
            for words in DIALOGUE
        }
    finally:
        engine.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    LanguageModel.requests = []
    with (
        model_server(LanguageModel) as url,
        serving(
            tmp_path_factory.mktemp("dialogue"),
            MODEL_PATH="fake:frame_seconds=0.02",
            LLM_BASE_URL=url,
            LLM_MODEL="test",
            STT_TIMEOUT_SECONDS="100",
            NO_PROXY="127.0.0.1",
        ) as server,
    ):
        yield server


@dataclass
class Turn:
    """What came of one of the user's turns."""

    transcript: str = ""
    answer: str = ""
    status: str = ""
    pcm: bytearray = field(default_factory=bytearray)

    @property
    def seconds(self) -> float:
        return len(self.pcm) / 2 / SAMPLE_RATE

    @property
    def samples(self) -> npt.NDArray[np.int16]:
        return np.frombuffer(self.pcm, "<i2")


async def follow(conversation: AsyncConversation, interrupts: bool) -> Turn:
    """Listen to the answer to a turn at the speed of sound: to its end, or until the next turn is to interrupt it."""
    turn, committed, response, began = Turn(), False, "", 0.0
    async for event in conversation:
        assert not isinstance(event, ErrorReceived), event
        if isinstance(event, AudioCommitted):
            committed = True
        elif isinstance(event, UserTranscript):
            turn.transcript = event.transcript
        elif isinstance(event, ResponseCreated) and committed:
            response = event.response_id
        elif isinstance(event, AudioDelta) and event.response_id == response:
            began = began or time.monotonic()
            turn.pcm += event.audio
            if interrupts and turn.seconds >= HEARD_SECONDS:
                break
        elif isinstance(event, ResponseDone) and event.response_id == response:
            turn.answer, turn.status = event.text, event.status
            break
    seconds = HEARD_SECONDS if interrupts else turn.seconds
    await asyncio.sleep(max(began + seconds - time.monotonic(), 0))  # the loudspeaker plays
    return turn


def interruptions(server: Server) -> float:
    request = urllib.request.Request(f"{server.url}/metrics", headers={"X-API-Key": KEY})
    with urllib.request.urlopen(request, timeout=30) as response:
        text = response.read().decode()
    return sum(
        float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith("csm_interruptions_total")
    )


def without_system(messages: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(each["role"], each["content"]) for each in messages if each["role"] != "system"]


async def test_twelve_turns_are_understood_and_answered(server: Server, recordings: dict[str, bytes]) -> None:
    turns: dict[str, Turn] = {}
    async with (
        asyncio.timeout(300),
        AsyncCsmClient(server.url, api_key=KEY) as client,
        client.converse() as conversation,
    ):
        for words, answer in DIALOGUE.items():
            recording = recordings[words]
            for start in range(0, len(recording), 9600):
                await conversation.send_audio(recording[start : start + 9600])
            turns[words] = await follow(conversation, interrupts=answer == LONG)

    transcripts = [turn.transcript for turn in turns.values()]
    assert [understood(each) for each in transcripts] == list(DIALOGUE), transcripts
    assert interruptions(server) == 3

    answers: dict[str, Any] = {words: turn for words, turn in turns.items() if DIALOGUE[words] != LONG}
    assert {turn.status for turn in answers.values()} == {"completed"}
    expected = {words: answer for words, answer in DIALOGUE.items() if answer and answer != LONG} | {
        NAME: f"{name_in(transcripts[0])}."
    }
    assert {words: turn.answer for words, turn in answers.items() if words != AGAIN} == expected
    for words, turn in answers.items():  # the fake engine's tone, a frame for each character, without a hole
        if words != AGAIN:
            assert turn.samples.size == len(turn.answer) * FRAME_SAMPLES, words
    for turn in turns.values():
        blocks = turn.samples[: turn.samples.size // 240 * 240].reshape(-1, 240).astype(np.float64)  # of 10 ms
        assert blocks.size
        assert np.all(np.sqrt((blocks**2).mean(axis=1)) > 1000)

    # The language model was told all that was said, and of the answers what was heard.
    told = without_system(LanguageModel.requests[-1])
    assert [content for role, content in told if role == "user"] == transcripts
    heard = [content for role, content in told if role == "assistant"]
    for (words, answer), content in zip(list(DIALOGUE.items())[:-1], heard, strict=True):
        if answer == LONG:
            assert 0 < len(content) < len(LONG) * 0.8
            assert LONG.split()[: len(content.split())] == content.split()
        else:
            assert content == turns[words].answer
    assert turns[AGAIN].answer == heard[list(DIALOGUE).index(AGAIN) - 1]
