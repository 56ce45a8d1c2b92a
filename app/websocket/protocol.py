"""How clients talk on a WebSocket: what a message of theirs means, and what a text of theirs is answered."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

from ..audio.encoders.base import Samples
from ..audio.encoders.pcm import to_unit_range
from ..audio.postprocessing import key_for
from ..errors import ServiceError
from ..schemas.speech import SpeechParameters
from ..settings import Settings
from .messages import Command, SpeakCommand, take_flag, validated

Message = str | bytes  # as a text frame or a binary one

_SOME_WORDS = "."  # for the rules of a text: nobody can say yet what a piece without words will become


@dataclass(frozen=True)
class UtteranceStats:
    """How a text went.

    duration_ms: of the audio. first_audio_ms, processing_time_ms: since it was its turn.
    """

    duration_ms: float
    first_audio_ms: float | None
    processing_time_ms: float
    cancelled: bool


class ResponseWriter(Protocol):
    """The messages that one text is answered with. They may be made in a thread, one after the other."""

    def started(self, request_id: str, engine: str) -> list[Message]:
        """Its first audio is there."""
        ...

    def chunk(self, samples: Samples) -> list[Message]:
        """Some audio of it, float32 (samples,) at 24 kHz."""
        ...

    def ended(self, figures: UtteranceStats) -> list[Message]: ...

    def failed(self, error: ServiceError) -> list[Message]: ...


class MessageProtocol(Protocol):
    """remembers: each text goes on from the one before, as the pieces of one text always do."""

    @property
    def remembers(self) -> bool: ...

    def read(self, message: str, *, continuing: bool) -> Command:
        """What a message asks for. continuing: the text before it is still open. Raises ServiceError."""
        ...

    def answer(self, say: SpeakCommand) -> ResponseWriter: ...

    def refused(self, error: ServiceError) -> list[Message]:
        """The answer to a message that cannot be done."""
        ...

    def farewell(self) -> list[Message]:
        """The last words to a client that has said it is done."""
        ...


def read_text(body: dict[str, Any], settings: Settings, *, continuing: bool) -> SpeakCommand:
    """A text, or a piece of one, with any of the parameters of /tts/generate. Raises ServiceError."""
    continues, binary = take_flag(body, "continue"), take_flag(body, "binary")
    text = body.get("text", "") if continuing else body.get("text")
    if (continues or continuing) and isinstance(text, str) and not text.strip():
        body = {**body, "text": _SOME_WORDS}
    job = validated(SpeechParameters, body).job(settings)
    return SpeakCommand(str(text), job, continues, binary, key_for(settings))


def dump(**fields: object) -> str:
    """JSON of the fields that are known."""
    return json.dumps({name: value for name, value in fields.items() if value is not None}, ensure_ascii=False)


def error_message(error: ServiceError) -> str:
    return dump(type="error", code=error.code, message=error.detail, retry_after=error.retry_after)


def float32_bytes(samples: Samples) -> bytes:
    """Little-endian float32, saturated."""
    return to_unit_range(samples).astype("<f4", copy=False).tobytes()
