"""Streaming resampling from the engine's rate, with FFmpeg's swresample.

FFmpeg can also resample with soxr, but PyAV's wheels are built without it. These settings of swresample's own filter
keep 8 kHz speech flat to 3.7 kHz and everything that would alias 120 dB below the signal.
"""

from __future__ import annotations

import av
import numpy as np
from av.audio.frame import AudioFrame

from engine import SAMPLE_RATE

from .base import Samples

MIN_RATE, MAX_RATE = 8_000, 48_000  # Hz

_FILTER = "filter_size=128:cutoff=0.97:filter_type=kaiser:kaiser_beta=12"  # delays the audio by 8 ms at most


class Resampler:
    """Resamples one response. The output has round(samples * rate / 24000) samples.

    rate: of the output, in Hz, from MIN_RATE to MAX_RATE.
    """

    def __init__(self, rate: int) -> None:
        if not MIN_RATE <= rate <= MAX_RATE:
            raise ValueError(f"rate must be from {MIN_RATE} to {MAX_RATE} Hz, not {rate}")
        self._rate = rate
        self._samples_in = self._samples_out = 0
        self._graph = av.filter.Graph()
        self._source = self._graph.add_abuffer(sample_rate=SAMPLE_RATE, format="flt", layout="mono")
        self._sink = self._graph.add("abuffersink")
        resample = self._graph.add("aresample", f"{rate}:{_FILTER}")
        self._source.link_to(resample)
        resample.link_to(self._sink)
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
        return self._pull()

    def flush(self) -> Samples:
        """The remaining samples. Must not be used afterwards."""
        self._source.push(None)
        before = self._samples_out
        tail = self._pull()
        missing = round(self._samples_in * self._rate / SAMPLE_RATE) - before
        return np.concatenate([tail[:missing], np.zeros(max(missing - tail.size, 0), np.float32)])

    def _pull(self) -> Samples:
        pulled: list[Samples] = []
        while True:
            try:
                frame = self._sink.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                ready = np.concatenate(pulled) if pulled else np.zeros(0, np.float32)
                self._samples_out += ready.size
                return ready
            assert isinstance(frame, AudioFrame)
            pulled.append(np.asarray(frame.to_ndarray().reshape(-1), np.float32))
