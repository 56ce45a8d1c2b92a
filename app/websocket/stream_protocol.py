"""WS /stream: the texts of one conversation; each is answered with one wav file and continues the previous one."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np

from engine import SAMPLE_RATE

from ..audio.encoders import wav_file
from ..audio.encoders.base import Samples
from ..audio.timeline import ChunkMark
from ..errors import ServiceError, Unprocessable
from ..schemas.legacy import TextParameters
from ..settings import Settings
from .messages import CloseCommand, Command, SpeakCommand, parse_control, parse_object, pop_flag, validate
from .protocol import Message, UtteranceStats, to_json

_NO_TEXT = Unprocessable("No text provided", code="no_text")
DEFAULT_MAX_AUDIO_MS = 30_000  # of one text


@dataclass(frozen=True)
class StreamProtocol:
    """seed: used for every text of the connection."""

    settings: Settings
    seed: int
    keeps_history: bool = True

    def parse(self, message: str, *, continuing: bool) -> Command:
        body = parse_object(message)
        if pop_flag(body, "done"):
            return CloseCommand()
        control = parse_control(body)
        if control is not None:
            return control
        text = body.get("text", "")
        if isinstance(text, str) and not text.strip():
            raise _NO_TEXT
        parameters = validate(TextParameters, {"max_audio_length_ms": DEFAULT_MAX_AUDIO_MS, **body})
        return SpeakCommand(
            parameters.text,
            parameters.to_job(self.settings, self.seed),
            watermark_key=parameters.resolve_watermark_key(self.settings),
        )

    def create_writer(self, command: SpeakCommand) -> StreamResponseWriter:
        return StreamResponseWriter(command.text)

    def rejected(self, error: ServiceError) -> list[Message]:
        return [to_json(error=error.detail, code=None if error is _NO_TEXT else error.code)]

    def close_code(self, error: ServiceError) -> int | None:
        return None

    def closing(self) -> list[Message]:
        return [to_json(status="closed")]


class StreamResponseWriter:
    def __init__(self, text: str) -> None:
        self._text = text
        self._samples: list[Samples] = []

    def started(self, request_id: str, engine: str) -> list[Message]:
        return []

    def chunk(self, samples: Samples) -> list[Message]:
        self._samples.append(samples)
        return []

    def mark(self, mark: ChunkMark) -> list[Message]:
        return []

    def completed(self, stats: UtteranceStats) -> list[Message]:
        if stats.cancelled:
            return [to_json(error="cancelled", code="cancelled", text=self._text)]
        audio = wav_file(np.concatenate([np.zeros(0, np.float32), *self._samples]))
        return [
            to_json(
                audio_base64=base64.b64encode(audio).decode(),
                sample_rate=SAMPLE_RATE,
                processing_time_ms=round(stats.processing_time_ms, 1),
                text=self._text,
            )
        ]

    def failed(self, error: ServiceError) -> list[Message]:
        return [to_json(error=error.detail, code=error.code, text=self._text)]
