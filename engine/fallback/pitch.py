"""Pitch estimation by autocorrelation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..types import Samples

_MIN_HERTZ, _MAX_HERTZ = 60.0, 400.0  # from a low male voice to a child's
_MAX_WINDOWS = 400  # enough for a median of a recording of any length
_OCTAVE_COST = 0.05
_VOICED = 0.5  # normalized autocorrelation above which a window counts as voiced


def median_pitch(samples: Samples, rate: int) -> float | None:
    """Median pitch in Hz of the voiced parts of float32 (samples,) at `rate` Hz; None if nothing is voiced.

    Autocorrelation over windows of 80 ms, divided by that of the window function (Boersma 1993).
    """
    size = int(0.08 * rate)
    if size < 8 or samples.size < size:
        return None
    hop = max(size // 2, (samples.size - size) // _MAX_WINDOWS)
    windows = np.lib.stride_tricks.sliding_window_view(samples, size)[::hop].astype(np.float64)
    windows = windows - windows.mean(axis=1, keepdims=True)
    energy = (windows**2).mean(axis=1)
    loud = energy > 0.05 * np.percentile(energy, 90)
    if not loud.any():
        return None
    window = np.hanning(size)
    correlation = _autocorrelation(windows[loud] * window) / _autocorrelation(window[None])
    first, last = int(rate / _MAX_HERTZ), min(int(rate / _MIN_HERTZ), size // 2)
    # A periodic signal also correlates at two periods: a cost per octave makes the shorter lag win.
    cost = _OCTAVE_COST * np.log2(np.arange(first, last + 1))
    lags = (correlation[:, first : last + 1] - cost).argmax(axis=1) + first
    strength = correlation[np.arange(len(lags)), lags]
    voiced = lags[strength > _VOICED]
    return float(np.median(rate / voiced)) if voiced.size else None


def _autocorrelation(windows: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """(windows, size) -> (windows, size // 2 + 1), normalized to 1 at lag 0."""
    size = windows.shape[1]
    spectrum = np.abs(np.fft.rfft(windows, 2 * size)) ** 2
    correlation = np.fft.irfft(spectrum)[:, : size // 2 + 1]
    return np.asarray(correlation / correlation[:, :1])
