"""Streaming time stretch: changes the speed of speech and keeps its pitch, with FFmpeg's atempo filter (WSOLA)."""

from __future__ import annotations

import math

from .encoders.base import Samples
from .filter_graph import FilterGraph

MIN_SPEED, MAX_SPEED = 0.25, 4.0
_MAX_FACTOR = 2.0  # of one filter; beyond it, atempo begins to skip


class TimeStretch:
    """Stretches one response. The output is as long as the input divided by the speed, to the sample.

    speed: from 0.25 to 4; 2 takes half the time. The first audio needs two to three frames of 80 ms.
    """

    def __init__(self, speed: float) -> None:
        if not MIN_SPEED <= speed <= MAX_SPEED:
            raise ValueError(f"speed must be from {MIN_SPEED} to {MAX_SPEED:g}, not {speed}")
        self._speed = speed
        self._graph = FilterGraph(("atempo", f"{factor:.6f}") for factor in split_speed(speed))

    def push(self, samples: Samples) -> Samples:
        """Push float32 (samples,) at 24 kHz; return the samples that are ready."""
        return self._graph.push(samples)

    def flush(self) -> Samples:
        """The remaining samples. Must not be used afterwards."""
        return self._graph.flush(round(self._graph.samples_in / self._speed))  # the filter is off by some milliseconds


def split_speed(speed: float) -> list[float]:
    """A speed split into equal factors, none beyond what one filter stretches well."""
    steps = max(1, math.ceil(abs(math.log(speed, _MAX_FACTOR)) - 1e-9))
    return [speed ** (1 / steps)] * steps
