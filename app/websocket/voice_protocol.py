"""WS /api/{voice_name}: text in, plain or as JSON; binary messages of float32 audio out, then a completion."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..audio.encoders.base import Samples
from ..audio.timeline import ChunkMark
from ..errors import ServiceError, Unprocessable
from ..settings import Settings
from ..voices.voice_id import canonical_id
from .messages import Command, SpeakCommand, parse_control
from .protocol import Message, UtteranceStats, error_message, float32_bytes, parse_speak_command, to_json


@dataclass(frozen=True)
class VoiceProtocol:
    """voice_id: the voice of every text on the connection."""

    settings: Settings
    voice_id: str
    keeps_history: bool = False

    def parse(self, message: str, *, continuing: bool) -> Command:
        body = _parse_object_or_text(message)
        control = parse_control(body)
        if control is not None:
            return control
        voice_id = body.setdefault("voice_id", self.voice_id)
        if not isinstance(voice_id, str) or canonical_id(voice_id) != canonical_id(self.voice_id):
            raise Unprocessable(
                f"voice_id: it must be {self.voice_id} on this connection; connect to /api/ of the other voice, "
                "or use /ws",
                code="invalid_parameter",
            )
        return parse_speak_command(body, self.settings, continuing=continuing)

    def create_writer(self, command: SpeakCommand) -> VoiceResponseWriter:
        return VoiceResponseWriter()

    def rejected(self, error: ServiceError) -> list[Message]:
        return [error_message(error)]

    def close_code(self, error: ServiceError) -> int | None:
        return None

    def closing(self) -> list[Message]:
        return []


class VoiceResponseWriter:
    def started(self, request_id: str, engine: str) -> list[Message]:
        return []

    def chunk(self, samples: Samples) -> list[Message]:
        return [float32_bytes(samples)]

    def mark(self, mark: ChunkMark) -> list[Message]:
        return []

    def completed(self, stats: UtteranceStats) -> list[Message]:
        return [to_json(type="completion", cancelled=stats.cancelled or None)]

    def failed(self, error: ServiceError) -> list[Message]:
        return [error_message(error)]


def _parse_object_or_text(message: str) -> dict[str, Any]:
    """A message that is a JSON object, parsed; any other message is plain text."""
    if message.lstrip().startswith("{"):
        try:
            body = json.loads(message)
        except (ValueError, RecursionError):
            return {"text": message}
        if isinstance(body, dict):
            return body
    return {"text": message}
