"""How loud a recording is from moment to moment, and where its speaker pauses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine import SAMPLE_RATE

from .audio import Samples

STEP_SECONDS = 0.01
_STEP = round(STEP_SECONDS * SAMPLE_RATE)
_NOTHING = 1e-6  # digital silence, as -120 dB

Decibels = npt.NDArray[np.float64]  # (steps,) relative to full scale


@dataclass(frozen=True)
class Loudness:
    """levels: of every 10 ms. speech: of its loud parts. silence: below this, nobody speaks."""

    levels: Decibels
    speech: float
    silence: float

    @classmethod
    def of(cls, samples: Samples) -> Loudness:
        """Silence lies 35 dB below speech, or closer to it where the room itself is louder than that."""
        steps = np.pad(samples, (0, -samples.size % _STEP)).reshape(-1, _STEP).astype(np.float64)
        levels = 20 * np.log10(np.sqrt((steps**2).mean(axis=1)) + _NOTHING)
        speech = float(np.percentile(levels[levels > levels.max() - 40], 95))  # however little of it there is
        room = float(np.percentile(levels, 5))
        return cls(levels, speech, max(speech - 35, room + 0.3 * (speech - room)))

    def pauses(self, shortest_seconds: float) -> list[tuple[float, float]]:
        """Where nobody speaks for at least so long: (start, end) in seconds, in order."""
        quiet = np.concatenate(([False], self.levels < self.silence, [False]))
        edges = np.flatnonzero(quiet[1:] != quiet[:-1])
        spans = [(float(start) * STEP_SECONDS, float(end) * STEP_SECONDS) for start, end in edges.reshape(-1, 2)]
        return [(start, end) for start, end in spans if end - start >= shortest_seconds - STEP_SECONDS / 2]

    @property
    def lead_seconds(self) -> float:
        """Before the first word."""
        return float(np.argmax(self.levels >= self.silence)) * STEP_SECONDS

    @property
    def tail_seconds(self) -> float:
        """Behind the last word."""
        return float(np.argmax(self.levels[::-1] >= self.silence)) * STEP_SECONDS
