"""Streaming time stretch: changes the speed of speech and keeps its pitch, with FFmpeg's atempo filter (WSOLA)."""

from __future__ import annotations

import math

import av
import numpy as np
from av.audio.frame import AudioFrame

from engine import SAMPLE_RATE

from .encoders.base import Samples

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
        self._samples_in = self._samples_out = 0
        self._graph = av.filter.Graph()
        self._source = self._graph.add_abuffer(sample_rate=SAMPLE_RATE, format="flt", layout="mono")
        self._sink = self._graph.add("abuffersink")
        last = self._source
        for factor in split_speed(speed):
            stretch = self._graph.add("atempo", f"{factor:.6f}")
            last.link_to(stretch)
            last = stretch
        last.link_to(self._sink)
        self._graph.configure()

    def push(self, samples: Samples) -> Samples:
        """Push float32 (samples,) at 24 kHz; return the samples that are ready."""
        if not samples.size:
            return samples
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples[np.newaxis]), format="flt", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        frame.pts = self._samples_in
        self._samples_in += samples.size
        self._source.push(frame)
        stretched = self._pull()
        self._samples_out += stretched.size
        return stretched

    def flush(self) -> Samples:
        """The remaining samples. Must not be used afterwards."""
        self._source.push(None)
        tail = self._pull()
        missing = round(self._samples_in / self._speed) - self._samples_out  # the filter is off by some milliseconds
        return np.concatenate([tail[: max(missing, 0)], np.zeros(max(missing - tail.size, 0), np.float32)])

    def _pull(self) -> Samples:
        pulled: list[Samples] = []
        while True:
            try:
                frame = self._sink.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return np.concatenate(pulled) if pulled else np.zeros(0, np.float32)
            assert isinstance(frame, AudioFrame)
            pulled.append(np.asarray(frame.to_ndarray().reshape(-1), np.float32))


def split_speed(speed: float) -> list[float]:
    """A speed split into equal factors, none beyond what one filter stretches well."""
    steps = max(1, math.ceil(abs(math.log(speed, _MAX_FACTOR)) - 1e-9))
    return [speed ** (1 / steps)] * steps
