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
from ..responses.aligned import SpacedWords
from ..schemas.elevenlabs import StreamOptions, VoiceSettings, encoded_format, refuse_dictionaries, speed_of
from ..schemas.parameters import RequestParameters
from ..settings import Settings
from .connection import INTERNAL_ERROR, POLICY_VIOLATION
from .messages import CloseCommand, Command, SpeakCommand, parse_object, validate
from .protocol import PLACEHOLDER_TEXT, Message, UtteranceStats


class GenerationConfig(RequestParameters):
    model_config = ConfigDict(extra="ignore")

    chunk_length_schedule: list[float] | None = Field(None, max_length=100)

    @field_validator("chunk_length_schedule")
    @classmethod
    def _check_schedule(cls, schedule: list[float] | None) -> list[float] | None:
        if any(not 1 <= each <= 5000 for each in schedule or ()):
            raise ValueError("each length must be from 1 to 5000 characters")
        return schedule


class SettingsMessage(RequestParameters):
    """The settings of a text, which its first message may hold; other fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    voice_settings: VoiceSettings | None = None
    generation_config: GenerationConfig | None = None
    pronunciation_dictionary_locators: list[Any] | None = None

    @field_validator("pronunciation_dictionary_locators")
    @classmethod
    def _check_dictionaries(cls, locators: list[Any] | None) -> list[Any] | None:
        return refuse_dictionaries(locators)


class TextMessage(SettingsMessage):
    """A message of the client. The settings of the first one apply."""

    text: str
    flush: bool | None = None


@dataclass(frozen=True)
class StreamSettings:
    """What the path and the query of a connection ask for. Raises UnknownFormat."""

    settings: Settings
    voice_id: str
    options: StreamOptions

    def __post_init__(self) -> None:
        encoded_format(self.options.output_format, None, self.settings)

    def first_command(self, text: str, message: SettingsMessage, *, flush: bool | None) -> SpeakCommand:
        """The command of a text's first message. Raises ServiceError."""
        voice, generation = message.voice_settings, message.generation_config
        job = self.options.to_job(text.strip() or PLACEHOLDER_TEXT, self.voice_id, voice, self.settings)
        timestamps = bool(self.options.sync_alignment)
        return SpeakCommand(
            text,
            job.with_timestamps() if timestamps else job,
            continues=True,
            audio_format=encoded_format(self.options.output_format, voice, self.settings),
            chunk_lengths=tuple(map(int, (generation and generation.chunk_length_schedule) or ())),
            flush=self.flushes(flush),
            speed=speed_of(voice),
            timestamps=timestamps,
        )

    def flushes(self, flush: bool | None) -> bool:
        """Whether a message is spoken at once."""
        return bool(flush) or self.options.auto_mode


@dataclass
class ElevenLabsProtocol:
    stream: StreamSettings
    components: Components
    keeps_history: bool = field(default=False, init=False)
    _first: SpeakCommand | None = field(default=None, init=False)
    _ended: bool = field(default=False, init=False)

    def parse(self, message: str, *, continuing: bool) -> Command:
        body = validate(TextMessage, parse_object(message))
        if not body.text:
            self._ended = True
            return CloseCommand()
        if self._ended:
            raise Unprocessable("the text has ended: open another connection for the next one", code="text_ended")
        if self._first is None:
            self._first = self.stream.first_command(body.text, body, flush=body.flush)
            return self._first
        return SpeakCommand(body.text, self._first.job, continues=True, flush=self.stream.flushes(body.flush))

    def create_writer(self, command: SpeakCommand) -> ElevenLabsResponseWriter:
        assert command.audio_format is not None
        return ElevenLabsResponseWriter(command.audio_format, self.components)

    def rejected(self, error: ServiceError) -> list[Message]:
        return [elevenlabs_error(error)]

    def close_code(self, error: ServiceError) -> int | None:
        return elevenlabs_close_code(error)

    def closing(self) -> list[Message]:
        return []


class ElevenLabsResponseWriter:
    """context_id: of connections with several texts, whose messages name theirs."""

    def __init__(self, audio_format: Format, components: Components, context_id: str | None = None) -> None:
        self._format = audio_format
        self._components = components
        self._context = {} if context_id is None else {"contextId": context_id}
        self._encoder: Encoder | None = None
        self._written, self._said = SpacedWords(), SpacedWords()

    def started(self, request_id: str, engine: str) -> list[Message]:
        return []

    def chunk(self, samples: Samples) -> list[Message]:
        if self._encoder is None:
            self._encoder = create_encoder(self._format, self._components)
        return self._audio_messages(self._encoder.encode(samples))

    def mark(self, mark: ChunkMark) -> list[Message]:
        words = [(word.text, word.begin, word.end) for word in mark.words]
        fields = [_aligned(*each) for each in ((self._written, words), (self._said, mark.spoken))]
        return [self._to_json(audio="", isFinal=None, alignment=fields[0], normalizedAlignment=fields[1])]

    def completed(self, stats: UtteranceStats) -> list[Message]:
        tail = b"" if self._encoder is None else self._encoder.flush()
        return [*self._audio_messages(tail), self._final()]

    def failed(self, error: ServiceError) -> list[Message]:
        if error.code == "no_words":  # it is closed before any text
            return [self._final()]
        return [elevenlabs_error(error, **self._context), *([self._final()] if self._context else [])]

    def _audio_messages(self, data: bytes) -> list[Message]:
        return [self._to_json(audio=base64.b64encode(data).decode(), isFinal=None)] if data else []

    def _final(self) -> Message:
        return self._to_json(audio=None, isFinal=True)

    def _to_json(self, **fields: object) -> str:
        fields = {"alignment": None, "normalizedAlignment": None, **fields, **self._context}
        return json.dumps(fields, ensure_ascii=False)


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


def elevenlabs_close_code(error: ServiceError) -> int:
    """What ElevenLabs closes a connection with."""
    return POLICY_VIOLATION if error.status < 500 else INTERNAL_ERROR


def elevenlabs_error(error: ServiceError, **fields: str) -> str:
    body = {"message": error.detail, "error": error.code, "code": elevenlabs_close_code(error), **fields}
    return json.dumps(body, ensure_ascii=False)
