"""Whether a listener had something to hear all the time: the account of one stream's audio against the clock."""

from __future__ import annotations


class UnderrunMeter:
    """A stream underruns when the audio sent so far is shorter than the time since its first audio was sent.

    Time in which a send waited for a full buffer does not count: such a listener has seconds of audio in store.
    Times are of a monotonic clock, in seconds.
    """

    def __init__(self) -> None:
        self._first: float | None = None
        self._ready = 0.0
        self._held = 0.0  # seconds that sends took
        self._sent = 0.0  # seconds of audio
        self.worst = 0.0  # the longest that the listener was without audio, in seconds; 0 is never

    def ready(self, now: float) -> None:
        """The next piece of audio exists, and is about to be sent."""
        self._ready = now
        if self._first is not None:
            self.worst = max(self.worst, now - self._first - self._held - self._sent)

    def sent(self, now: float, audio_seconds: float) -> None:
        """It was sent. audio_seconds: of the whole stream so far."""
        if self._first is None:
            self._first = now
        else:
            self._held += now - self._ready
        self._sent = audio_seconds
