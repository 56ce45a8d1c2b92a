"""Timing of one stream: first audio, underruns and gaps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .audio_meters import SAMPLE_RATE

End = Literal["whole", "cut", "rejected", "silent", "unreachable", "left"]


@dataclass(frozen=True)
class RequestResult:
    """Result of one request. Times are in seconds; points in time count from the start of the trial.

    end: whole (complete); cut (the connection ended before the audio); rejected (status other than 200); silent (no
        audio); unreachable (no connection); left (still streaming when the trial ended, aborted by the client).
    measured: it was due within the measured seconds.
    late: how much later than due it was sent, a delay of the load generator.
    first_audio: from before the connection was made to the first sample; None if none arrived.
    underrun: longest pause in playback. gap: longest time between two arrivals.
    """

    measured: bool
    sent: float
    late: float
    ended: float
    end: End
    status: int | str | None
    first_audio: float | None
    audio: float
    underrun: float
    gap: float

    @property
    def answered(self) -> bool:
        return self.end in ("whole", "left")


class StreamTiming:
    """Tracks audio arrivals. A stream underruns when its audio so far is shorter than the time since its first sample.

    sent: time at which the request was sent.
    """

    def __init__(self, sent: float) -> None:
        self.first: float | None = None
        self.underrun = 0.0
        self.gap = 0.0
        self._sent = sent
        self._last = 0.0
        self._samples = 0

    @property
    def audio(self) -> float:
        """Seconds of audio received so far."""
        return self._samples / SAMPLE_RATE

    @property
    def first_audio(self) -> float | None:
        return None if self.first is None else self.first - self._sent

    def add(self, now: float, samples: int) -> None:
        """Record the arrival of `samples` samples, at least one."""
        if self.first is None:
            self.first = now
        else:
            self.underrun = max(self.underrun, now - self.first - self.audio)
            self.gap = max(self.gap, now - self._last)
        self._samples += samples
        self._last = now
