"""How much of what was sent the listener has heard, reckoned from the clock. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class PlaybackClock:
    """Audio plays from when it arrives, one piece after the other; a gap is where the next piece came late.

    Times are of the monotonic clock, in seconds.
    """

    sent_seconds: float = 0.0
    _ends_at: float = 0.0

    def sent(self, seconds: float, now: float) -> None:
        """Record that audio was sent."""
        self.sent_seconds += seconds
        self._ends_at = max(self._ends_at, now) + seconds

    def playing(self, now: float) -> bool:
        return now < self._ends_at

    def stop(self, now: float) -> None:
        """Record that the client plays nothing more of it."""
        self.sent_seconds = self.heard_seconds(now)
        self._ends_at = min(self._ends_at, now)

    def heard_seconds(self, now: float) -> float:
        return self.sent_seconds - max(self._ends_at - now, 0.0)
