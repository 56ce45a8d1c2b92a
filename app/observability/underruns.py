"""Underrun meter: compares the audio sent on one stream with the time since its first audio."""

from __future__ import annotations


class UnderrunMeter:
    """A stream underruns when the audio sent so far is shorter than the time since its first audio was sent.

    Time spent waiting on a full buffer does not count: such a client has seconds of audio buffered.
    Times are of a monotonic clock, in seconds.
    """

    def __init__(self) -> None:
        self._first: float | None = None
        self._ready = 0.0
        self._blocked = 0.0  # seconds spent in sends
        self._sent = 0.0  # seconds of audio
        self.worst = 0.0  # the longest gap, in seconds; 0 for none

    def ready(self, now: float) -> None:
        """The next audio is about to be sent."""
        self._ready = now
        if self._first is not None:
            self.worst = max(self.worst, now - self._first - self._blocked - self._sent)

    def sent(self, now: float, audio_seconds: float) -> None:
        """It was sent. audio_seconds: of the stream so far."""
        if self._first is None:
            self._first = now
        else:
            self._blocked += now - self._ready
        self._sent = audio_seconds
