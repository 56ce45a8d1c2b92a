"""An interruption in `csm-serve talk`: what it plays, and what it tells the service, without a service."""

from __future__ import annotations

from typing import Any, cast

import pytest
from csm_serve_client import AudioDelta, SpeechStarted

from app.cli.talk import _Talk

SECOND = b"\1\0" * 24_000


class Service:
    """The part of a Conversation that an interruption needs."""

    def __init__(self) -> None:
        self.truncated: list[tuple[str, int]] = []

    def truncate(self, item_id: str, heard_ms: int) -> str:
        self.truncated.append((item_id, heard_ms))
        return "event"


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def talk(service: Service) -> _Talk:
    return _Talk(cast(Any, service))


def answer(talk: _Talk, item_id: str, seconds: int) -> None:
    for _ in range(seconds):
        talk._take(AudioDelta("response.output_audio.delta", {}, "response", item_id, SECOND))


def test_speech_silences_the_answer_and_tells_how_much_was_heard(talk: _Talk, service: Service) -> None:
    answer(talk, "first", 3)
    assert talk._playback.take(24_000) == SECOND[:24_000]  # half a second
    talk._take(SpeechStarted("input_audio_buffer.speech_started", {}, "user", 100))
    assert talk._playback.take(480) == bytes(480)
    assert service.truncated == [("first", 500)]
    answer(talk, "second", 1)  # the answer to the interruption
    assert talk._playback.take(480) == SECOND[:480]


def test_speech_after_an_answer_truncates_nothing(talk: _Talk, service: Service) -> None:
    answer(talk, "first", 1)
    talk._playback.take(len(SECOND))
    talk._take(SpeechStarted("input_audio_buffer.speech_started", {}, "user", 100))
    assert service.truncated == []
