"""One text while it is told: what it is answered with, and the account of how it goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from engine import FRAME_SAMPLES, SAMPLE_RATE, SpeechSegment

from ..audio.encoders.base import Samples
from ..audio.postprocessing import make_effect
from ..errors import ServiceError
from ..observability.request_log import RequestRecord
from ..observability.underruns import UnderrunMeter
from ..schemas.speech import SpeechJob
from .messages import SpeakCommand
from .protocol import Message, ResponseWriter, UtteranceStats


class UtteranceTask:
    """record: of this text alone; it ends with `close`."""

    def __init__(self, say: SpeakCommand, answer: ResponseWriter, record: RequestRecord) -> None:
        self.answer = answer
        self.effect = make_effect(key=say.key)
        self.begun = False  # the client was told that it started
        self.samples = 0  # that were sent
        self._say = say
        self._record = record
        self._spoken = 0  # samples that the engine gave, all pieces together
        self._pieces = 0
        self._piece_began = 0.0
        self._pacing = UnderrunMeter()
        record.voice = say.job.voice_id or "default"
        record.format = "float32"

    def next_order(self, piece: str, said: tuple[SpeechSegment, ...], *, last: bool) -> SpeechJob | None:
        """How to say the next piece, behind what was said; None if the text has had all the audio it may have."""
        job, speech = self._say.job, self._say.job.speech
        left = None if speech.max_frames is None else speech.max_frames - self._spoken // FRAME_SAMPLES
        if left is not None and left < 1:
            return None
        self._pieces += 1
        speech = replace(
            speech,
            text=piece,
            history=said,
            max_frames=left,
            trim_start_milliseconds=speech.trim_start_milliseconds if self._pieces == 1 else 0,
            trim_end_milliseconds=speech.trim_end_milliseconds if last else 0,
        )
        return replace(job, speech=speech)

    def admitted(self) -> None:
        """The piece has its slot."""
        self._record.admit()
        self._piece_began = time.monotonic()

    def begin(self, engine: str) -> list[Message]:
        self.begun = True
        return self.answer.started(self._record.request_id, engine)

    def finishing(self, samples: Samples) -> Callable[[], Samples]:
        """What gives samples of the engine their finish."""
        self._spoken += samples.size
        effect = self.effect
        return (lambda: samples) if effect is None else (lambda: effect.push(samples))

    def ready(self) -> None:
        """Some audio is about to be sent."""
        now = time.monotonic()
        self._pacing.ready(now)
        if not self._say.continues:  # else it waits for whoever writes the text, too
            self._record.underrun_seconds = self._pacing.worst
        if self._record.first_audio_seconds is None:
            self._record.first_audio_seconds = now - self._record.started

    def sent(self, samples: int) -> None:
        now = time.monotonic()
        self.samples += samples
        self._record.audio_seconds = self.samples / SAMPLE_RATE
        self._record.speech_seconds = (self._record.speech_seconds or 0.0) + now - self._piece_began
        self._piece_began = now
        self._pacing.sent(now, self.samples / SAMPLE_RATE)

    # ---- its end

    def ended(self) -> list[Message]:
        self._record.outcome = "ok"
        return self.answer.ended(self._figures(cancelled=False))

    def cancelled(self) -> list[Message]:
        self._record.outcome = "left"
        return self.answer.ended(self._figures(cancelled=True))

    def failed(self, error: ServiceError) -> list[Message]:
        self._record.code = error.code
        if error.code == "draining":
            self._record.outcome = "drained"
        else:
            self._record.outcome = "failed" if self.begun or error.status == 500 else "refused"
        return self.answer.failed(error)

    def close(self) -> None:
        self._record.outcome = self._record.outcome or "left"
        self._record.end()

    def _figures(self, *, cancelled: bool) -> UtteranceStats:
        first = self._record.first_audio_seconds
        return UtteranceStats(
            duration_ms=1000 * self.samples / SAMPLE_RATE,
            first_audio_ms=None if first is None else 1000 * first,
            processing_time_ms=1000 * (time.monotonic() - self._record.started),
            cancelled=cancelled,
        )
