"""WS /v1/text-to-speech/{voice_id}/stream-input: ElevenLabs' protocol for text that is still being written.

    {"text": " ", "voice_settings": {…}, "generation_config": {"chunk_length_schedule": [120, 160]}}    first
    {"text": "Once upon a ti"}, {"text": "me. ", "flush": true}                                    pieces
    {"text": ""}                                                                                   end
    {"audio": "base64", "isFinal": null, "alignment": null, "normalizedAlignment": null}           answers
    {"audio": "", "alignment": {"chars": [], "charStartTimesMs": [], "charDurationsMs": []}, …}    sync_alignment=true
    {"audio": null, "isFinal": true, …}                                                            last

One connection is one text and one stream of audio in the format of the query. Without a schedule each sentence is
spoken once it is complete. An alignment follows the audio of each text chunk. Its times begin at the end of the one
before it, so that clients which add them up have the time in the whole audio.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pydantic import ConfigDict, Field, field_validator

from ..audio.encoder_factory import create_encoder
from ..audio.encoders import Encoder, Format
from ..audio.encoders.base import Samples
from ..audio.timeline import ChunkMark
from ..errors import ServiceError, Unprocessable
from ..observability.components import Components
from ..responses.alignment import SpacedWords
from ..schemas.elevenlabs import SpeechOptions, VoiceSettings, encoded_format, refuse_dictionaries, speed_of
from ..schemas.parameters import RequestParameters
from ..settings import Settings
from .messages import CloseCommand, Command, SpeakCommand, parse_object, validate
from .protocol import PLACEHOLDER_TEXT, Message, UtteranceStats

_POLICY_VIOLATION = 1008  # RFC 6455, 7.4.1: ElevenLabs' close code for what the client did wrong
_INTERNAL_ERROR = 1011


class GenerationConfig(RequestParameters):
    model_config = ConfigDict(extra="ignore")

    chunk_length_schedule: list[float] | None = Field(None, max_length=100)

    @field_validator("chunk_length_schedule")
    @classmethod
    def _check_schedule(cls, schedule: list[float] | None) -> list[float] | None:
        if any(not 1 <= each <= 5000 for each in schedule or ()):
            raise ValueError("each length must be from 1 to 5000 characters")
        return schedule


class TextMessage(RequestParameters):
    """A message of the client. The settings of the first one apply; other fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    text: str
    flush: bool | None = None
    voice_settings: VoiceSettings | None = None
    generation_config: GenerationConfig | None = None
    pronunciation_dictionary_locators: list[Any] | None = None

    @field_validator("pronunciation_dictionary_locators")
    @classmethod
    def _check_dictionaries(cls, locators: list[Any] | None) -> list[Any] | None:
        return refuse_dictionaries(locators)


@dataclass
class ElevenLabsProtocol:
    """options, output_format, sync_alignment: of the query. Raises UnknownFormat."""

    settings: Settings
    components: Components
    voice_id: str
    options: SpeechOptions
    output_format: str
    sync_alignment: bool = False
    keeps_history: bool = field(default=False, init=False)
    _first: SpeakCommand | None = field(default=None, init=False)
    _ended: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        encoded_format(self.output_format, None, self.settings)

    def parse(self, message: str, *, continuing: bool) -> Command:
        body = validate(TextMessage, parse_object(message))
        if not body.text:
            self._ended = True
            return CloseCommand()
        if self._ended:
            raise Unprocessable("the text has ended: open another connection for the next one", code="text_ended")
        if self._first is None:
            speed = speed_of(body.voice_settings)
            schedule = body.generation_config and body.generation_config.chunk_length_schedule
            job = self.options.to_job(
                body.text.strip() or PLACEHOLDER_TEXT, self.voice_id, body.voice_settings, self.settings
            )
            self._first = SpeakCommand(
                body.text,
                job.with_timestamps() if self.sync_alignment else job,
                continues=True,
                audio_format=encoded_format(self.output_format, body.voice_settings, self.settings),
                chunk_lengths=tuple(map(int, schedule or ())),
                flush=bool(body.flush),
                speed=speed,
                timestamps=self.sync_alignment,
            )
            return self._first
        return SpeakCommand(body.text, self._first.job, continues=True, flush=bool(body.flush))

    def create_writer(self, command: SpeakCommand) -> ElevenLabsResponseWriter:
        assert command.audio_format is not None
        return ElevenLabsResponseWriter(command.audio_format, self.components)

    def rejected(self, error: ServiceError) -> list[Message]:
        return [_error_message(error)]

    def close_code(self, error: ServiceError) -> int | None:
        return _POLICY_VIOLATION if error.status < 500 else _INTERNAL_ERROR

    def closing(self) -> list[Message]:
        return []


class ElevenLabsResponseWriter:
    def __init__(self, audio_format: Format, components: Components) -> None:
        self._format = audio_format
        self._components = components
        self._encoder: Encoder | None = None
        self._written, self._said = SpacedWords(), SpacedWords()

    def started(self, request_id: str, engine: str) -> list[Message]:
        return []

    def chunk(self, samples: Samples) -> list[Message]:
        if self._encoder is None:
            self._encoder = create_encoder(self._format, self._components)
        return _audio_messages(self._encoder.encode(samples))

    def mark(self, mark: ChunkMark) -> list[Message]:
        words = [(word.text, word.begin, word.end) for word in mark.words]
        fields = [_aligned(*each) for each in ((self._written, words), (self._said, mark.spoken))]
        return [_to_json(audio="", isFinal=None, alignment=fields[0], normalizedAlignment=fields[1])]

    def completed(self, stats: UtteranceStats) -> list[Message]:
        tail = b"" if self._encoder is None else self._encoder.flush()
        return [*_audio_messages(tail), _to_json(audio=None, isFinal=True)]

    def failed(self, error: ServiceError) -> list[Message]:
        if error.code == "no_words":  # a connection that is closed before any text
            return [_to_json(audio=None, isFinal=True)]
        return [_error_message(error)]


def _audio_messages(data: bytes) -> list[Message]:
    return [_to_json(audio=base64.b64encode(data).decode(), isFinal=None)] if data else []


def _aligned(text: SpacedWords, words: Iterable[tuple[str, float, float]]) -> dict[str, object]:
    """The characters of the next words, with times from the end of those before them."""
    start = text.end
    next_characters = text.push(words)
    begins = [round(1000 * (begin - start)) for begin in next_characters.begins]
    ends = [round(1000 * (end - start)) for end in next_characters.ends]
    return {
        "chars": next_characters.characters,
        "charStartTimesMs": begins,
        "charDurationsMs": [end - begin for begin, end in zip(begins, ends, strict=True)],
    }


def _to_json(**fields: object) -> str:
    return json.dumps({"alignment": None, "normalizedAlignment": None, **fields}, ensure_ascii=False)


def _error_message(error: ServiceError) -> str:
    code = _POLICY_VIOLATION if error.status < 500 else _INTERNAL_ERROR
    return json.dumps({"message": error.detail, "error": error.code, "code": code}, ensure_ascii=False)
