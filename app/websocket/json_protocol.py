"""WS /ws: JSON messages; audio as base64 in JSON, or as binary messages on request.

    {"text": "Hello.", "voice_id": "amy", "seed": 1}            a text, with any parameter of /tts/generate
    {"text": "Once upon a ti", "continue": true}                a text in pieces, spoken sentence by sentence
    {"text": "Hello.", "timestamps": true}                      also when each word is said: {"type": "mark", …}
    {"text": "me. The end."}                                    ... its last piece; "text": "" ends it too
    {"type": "cancel"}, {"type": "cancel", "all": true}         stop the current text; drop the queued ones too

The parameters of a text in pieces are those of its first message. `format` is ignored: audio is float32, at
`sample_rate`.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from ..audio.encoders.base import Samples
from ..audio.timeline import ChunkMark
from ..errors import ServiceError
from ..settings import Settings
from .messages import Command, SpeakCommand, parse_control, parse_object
from .protocol import Message, UtteranceStats, error_message, float32_bytes, parse_speak_command, to_json


@dataclass(frozen=True)
class JsonProtocol:
    settings: Settings
    keeps_history: bool = False

    def parse(self, message: str, *, continuing: bool) -> Command:
        body = parse_object(message)
        return parse_control(body) or parse_speak_command(body, self.settings, continuing=continuing)

    def create_writer(self, command: SpeakCommand) -> JsonResponseWriter:
        return JsonResponseWriter(command)

    def rejected(self, error: ServiceError) -> list[Message]:
        return [error_message(error)]

    def close_code(self, error: ServiceError) -> int | None:
        return None

    def closing(self) -> list[Message]:
        return []


class JsonResponseWriter:
    def __init__(self, command: SpeakCommand) -> None:
        self._command = command
        self._request_id: str | None = None
        self._chunks = 0

    def started(self, request_id: str, engine: str) -> list[Message]:
        self._request_id = request_id
        return [
            to_json(
                type="audio_status",
                status="started",
                request_id=request_id,
                voice_id=self._command.job.voice_id,
                engine=engine,
                sample_rate=self._command.sample_rate,
                channels=1,
                format="float32",
            )
        ]

    def chunk(self, samples: Samples) -> list[Message]:
        index, self._chunks = self._chunks, self._chunks + 1
        data = float32_bytes(samples)
        if self._command.binary:
            return [data]
        audio, rate = base64.b64encode(data).decode(), self._command.sample_rate
        return [f'{{"type":"audio_chunk","audio":"{audio}","sample_rate":{rate},"index":{index}}}']

    def mark(self, mark: ChunkMark) -> list[Message]:
        return [to_json(type="mark", **mark.as_fields())]

    def completed(self, stats: UtteranceStats) -> list[Message]:
        seconds = stats.duration_ms / 1000
        real_time_factor = stats.processing_time_ms / 1000 / seconds if seconds else None
        return [
            to_json(
                type="completion",
                request_id=self._request_id,
                duration_ms=round(stats.duration_ms),
                chunks=self._chunks,
                first_audio_ms=None if stats.first_audio_ms is None else round(stats.first_audio_ms),
                processing_time_ms=round(stats.processing_time_ms),
                real_time_factor=None if real_time_factor is None else round(real_time_factor, 3),
                cancelled=stats.cancelled or None,
            )
        ]

    def failed(self, error: ServiceError) -> list[Message]:
        return [error_message(error)]
