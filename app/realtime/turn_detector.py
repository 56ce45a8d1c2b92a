"""Where the user's turn begins and ends, from the probabilities of speech. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WINDOW_MS = 32  # of one probability
_START_WINDOWS = 2  # with speech that begin a turn: a click is shorter
_HYSTERESIS = 0.15  # below the threshold: silence
_CHECKPOINT_MS = 160  # of silence after which the turn may turn out to be over

TurnEventKind = Literal["started", "paused", "resumed", "stopped"]


@dataclass(frozen=True)
class TurnEvent:
    """started: speech began. paused: it may be over. resumed: it was not. stopped: the turn is over.

    at_ms: since the first window: the start of the speech, or the end of the last window.
    silence_ms: at the end of a turn that stopped.
    """

    kind: TurnEventKind
    at_ms: int
    silence_ms: int = 0


class TurnDetector:
    """threshold: probability from which a window holds speech. silence_ms: that ends a turn."""

    def __init__(self, threshold: float, silence_ms: int) -> None:
        self._threshold = threshold
        self._silence_windows = max(-(-silence_ms // WINDOW_MS), 1)
        self._checkpoint = min(max(_CHECKPOINT_MS // WINDOW_MS, 1), max(self._silence_windows - 1, 1))
        self._windows = 0
        self._voiced = 0  # windows with speech in a row, before a turn
        self._silent = 0  # windows since the last speech, in a turn
        self.in_turn = False

    @property
    def voiced(self) -> bool:
        """The user speaks, or seems to begin."""
        return self._voiced > 0 if not self.in_turn else self._silent == 0

    def push(self, probability: float) -> TurnEvent | None:
        """Take the probability of the next window."""
        self._windows += 1
        if not self.in_turn:
            self._voiced = self._voiced + 1 if probability >= self._threshold else 0
            if self._voiced < _START_WINDOWS:
                return None
            self.in_turn, self._silent = True, 0
            return TurnEvent("started", (self._windows - _START_WINDOWS) * WINDOW_MS)
        if probability >= self._threshold:
            paused, self._silent = self._silent >= self._checkpoint, 0
            return self._event("resumed") if paused else None
        if self._silent or probability < self._threshold - _HYSTERESIS:
            self._silent += 1
            if self._silent >= self._silence_windows:
                return self.stop()
            if self._silent == self._checkpoint:
                return self._event("paused")
        return None

    def stop(self) -> TurnEvent:
        """End the turn now."""
        event = TurnEvent("stopped", self._windows * WINDOW_MS, self.silence_ms)
        self.reset()
        return event

    def reset(self) -> None:
        """Forget the turn."""
        self.in_turn, self._voiced, self._silent = False, 0, 0

    @property
    def silence_ms(self) -> int:
        """Silence at the end of the turn so far."""
        return self._silent * WINDOW_MS

    def _event(self, kind: TurnEventKind) -> TurnEvent:
        return TurnEvent(kind, self._windows * WINDOW_MS)
