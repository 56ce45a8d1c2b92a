from __future__ import annotations

from typing import Any

import pytest

from app.errors import Unprocessable
from app.realtime.config import AlawFormat, PcmFormat, ServerVad, SessionConfig


def test_an_update_merges_objects_and_keeps_the_rest() -> None:
    config = SessionConfig(instructions="Be kind.").updated(
        {"audio": {"output": {"voice": "verse"}, "input": {"format": {"type": "audio/pcma"}}}}
    )
    assert config.instructions == "Be kind."
    assert config.audio.output.voice == "verse"
    assert config.audio.input.format == AlawFormat()
    assert config.audio.output.format == PcmFormat()
    assert config.audio.input.turn_detection == ServerVad()


def test_null_turns_detection_and_transcription_off_and_leaves_other_fields() -> None:
    config = SessionConfig().updated({"audio": {"input": {"turn_detection": None, "transcription": None}}})
    assert config.vad() is None
    assert config.audio.input.transcription is None
    assert config.updated({"instructions": None, "audio": None}) == config


def test_turn_detection_is_replaced_as_a_whole() -> None:
    config = SessionConfig().updated({"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 0.9}}}})
    again = config.updated({"audio": {"input": {"turn_detection": {"type": "server_vad"}}}})
    vad = config.vad()
    assert vad is not None
    assert vad.threshold == 0.9
    assert again.vad() == ServerVad()


def test_semantic_vad_becomes_a_silence_that_depends_on_eagerness() -> None:
    def silence(eagerness: str, judged: bool) -> int:
        detection = {"type": "semantic_vad", "eagerness": eagerness, "interrupt_response": False}
        vad = SessionConfig().updated({"audio": {"input": {"turn_detection": detection}}}).vad(judged=judged)
        assert vad is not None
        assert not vad.interrupt_response
        return vad.silence_duration_ms

    for judged in (False, True):
        high, auto, medium, low = (silence(each, judged) for each in ("high", "auto", "medium", "low"))
        assert high < auto == medium < low
    assert high > 1200  # of a turn that sounds unfinished


@pytest.mark.parametrize(
    "changes",
    [
        {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}},
        {"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 2}}}},
        {"audio": {"input": {"turn_detection": {"type": "sensor"}}}},
        {"output_modalities": ["video"]},
        {"tools": "all"},
        {"type": "transcription"},
    ],
)
def test_what_cannot_be_used_is_refused_and_named(changes: dict[str, Any]) -> None:
    with pytest.raises(Unprocessable) as raised:
        SessionConfig().updated(changes)
    assert raised.value.code == "invalid_value"
    assert next(iter(changes)) in raised.value.detail


def test_a_response_replaces_only_what_it_names() -> None:
    config = SessionConfig(instructions="a").for_response(
        {"instructions": "b", "audio": {"output": {"voice": "ash"}, "input": {"turn_detection": None}}, "type": "x"}
    )
    assert (config.instructions, config.audio.output.voice) == ("b", "ash")
    assert config.vad() is not None
