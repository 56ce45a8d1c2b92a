"""How high a voice is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..types import Samples

_LOWEST, _HIGHEST = 60.0, 400.0  # Hz: from a deep man to a child
_MOST_WINDOWS = 400  # enough for a median, whatever the recording's length
_OCTAVE_COST = 0.05
_VOICED = 0.5  # share of a window's energy that repeats itself in voiced speech


def median_pitch(samples: Samples, rate: int) -> float | None:
    """The median pitch in Hz of the voiced parts of float32 (samples,) at `rate` Hz; None if there are none.

    By autocorrelation over windows of 80 ms, each divided by the window's own (Boersma 1993).
    """
    size = int(0.08 * rate)
    if size < 8 or samples.size < size:
        return None
    hop = max(size // 2, (samples.size - size) // _MOST_WINDOWS)
    windows = np.lib.stride_tricks.sliding_window_view(samples, size)[::hop].astype(np.float64)
    windows = windows - windows.mean(axis=1, keepdims=True)
    energy = (windows**2).mean(axis=1)
    loud = energy > 0.05 * np.percentile(energy, 90)
    if not loud.any():
        return None
    taper = np.hanning(size)
    repeats = _autocorrelation(windows[loud] * taper) / _autocorrelation(taper[None])
    first, last = int(rate / _HIGHEST), min(int(rate / _LOWEST), size // 2)
    # What repeats after one period does so after two: the octave's cost makes the shorter win.
    cost = _OCTAVE_COST * np.log2(np.arange(first, last + 1))
    lags = (repeats[:, first : last + 1] - cost).argmax(axis=1) + first
    strength = repeats[np.arange(len(lags)), lags]
    voiced = lags[strength > _VOICED]
    return float(np.median(rate / voiced)) if voiced.size else None


def _autocorrelation(windows: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """(windows, size) -> (windows, size // 2 + 1), 1 at lag 0."""
    size = windows.shape[1]
    spectrum = np.abs(np.fft.rfft(windows, 2 * size)) ** 2
    correlation = np.fft.irfft(spectrum)[:, : size // 2 + 1]
    return np.asarray(correlation / correlation[:, :1])
