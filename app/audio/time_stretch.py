"""Speech quicker or slower at the pitch it has: FFmpeg's atempo (WSOLA), piece by piece."""

from __future__ import annotations

import math

import av
import numpy as np
from av.audio.frame import AudioFrame

from engine import SAMPLE_RATE

from .encoders.base import Samples

SLOWEST, FASTEST = 0.25, 4.0
_AT_ONCE = 2.0  # one filter does a factor of two well; more, and it begins to skip


class TimeStretch:
    """Stretches one answer. What comes out is as long as what goes in divided by the speed, to the sample.

    speed: from 0.25 to 4; 2 takes half the time. The first audio needs two to three frames of 80 ms.
    """

    def __init__(self, speed: float) -> None:
        if not SLOWEST <= speed <= FASTEST:
            raise ValueError(f"speed must be from {SLOWEST} to {FASTEST:g}, not {speed}")
        self._speed = speed
        self._taken = self._given = 0
        self._graph = av.filter.Graph()
        self._source = self._graph.add_abuffer(sample_rate=SAMPLE_RATE, format="flt", layout="mono")
        self._sink = self._graph.add("abuffersink")
        last = self._source
        for factor in factors(speed):
            stretch = self._graph.add("atempo", f"{factor:.6f}")
            last.link_to(stretch)
            last = stretch
        last.link_to(self._sink)
        self._graph.configure()

    def push(self, samples: Samples) -> Samples:
        """Take float32 (samples,) at 24 kHz; give back what is stretched by now."""
        if not samples.size:
            return samples
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples[np.newaxis]), format="flt", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        frame.pts = self._taken
        self._taken += samples.size
        self._source.push(frame)
        stretched = self._pull()
        self._given += stretched.size
        return stretched

    def flush(self) -> Samples:
        """The last of it. The stretch is of no use afterwards."""
        self._source.push(None)
        rest = self._pull()
        missing = round(self._taken / self._speed) - self._given  # the filter itself is off by some milliseconds
        return np.concatenate([rest[: max(missing, 0)], np.zeros(max(missing - rest.size, 0), np.float32)])

    def _pull(self) -> Samples:
        parts: list[Samples] = []
        while True:
            try:
                frame = self._sink.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return np.concatenate(parts) if parts else np.zeros(0, np.float32)
            assert isinstance(frame, AudioFrame)
            parts.append(np.asarray(frame.to_ndarray().reshape(-1), np.float32))


def factors(speed: float) -> list[float]:
    """A speed as steps that a filter does well one by one."""
    steps = max(1, math.ceil(abs(math.log(speed, _AT_ONCE)) - 1e-9))
    return [speed ** (1 / steps)] * steps
