"""Samples as 16-bit integers: what raw_pcm sends as it is, and what wav puts behind its header."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .base import Samples

FULL_SCALE = 32767  # the same on both sides of zero, so that 1.0 and -1.0 are equally loud


def to_unit_range(samples: Samples) -> Samples:
    """A copy within -1..1: louder samples saturate, infinite ones too, and NaN becomes silence."""
    within = np.asarray(samples, dtype=np.float32).clip(-1.0, 1.0)
    if np.isnan(within.dot(within)):  # nowhere else can it come from; looking at each sample would cost more than all
        np.nan_to_num(within, copy=False, nan=0.0)
    return within


def to_int16(samples: Samples) -> npt.NDArray[np.int16]:
    """Samples (n,) as little-endian int16 (n,), rounded to the nearest; none wraps around."""
    return np.rint(to_unit_range(samples) * FULL_SCALE).astype("<i2")


class RawPcmEncoder:
    """Bare s16le: no header, nothing held back."""

    def encode(self, samples: Samples) -> bytes:
        return to_int16(samples).tobytes()

    def flush(self) -> bytes:
        return b""
