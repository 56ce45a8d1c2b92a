"""WS /api/{voice_name}: text in, plain or as JSON; out come binary messages of float32 audio, then a completion."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..audio.encoders.base import Samples
from ..errors import ServiceError, Unprocessable
from ..settings import Settings
from .messages import Command, SpeakCommand, parse_control
from .protocol import Message, UtteranceStats, dump, error_message, float32_bytes, read_text


@dataclass(frozen=True)
class VoiceProtocol:
    """voice_id: who speaks on this connection."""

    settings: Settings
    voice_id: str
    remembers: bool = False

    def read(self, message: str, *, continuing: bool) -> Command:
        body = _object_or_text(message)
        control = parse_control(body)
        if control is not None:
            return control
        if body.setdefault("voice_id", self.voice_id) != self.voice_id:
            raise Unprocessable(
                f"voice_id: on this connection {self.voice_id} speaks; open one at /api/ of another voice, or use /ws",
                code="invalid_parameter",
            )
        return read_text(body, self.settings, continuing=continuing)

    def answer(self, say: SpeakCommand) -> VoiceResponseWriter:
        return VoiceResponseWriter()

    def refused(self, error: ServiceError) -> list[Message]:
        return [error_message(error)]

    def farewell(self) -> list[Message]:
        return []


class VoiceResponseWriter:
    def started(self, request_id: str, engine: str) -> list[Message]:
        return []

    def chunk(self, samples: Samples) -> list[Message]:
        return [float32_bytes(samples)]

    def ended(self, figures: UtteranceStats) -> list[Message]:
        return [dump(type="completion", cancelled=figures.cancelled or None)]

    def failed(self, error: ServiceError) -> list[Message]:
        return [error_message(error)]


def _object_or_text(message: str) -> dict[str, Any]:
    """A message that is a JSON object, as that; anything else is what it says."""
    if message.lstrip().startswith("{"):
        try:
            body = json.loads(message)
        except (ValueError, RecursionError):
            return {"text": message}
        if isinstance(body, dict):
            return body
    return {"text": message}
