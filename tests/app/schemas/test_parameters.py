from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from app.schemas.dialogue import DialogueBody, ElevenLabsDialogue, TurnParameters
from app.schemas.elevenlabs import BodyOptions, ElevenLabsSpeech, SpeechOptions, StreamOptions, VoiceSettings
from app.schemas.legacy import GenerateParameters, SpeakParameters, TextParameters
from app.schemas.openai_speech import OpenAISpeech
from app.schemas.parameters import RequestParameters
from app.schemas.speech import SpeechBody, SpeechParameters, SynthesisParameters
from app.websocket.elevenlabs_protocol import GenerationConfig
from engine import InvalidRequest, SpeechRequest

MODELS = (
    *(SpeechParameters, SpeechBody, TextParameters, GenerateParameters, SpeakParameters, OpenAISpeech),
    *(ElevenLabsSpeech, SpeechOptions, StreamOptions, BodyOptions, VoiceSettings, GenerationConfig),
    *(SynthesisParameters, TurnParameters, DialogueBody, ElevenLabsDialogue),
)
_TURN = {"voice_id": "speaker_0", "text": "Hi"}
REQUIRED: dict[type[RequestParameters], dict[str, Any]] = {
    OpenAISpeech: {"input": "Hi"},
    TurnParameters: _TURN,
    DialogueBody: {"turns": [_TURN, _TURN]},
    ElevenLabsDialogue: {"inputs": [_TURN]},
    **{each: {} for each in (SynthesisParameters, StreamOptions, BodyOptions)},
}


def subclasses(model: type[RequestParameters]) -> Iterator[type[RequestParameters]]:
    for each in model.__subclasses__():
        yield each
        yield from subclasses(each)


def numbers_of(model: type[RequestParameters]) -> list[str]:
    schema = model.model_json_schema()["properties"]
    return [name for name, each in schema.items() if re.search(r"'type': '(integer|number)'", str(each))]


def test_every_body_of_numbers_is_tested() -> None:
    assert {each for each in subclasses(RequestParameters) if numbers_of(each)} == set(MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_booleans_are_no_numbers(model: type[RequestParameters]) -> None:
    required = REQUIRED.get(model, {"text": "Hi"})
    model.model_validate(required)
    assert numbers_of(model)
    for name in numbers_of(model):
        for value in (True, False, [True, 1, 2, 3, 4]):
            with pytest.raises(ValidationError):
                model.model_validate({**required, name: value})


def test_a_boolean_parameter_takes_booleans_and_the_message_names_the_mistake() -> None:
    assert SpeechParameters.model_validate({"text": "Hi", "normalize": False}).normalize is False
    assert TextParameters.model_validate({"text": "Hi", "watermark_key": [1, 0, 1, 0, 1]}).watermark_key == [
        1,
        0,
        1,
        0,
        1,
    ]
    with pytest.raises(ValidationError, match="it must be a number"):
        SpeechParameters.model_validate({"text": "Hi", "seed": True})


def test_the_engine_refuses_them_too() -> None:
    for name in ("temperature", "top_k", "guidance", "slice_frames"):
        with pytest.raises(InvalidRequest, match=name):
            SpeechRequest("Hi", **{name: True})
