"""WS /stream: texts as a language model writes them; each is answered whole, and goes on from the one before."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np

from engine import SAMPLE_RATE

from ..audio.encoders import wav_file
from ..audio.encoders.base import Samples
from ..errors import ServiceError, Unprocessable
from ..schemas.legacy import TextParameters
from ..settings import Settings
from .messages import CloseCommand, Command, SpeakCommand, parse_control, parse_object, take_flag, validated
from .protocol import Message, UtteranceStats, dump

_NO_TEXT = Unprocessable("No text provided", code="no_text")
LONGEST_MS = 30_000  # of a text's audio, where it does not say


@dataclass(frozen=True)
class StreamProtocol:
    """seed: of every text of the connection."""

    settings: Settings
    seed: int
    remembers: bool = True

    def read(self, message: str, *, continuing: bool) -> Command:
        body = parse_object(message)
        if take_flag(body, "done"):
            return CloseCommand()
        control = parse_control(body)
        if control is not None:
            return control
        text = body.get("text", "")
        if isinstance(text, str) and not text.strip():
            raise _NO_TEXT
        parameters = validated(TextParameters, {"max_audio_length_ms": LONGEST_MS, **body})
        return SpeakCommand(
            parameters.text, parameters.job(self.settings, self.seed), key=parameters.key(self.settings)
        )

    def answer(self, say: SpeakCommand) -> StreamResponseWriter:
        return StreamResponseWriter(say.text)

    def refused(self, error: ServiceError) -> list[Message]:
        return [dump(error=error.detail, code=None if error is _NO_TEXT else error.code)]

    def farewell(self) -> list[Message]:
        return [dump(status="closed")]


class StreamResponseWriter:
    def __init__(self, text: str) -> None:
        self._text = text
        self._samples: list[Samples] = []

    def started(self, request_id: str, engine: str) -> list[Message]:
        return []

    def chunk(self, samples: Samples) -> list[Message]:
        self._samples.append(samples)
        return []

    def ended(self, figures: UtteranceStats) -> list[Message]:
        if figures.cancelled:
            return [dump(error="cancelled", code="cancelled", text=self._text)]
        audio = wav_file(np.concatenate([np.zeros(0, np.float32), *self._samples]))
        return [
            dump(
                audio_base64=base64.b64encode(audio).decode(),
                sample_rate=SAMPLE_RATE,
                processing_time_ms=round(figures.processing_time_ms, 1),
                text=self._text,
            )
        ]

    def failed(self, error: ServiceError) -> list[Message]:
        return [dump(error=error.detail, code=error.code, text=self._text)]
