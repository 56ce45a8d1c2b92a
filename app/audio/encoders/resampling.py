"""An encoder at another sample rate than the engine's."""

from __future__ import annotations

from .base import Encoder, Samples
from .pcm import to_unit_range
from .resampler import Resampler


class ResamplingEncoder:
    """Resamples from 24 kHz in front of an encoder of that rate. It returns nothing before there are samples."""

    def __init__(self, encoder: Encoder, sample_rate: int) -> None:
        self._encoder = encoder
        self._resampler = Resampler(sample_rate)

    def encode(self, samples: Samples) -> bytes:
        if not samples.size:
            return b""
        resampled = self._resampler.push(to_unit_range(samples))  # else one NaN would spread over the whole filter
        return self._encoder.encode(resampled) if resampled.size else b""

    def flush(self) -> bytes:
        tail = self._resampler.flush()
        return (self._encoder.encode(tail) if tail.size else b"") + self._encoder.flush()
