"""16-bit PCM: conversion of float samples, and the raw_pcm encoder."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .base import Samples

FULL_SCALE = 32767  # symmetric, so that 1.0 and -1.0 are equally loud


def to_unit_range(samples: Samples) -> Samples:
    """A copy clipped to -1..1, infinite values included; NaN becomes 0."""
    clipped = np.asarray(samples, dtype=np.float32).clip(-1.0, 1.0)
    if np.isnan(clipped.dot(clipped)):  # true only if a sample is NaN; testing each one would cost more than all else
        np.nan_to_num(clipped, copy=False, nan=0.0)
    return clipped


def to_int16(samples: Samples) -> npt.NDArray[np.int16]:
    """Samples (n,) as little-endian int16 (n,), rounded to the nearest, saturated."""
    return np.rint(to_unit_range(samples) * FULL_SCALE).astype("<i2")


class RawPcmEncoder:
    """Headerless s16le, without delay."""

    def encode(self, samples: Samples) -> bytes:
        return to_int16(samples).tobytes()

    def flush(self) -> bytes:
        return b""
