"""Changes the sample rate of audio that is heard, from any rate to any; `encoders.resampler` is for what is sent."""

from __future__ import annotations

import av
import numpy as np

from .encoders.base import Samples


class RateConverter:
    """Mono float32 (samples,) from one rate to another, piece by piece."""

    def __init__(self, source_rate: int, target_rate: int) -> None:
        self._source_rate = source_rate
        self._resampler = av.AudioResampler(format="flt", layout="mono", rate=target_rate)

    def push(self, samples: Samples) -> Samples:
        if not samples.size:
            return samples
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="flt", layout="mono")
        frame.sample_rate = self._source_rate
        return _joined(self._resampler.resample(frame))

    def flush(self) -> Samples:
        """The rest. Nothing can be pushed afterwards."""
        return _joined(self._resampler.resample(None))


def resample(samples: Samples, source_rate: int, target_rate: int) -> Samples:
    """A whole recording, mono float32 (samples,)."""
    if source_rate == target_rate:
        return samples
    resampler = RateConverter(source_rate, target_rate)
    return np.concatenate([resampler.push(samples), resampler.flush()])


def _joined(frames: list[av.AudioFrame]) -> Samples:
    return np.concatenate([np.zeros(0, np.float32), *(frame.to_ndarray().reshape(-1) for frame in frames)])
