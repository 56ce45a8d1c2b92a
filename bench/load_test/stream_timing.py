"""The account of one stream: when its first sample came, and whether there was always something to hear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .audio_meters import SAMPLE_RATE

End = Literal["whole", "cut", "rejected", "silent", "unreachable", "left"]


@dataclass(frozen=True)
class RequestResult:
    """How one request went. Times are in seconds; of those that are moments, zero is the start of the trial.

    end: whole; cut (the connection ended before the audio did); rejected (another status than 200); silent (no sound
        by the end of the trial, or none at all); unreachable; left (still speaking when the trial ended, and left).
    measured: it was due in the seconds that count.
    late: how much later it was sent than it was due: the fault of the one who measures.
    first_audio: from before the connection was made to the first sample; None if none came.
    underrun: the longest that a listener was without sound. gap: the longest between two arrivals.
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
    """Fed with every arrival. A stream underruns when the audio so far is shorter than the time since its first.

    sent: when the request was.
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
        """Seconds that can be heard so far."""
        return self._samples / SAMPLE_RATE

    @property
    def first_audio(self) -> float | None:
        return None if self.first is None else self.first - self._sent

    def hear(self, now: float, samples: int) -> None:
        """So many samples came, at least one."""
        if self.first is None:
            self.first = now
        else:
            self.underrun = max(self.underrun, now - self.first - self.audio)
            self.gap = max(self.gap, now - self._last)
        self._samples += samples
        self._last = now
