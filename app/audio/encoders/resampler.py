"""Streaming resampling from the engine's rate, with FFmpeg's swresample.

FFmpeg can also resample with soxr, but PyAV's wheels are built without it. These settings of swresample's own filter
keep 8 kHz speech flat to 3.7 kHz and everything that would alias 120 dB below the signal.
"""

from __future__ import annotations

from engine import SAMPLE_RATE

from ..filter_graph import FilterGraph
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
        self._graph = FilterGraph([("aresample", f"{rate}:{_FILTER}")])

    def push(self, samples: Samples) -> Samples:
        """Push float32 (samples,) at 24 kHz; return the samples that are ready."""
        return self._graph.push(samples)

    def flush(self) -> Samples:
        """The remaining samples. Must not be used afterwards."""
        return self._graph.flush(round(self._graph.samples_in * self._rate / SAMPLE_RATE))
