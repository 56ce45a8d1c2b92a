"""The message formats of the WebSocket routes: parsing of client messages, serialisation of responses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

from engine import SAMPLE_RATE

from ..audio.encoders.base import Samples
from ..audio.encoders.pcm import to_unit_range
from ..audio.postprocessing import resolve_watermark_key
from ..audio.timeline import ChunkMark
from ..errors import ServiceError, Unprocessable
from ..schemas.speech import SpeechBody
from ..settings import Settings
from .messages import Command, SpeakCommand, pop_flag, validate

Message = str | bytes  # a text message or a binary one

PLACEHOLDER_TEXT = "a"  # passes validation in place of a blank piece, since more pieces follow


@dataclass(frozen=True)
class UtteranceStats:
    """Statistics of one text.

    duration_ms: length of the audio.
    first_audio_ms, processing_time_ms: measured from when the text left the queue.
    """

    duration_ms: float
    first_audio_ms: float | None
    processing_time_ms: float
    cancelled: bool


class ResponseWriter(Protocol):
    """Builds the response messages of one text. Its methods may run in a thread, but never concurrently."""

    def started(self, request_id: str, engine: str) -> list[Message]:
        """The messages to send before the first audio."""
        ...

    def chunk(self, samples: Samples) -> list[Message]:
        """The messages of some audio, float32 (samples,) at the rate of the command."""
        ...

    def mark(self, mark: ChunkMark) -> list[Message]:
        """The messages that tell when a text chunk was said, after its audio; only for a command with timestamps."""
        ...

    def completed(self, stats: UtteranceStats) -> list[Message]:
        """The last messages of a text that was spoken to its end or cancelled."""
        ...

    def failed(self, error: ServiceError) -> list[Message]: ...


class MessageProtocol(Protocol):
    """The message format of one route.

    keeps_history: each text is spoken as the continuation of the previous one. Pieces of one text always are.
    """

    @property
    def keeps_history(self) -> bool: ...

    def parse(self, message: str, *, continuing: bool) -> Command:
        """Parse a client message. continuing: the previous text is still open. Raises ServiceError."""
        ...

    def create_writer(self, command: SpeakCommand) -> ResponseWriter: ...

    def rejected(self, error: ServiceError) -> list[Message]:
        """The response to a message that cannot be parsed or queued."""
        ...

    def close_code(self, error: ServiceError) -> int | None:
        """The code that the connection is closed with after an error; None if it stays open."""
        ...

    def closing(self) -> list[Message]:
        """The messages to send before the connection closes at the client's request."""
        ...


def parse_speak_command(body: dict[str, Any], settings: Settings, *, continuing: bool) -> SpeakCommand:
    """Parse a text, or a piece of one, with any parameter of /tts/generate. Raises ServiceError."""
    continues, binary = pop_flag(body, "continue"), pop_flag(body, "binary")
    timestamps = pop_flag(body, "timestamps")
    text = body.get("text", "") if continuing else body.get("text")
    if (continues or continuing) and isinstance(text, str) and not text.strip():
        body = {**body, "text": PLACEHOLDER_TEXT}
    parameters = validate(SpeechBody, body)
    if parameters.subtitles is not None:
        raise Unprocessable(
            'subtitles: they come in place of audio, on /tts/generate; send "timestamps": true for marks here',
            code="invalid_parameter",
        )
    rate = parameters.sample_rate or SAMPLE_RATE
    job = parameters.to_job(settings)
    return SpeakCommand(
        str(text),
        job.with_timestamps() if timestamps else job,
        continues,
        binary,
        resolve_watermark_key(settings),
        rate,
        timestamps=timestamps,
    )


def to_json(**fields: object) -> str:
    """A JSON object of the fields that are not None."""
    return json.dumps({name: value for name, value in fields.items() if value is not None}, ensure_ascii=False)


def error_message(error: ServiceError) -> str:
    return to_json(type="error", code=error.code, message=error.detail, retry_after=error.retry_after)


def float32_bytes(samples: Samples) -> bytes:
    """Little-endian float32, saturated."""
    return to_unit_range(samples).astype("<f4", copy=False).tobytes()
