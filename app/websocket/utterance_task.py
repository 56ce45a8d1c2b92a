"""State of the text that is being spoken: its jobs, its response messages, its log record and statistics."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from engine import FRAME_SAMPLES, SpeechSegment, has_words

from ..audio.encoders.base import Samples
from ..audio.postprocessing import make_effect
from ..audio.timeline import Timeline
from ..errors import ServiceError
from ..observability.request_log import RequestRecord
from ..observability.underruns import UnderrunMeter
from ..schemas.speech import SpeechJob
from .messages import SpeakCommand
from .protocol import Message, ResponseWriter, UtteranceStats


class UtteranceTask:
    """record: of this text alone; `close` ends it."""

    def __init__(self, command: SpeakCommand, writer: ResponseWriter, record: RequestRecord) -> None:
        self.writer = writer
        self.effect = make_effect(watermark_key=command.watermark_key, sample_rate=command.sample_rate)
        self.timeline: Timeline | None = None  # of the current piece, if the client wants to know
        self.started = False  # the started message has been sent
        self.samples_sent = 0
        self._command = command
        self.job = command.job  # as it is spoken, once its voice is resolved
        self.record = record
        self._samples_generated = 0  # by the engine, over all pieces
        self.pieces = 0  # that were generated
        self._speech_timer = 0.0
        self._underruns = UnderrunMeter()
        record.voice = command.job.voice_name
        record.format = "float32" if command.audio_format is None else command.audio_format.name

    @property
    def is_processed(self) -> bool:
        """Whether samples take time before they are sent: for an effect, or an encoder."""
        return self.effect is not None or self._command.audio_format is not None

    def next_job(self, piece: str, history: tuple[SpeechSegment, ...], *, last: bool) -> SpeechJob | None:
        """The job for the next piece, continuing history; None without words, or at the limit of the audio."""
        job, request = self.job, self.job.request
        if request.normalize and not has_words(piece):
            return None
        max_frames = None
        if request.max_frames is not None:
            max_frames = request.max_frames - -(-self._samples_generated // FRAME_SAMPLES)
            if max_frames < 1:
                return None
        self.pieces += 1
        request = replace(
            request,
            text=piece,
            history=history,
            max_frames=max_frames,
            trim_start_milliseconds=request.trim_start_milliseconds if self.pieces == 1 else 0,
            trim_end_milliseconds=request.trim_end_milliseconds if last else 0,
        )
        return replace(job, request=request)

    def begin_timeline(self, piece: str, text_at: int) -> None:
        """text_at: where the piece begins in the whole text."""
        if self._command.timestamps:
            self.timeline = Timeline(piece, self._command.speed, text_at=text_at, samples_at=self._samples_generated)

    def admitted(self) -> None:
        """Called when the current piece has a slot."""
        self.record.admit()
        self._speech_timer = time.monotonic()

    def start(self, engine: str) -> list[Message]:
        self.started = True
        return self.writer.started(self.record.request_id, engine)

    def postprocess(self, samples: Samples) -> Callable[[], Samples]:
        """A function that applies the effect to samples of the engine; it may run in a thread."""
        self._samples_generated += samples.size
        effect = self.effect
        return (lambda: samples) if effect is None else (lambda: effect.push(samples))

    def before_send(self) -> None:
        """Called when audio is about to be sent."""
        now = time.monotonic()
        self._underruns.ready(now)
        if not self._command.continues:  # else the audio may be late because the client's text is
            self.record.underrun_seconds = self._underruns.worst
        if self.record.first_audio_seconds is None:
            self.record.first_audio_seconds = now - self.record.started

    def after_send(self, samples: int) -> None:
        """Called when audio has been sent. samples: how many."""
        now = time.monotonic()
        self.samples_sent += samples
        self.record.audio_seconds = self.samples_sent / self._command.sample_rate
        self.record.speech_seconds = (self.record.speech_seconds or 0.0) + now - self._speech_timer
        self._speech_timer = now
        self._underruns.sent(now, self.samples_sent / self._command.sample_rate)

    # ---- outcomes

    def completed(self) -> list[Message]:
        self.record.outcome = "ok"
        return self.writer.completed(self._stats(cancelled=False))

    def cancelled(self) -> list[Message]:
        self.record.outcome = "left"
        return self.writer.completed(self._stats(cancelled=True))

    def failed(self, error: ServiceError) -> list[Message]:
        self.record.code = error.code
        if error.code == "draining":
            self.record.outcome = "drained"
        else:
            self.record.outcome = "failed" if self.started or error.status == 500 else "refused"
        return self.writer.failed(error)

    def close(self) -> None:
        """Write the log record."""
        self.record.outcome = self.record.outcome or "left"
        self.record.end()

    def _stats(self, *, cancelled: bool) -> UtteranceStats:
        first = self.record.first_audio_seconds
        return UtteranceStats(
            duration_ms=1000 * self.samples_sent / self._command.sample_rate,
            first_audio_ms=None if first is None else 1000 * first,
            processing_time_ms=1000 * (time.monotonic() - self.record.started),
            cancelled=cancelled,
        )
