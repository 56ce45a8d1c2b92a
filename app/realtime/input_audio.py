"""The user's audio: the buffer of the current turn, and where turns begin and end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine import SAMPLE_RATE

from ..audio.rate_converter import RateConverter, resample
from ..audio.thread_pool import run_in_thread
from ..errors import Unprocessable
from .audio_codec import AudioDecoder, Pcm, to_float
from .config import AudioFormat, ServerVad
from .echo_guard import EchoGuard
from .smart_turn import SECONDS, SmartTurn
from .turn_detector import TurnDetector, TurnEvent
from .vad import RATE, SileroVad, VadStream

MAX_TURN_SECONDS = 120  # a longer turn is cut by server VAD, and refused without it
_SPEECH_PADDING_MS = 96  # before a turn: the windows that detect its start
_FINISHED = 0.5  # probability from which a turn is taken for finished


class InputAudio:
    """One session's. Its methods are called one after the other.

    echo: what of the microphone is the assistant's own voice begins no turn.
    """

    def __init__(self, echo: EchoGuard) -> None:
        self._echo = echo
        self._vad: SileroVad | None = None
        self._smart_turn: SmartTurn | None = None
        self._format: AudioFormat | None = None
        self.detection: ServerVad | None = None  # None: the client tells where turns end
        self._decoder: AudioDecoder | None = None
        self._stream: VadStream | None = None
        self._resampler: RateConverter | None = None
        self._detector: TurnDetector | None = None
        self._pieces: list[Pcm] = []
        self._buffered = 0  # samples
        self._received = 0  # samples of the session
        self._detector_start = 0  # sample at which the detector began

    def configure(
        self,
        audio_format: AudioFormat,
        detection: ServerVad | None,
        vad: SileroVad | None,
        smart_turn: SmartTurn | None = None,
    ) -> None:
        """Set the format and the turn detection. A turn in progress goes on if they stay the same.

        vad: of the worker, if there is a detection. smart_turn: judges at each pause whether the turn is finished.
        """
        self._vad, self._smart_turn = vad, smart_turn
        if audio_format != self._format or self._decoder is None:
            self._format, self._decoder = audio_format, AudioDecoder(audio_format)
        if detection != self.detection:
            self.detection, self._detector, self._stream = detection, None, None

    @property
    def in_turn(self) -> bool:
        return self._detector is not None and self._detector.in_turn

    @property
    def buffered_ms(self) -> int:
        return self._milliseconds(self._buffered)

    @property
    def silence_ms(self) -> int:
        """Silence at the end of the turn so far."""
        return 0 if self._detector is None else self._detector.silence_ms

    async def append(self, audio: str) -> list[TurnEvent]:
        """Add base64 audio. Returns what it tells about turns; times are of the session's audio.

        Raises Unprocessable if it is invalid, or too much without turn detection.
        """
        return await run_in_thread(lambda: self._append(audio))

    def take(self, until_ms: int | None = None) -> Pcm:
        """Remove and return the buffered audio up to a time of the session, int16 (samples,) at 24 kHz."""
        if until_ms is None:
            pcm = self.peek()
            self.clear()
            return pcm
        pcm, at = self.peek(), self._offset(until_ms)
        self._keep(pcm[at:])
        return pcm[:at]

    def drop_before(self, start_ms: int) -> None:
        """Remove the audio before a time of the session."""
        self._keep(self.peek()[self._offset(start_ms) :])

    def peek(self) -> Pcm:
        """The buffered audio."""
        return np.concatenate([np.zeros(0, np.int16), *self._pieces])

    def clear(self) -> None:
        self._pieces, self._buffered = [], 0
        if self._detector is not None:
            self._detector.reset()

    # ---- in a thread

    def _append(self, audio: str) -> list[TurnEvent]:
        assert self._decoder is not None, "configure() comes first"
        pcm = self._decoder.decode(audio)
        limit = MAX_TURN_SECONDS * SAMPLE_RATE
        if self.detection is None and self._buffered + pcm.size > limit:
            raise Unprocessable(
                f"the buffer holds {self.buffered_ms / 1000:.0f} seconds of audio, and {MAX_TURN_SECONDS} at most fit: "
                "commit or clear it",
                code="input_audio_too_long",
            )
        self._pieces.append(pcm)
        self._buffered += pcm.size
        self._received += pcm.size
        if self.detection is None:
            return []
        events = self._detect(pcm)
        if self._detector is not None and self._detector.in_turn and self._buffered > limit:
            events.append(self._shifted(self._detector.stop()))
        if not self.in_turn and not events:
            self._trim()
        return events

    def _detect(self, pcm: Pcm) -> list[TurnEvent]:
        assert self.detection is not None
        if self._detector is None or self._stream is None or self._resampler is None:
            assert self._vad is not None
            self._detector = TurnDetector(self.detection.threshold, self.detection.silence_duration_ms)
            self._stream, self._resampler = VadStream(self._vad), RateConverter(SAMPLE_RATE, RATE)
            self._detector_start = self._received - pcm.size
        self._stream.push(self._resampler.push(to_float(pcm)))
        events = []
        while (window := self._stream.next_window()) is not None:
            self._echo.listen(window.copy())
            probability = self._stream.step()
            if probability >= self.detection.threshold and not self._detector.in_turn and self._echo.is_echo():
                probability = 0.0
            if event := self._detector.push(probability):
                events.append(self._shifted(event))
                if event.kind == "paused" and self._sounds_finished(events[-1].at_ms):
                    events.append(self._shifted(self._detector.stop()))
        return events

    def _sounds_finished(self, at_ms: int) -> bool:
        """Whether the turn, as it was at a time of the session, needs no more words."""
        if self._smart_turn is None:
            return False
        turn = self.peek()[: self._offset(at_ms)][-SECONDS * SAMPLE_RATE :]
        return self._smart_turn.finished(resample(to_float(turn), SAMPLE_RATE, RATE)) >= _FINISHED

    def _shifted(self, event: TurnEvent) -> TurnEvent:
        """With its time on the session's clock."""
        return replace(event, at_ms=event.at_ms + self._milliseconds(self._detector_start))

    def _trim(self) -> None:
        """Between turns, keep only what belongs to a turn that begins now."""
        assert self.detection is not None
        kept = (self.detection.prefix_padding_ms + _SPEECH_PADDING_MS) * SAMPLE_RATE // 1000
        while self._pieces and self._buffered - self._pieces[0].size >= kept:
            self._buffered -= self._pieces.pop(0).size

    def _offset(self, at_ms: int) -> int:
        """The sample of the buffer at a time of the session."""
        start = self._received - self._buffered
        return min(max(at_ms * SAMPLE_RATE // 1000 - start, 0), self._buffered)

    def _keep(self, pcm: Pcm) -> None:
        self._pieces, self._buffered = [pcm], pcm.size

    @staticmethod
    def _milliseconds(samples: int) -> int:
        return samples * 1000 // SAMPLE_RATE
