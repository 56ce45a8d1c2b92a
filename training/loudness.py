"""Energy-based pause detection: RMS level per 10 ms, speech level and silence threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine import SAMPLE_RATE

from .audio import Samples

STEP_SECONDS = 0.01
_STEP_SAMPLES = round(STEP_SECONDS * SAMPLE_RATE)
_EPSILON = 1e-6  # floor of -120 dB, for digital silence

Decibels = npt.NDArray[np.float64]  # (steps,) relative to full scale


@dataclass(frozen=True)
class Loudness:
    """RMS levels of a recording, in dBFS.

    levels: per 10 ms. speech_level: of its loud parts. silence_threshold: levels below it count as silence.
    """

    levels: Decibels
    speech_level: float
    silence_threshold: float

    @classmethod
    def from_samples(cls, samples: Samples) -> Loudness:
        """The threshold is 35 dB below speech, or closer to it if the noise floor is higher than that."""
        steps = np.pad(samples, (0, -samples.size % _STEP_SAMPLES)).reshape(-1, _STEP_SAMPLES).astype(np.float64)
        levels = 20 * np.log10(np.sqrt((steps**2).mean(axis=1)) + _EPSILON)
        # the loudest 40 dB only, so that the amount of silence does not matter
        speech_level = float(np.percentile(levels[levels > levels.max() - 40], 95))
        noise_floor = float(np.percentile(levels, 5))
        return cls(levels, speech_level, max(speech_level - 35, noise_floor + 0.3 * (speech_level - noise_floor)))

    def pauses(self, min_seconds: float) -> list[tuple[float, float]]:
        """Silences of at least `min_seconds`: (start, end) in seconds, in order."""
        quiet = np.concatenate(([False], self.levels < self.silence_threshold, [False]))
        edges = np.flatnonzero(quiet[1:] != quiet[:-1])
        spans = [(float(start) * STEP_SECONDS, float(end) * STEP_SECONDS) for start, end in edges.reshape(-1, 2)]
        return [(start, end) for start, end in spans if end - start >= min_seconds - STEP_SECONDS / 2]

    @property
    def leading_silence(self) -> float:
        """Seconds before the first word."""
        return float(np.argmax(self.levels >= self.silence_threshold)) * STEP_SECONDS

    @property
    def trailing_silence(self) -> float:
        """Seconds after the last word."""
        return float(np.argmax(self.levels[::-1] >= self.silence_threshold)) * STEP_SECONDS
