"""WS /ws: JSON in, JSON with base64 audio out; binary audio where a text asks for it.

    {"text": "Hello.", "voice_id": "amy", "seed": 1}            a text, with any parameter of /tts/generate
    {"text": "Once upon a ti", "continue": true}                a text as it is written: said sentence by sentence
    {"text": "me. The end."}                                    ... and its end; "text": "" ends it too
    {"type": "cancel"}, {"type": "cancel", "all": true}         stop the current text; and those that wait, too

The parameters of a continued text are those of its first message. `format` changes nothing: audio is float32.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from engine import SAMPLE_RATE

from ..audio.encoders.base import Samples
from ..errors import ServiceError
from ..settings import Settings
from .messages import Command, SpeakCommand, parse_control, parse_object
from .protocol import Message, UtteranceStats, dump, error_message, float32_bytes, read_text


@dataclass(frozen=True)
class JsonProtocol:
    settings: Settings
    remembers: bool = False

    def read(self, message: str, *, continuing: bool) -> Command:
        body = parse_object(message)
        return parse_control(body) or read_text(body, self.settings, continuing=continuing)

    def answer(self, say: SpeakCommand) -> JsonResponseWriter:
        return JsonResponseWriter(say)

    def refused(self, error: ServiceError) -> list[Message]:
        return [error_message(error)]

    def farewell(self) -> list[Message]:
        return []


class JsonResponseWriter:
    def __init__(self, say: SpeakCommand) -> None:
        self._say = say
        self._request_id: str | None = None
        self._chunks = 0

    def started(self, request_id: str, engine: str) -> list[Message]:
        self._request_id = request_id
        return [
            dump(
                type="audio_status",
                status="started",
                request_id=request_id,
                voice_id=self._say.job.voice_id,
                engine=engine,
                sample_rate=SAMPLE_RATE,
                channels=1,
                format="float32",
            )
        ]

    def chunk(self, samples: Samples) -> list[Message]:
        index, self._chunks = self._chunks, self._chunks + 1
        data = float32_bytes(samples)
        if self._say.binary:
            return [data]
        audio = base64.b64encode(data).decode()
        return [f'{{"type":"audio_chunk","audio":"{audio}","sample_rate":{SAMPLE_RATE},"index":{index}}}']

    def ended(self, figures: UtteranceStats) -> list[Message]:
        seconds = figures.duration_ms / 1000
        factor = figures.processing_time_ms / 1000 / seconds if seconds else None
        return [
            dump(
                type="completion",
                request_id=self._request_id,
                duration_ms=round(figures.duration_ms),
                chunks=self._chunks,
                first_audio_ms=None if figures.first_audio_ms is None else round(figures.first_audio_ms),
                processing_time_ms=round(figures.processing_time_ms),
                real_time_factor=None if factor is None else round(factor, 3),
                cancelled=figures.cancelled or None,
            )
        ]

    def failed(self, error: ServiceError) -> list[Message]:
        return [error_message(error)]
