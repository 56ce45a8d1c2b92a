"""Inaudible keyed audio watermark: spread spectrum on the loudness of time-frequency cells.

Embedding: the spectrum from 750 Hz to 7.5 kHz is divided into 45 bands, and time into cells of 53 ms. The gain of each
band in each cell is raised or lowered slightly, following a pattern of 32 cells that is derived from the key and
repeats. The gain changes by 3% where speech has its energy and by 8.5% above 2.5 kHz, so the change lies 30 dB below
the speech and moves with it, and silence stays silence. Without the key the pattern is indistinguishable from noise.

Detection: speech itself is similar in neighbouring bands and cells, so the level of each cell is compared with its
neighbours in frequency and in time, and the differences are correlated with the key's pattern. The correlation is
computed at every offset that a recording may start at, and normalised by the correlations of other keys' patterns with
the same recording; so the score is in standard deviations, whatever the recording.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from engine import SAMPLE_RATE

from .encoders.base import Samples

Values = npt.NDArray[np.float64]

THRESHOLD = 6.0  # standard deviations; see `detection_score`

_HOP = 320  # samples, 13 ms; a window is two of them
_WINDOW = 2 * _HOP
_CELL_HOPS = 4  # 53 ms
_PERIOD = 32  # cells, 1.7 s
_BANDS, _BAND_BINS, _FIRST_BIN = 45, 4, 20  # bins of 37.5 Hz
_BINS = slice(_FIRST_BIN, _FIRST_BIN + _BANDS * _BAND_BINS)

_DETECTOR_HOP = 160  # samples
_CELL_DETECTOR_HOPS = _CELL_HOPS * _HOP // _DETECTOR_HOP
_SILENCE_THRESHOLD = 8.0  # nepers below the loudest cell: inaudible, so ignored
_MAX_DIFFERENCE = 1.0  # nepers; larger differences are speech itself
_REFERENCE_KEYS = 64

_hertz = np.arange(_FIRST_BIN, _BINS.stop) * SAMPLE_RATE / _WINDOW
_depth = np.interp(_hertz, [1000, 2500], [0.03, 0.085])
_hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)
_sqrt_hann = np.sqrt(_hann).astype(np.float32)  # analysis and synthesis window: overlap-added squares sum to 1


class Watermarker:
    """Watermarks one response as it streams. The output is as long as the input, delayed by 13 ms.

    The result depends on the samples alone, not on how they are split into chunks.
    """

    def __init__(self, key: bytes) -> None:
        self._gains = _gains(key)
        self._cell_of_hop = 0
        self._pending: Samples = np.zeros(_HOP, np.float32)
        self._overlap: Samples = np.zeros(_HOP, np.float32)
        self._to_skip = _HOP  # the zeros in front of the first sample
        self._buffered = 0  # samples pushed and not returned yet

    def push(self, samples: Samples) -> Samples:
        """Push float32 (samples,) at 24 kHz; return the samples that are ready."""
        self._buffered += samples.size
        marked = self._advance(samples)
        self._buffered -= marked.size
        return marked

    def flush(self) -> Samples:
        """The remaining samples. Must not be used afterwards."""
        return self._advance(np.zeros(_WINDOW, np.float32))[: self._buffered]

    def _advance(self, samples: Samples) -> Samples:
        buffer = np.concatenate([self._pending, samples.astype(np.float32, copy=False)])
        hops = buffer.size // _HOP - 1
        if hops <= 0:
            self._pending = buffer
            return np.zeros(0, np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(buffer, _WINDOW)[: hops * _HOP : _HOP]
        spectra = np.fft.rfft(windows * _sqrt_hann, axis=1)  # (hops, bins)
        cells = (self._cell_of_hop + np.arange(hops)) // _CELL_HOPS % _PERIOD
        spectra[:, _BINS] *= self._gains[cells]
        changed = (np.fft.irfft(spectra, axis=1) * _sqrt_hann).astype(np.float32)
        output = changed[:, :_HOP].copy()
        output[0] += self._overlap
        output[1:] += changed[:-1, _HOP:]
        self._overlap, self._pending = changed[-1, _HOP:], buffer[hops * _HOP :]
        self._cell_of_hop = (self._cell_of_hop + hops) % (_CELL_HOPS * _PERIOD)
        skipped, self._to_skip = self._to_skip, 0
        return np.asarray(output.reshape(-1)[skipped:])


def embed(samples: Samples, key: bytes) -> Samples:
    """A whole recording, float32 (samples,) at 24 kHz, watermarked."""
    watermarker = Watermarker(key)
    return np.concatenate([watermarker.push(samples), watermarker.flush()])


def detection_score(samples: Samples, key: bytes) -> float:
    """The evidence that a recording, (samples,) at 24 kHz, carries the watermark of a key, in standard deviations.

    Around 0 and rarely over 4 without the watermark; from THRESHOLD on it is present. Detection needs a few seconds
    of speech, and is robust to whatever keeps time and pitch: cuts, gain, mp3, aac, opus.
    """
    if samples.size < 3 * _CELL_HOPS * _HOP:
        return 0.0  # not one cell with two neighbours
    spectrum = _difference_spectrum(samples.astype(np.float64))
    reference_keys = [hashlib.sha256(b"another key %d" % index).digest() for index in range(_REFERENCE_KEYS)]
    references = [_correlate(spectrum, reference_key) for reference_key in reference_keys]
    deviation = float(np.std(references))
    return (_correlate(spectrum, key) - float(np.mean(references))) / deviation if deviation > 0 else 0.0


@lru_cache(maxsize=256)
def _pattern(key: bytes) -> Values:
    """The sign of the gain change, 1 or -1, for each (cell, band)."""
    size = _PERIOD * _BANDS
    bits = np.unpackbits(np.frombuffer(hashlib.shake_256(key).digest((size + 7) // 8), np.uint8))[:size]
    return np.asarray(bits * 2.0 - 1.0, np.float64).reshape(_PERIOD, _BANDS)


@lru_cache(maxsize=64)
def _gains(key: bytes) -> npt.NDArray[np.float32]:
    """The gain of each (cell, bin)."""
    return np.asarray(1 + _depth * np.repeat(_pattern(key), _BAND_BINS, axis=1), np.float32)


def _difference_spectrum(samples: Values) -> npt.NDArray[np.complex128]:
    """Level differences of each band to its neighbours, folded over periods and Fourier-transformed along time.

    Returns (offsets of a period / 2 + 1, bands), of unit energy.
    """
    padded = np.concatenate([np.zeros(_HOP), samples, np.zeros(_WINDOW)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_DETECTOR_HOP]
    loudness = np.log(np.maximum(np.abs(np.fft.rfft(windows * _hann, axis=1))[:, _BINS], 1e-4))
    levels = loudness.reshape(len(loudness), _BANDS, _BAND_BINS).mean(axis=2)  # (hops, bands)
    audible = levels > levels.max() - _SILENCE_THRESHOLD
    relative = _subtract_neighbours(levels)
    cell = _CELL_DETECTOR_HOPS
    differences = np.zeros_like(levels)
    differences[cell:-cell] = relative[cell:-cell] - (relative[2 * cell :] + relative[: -2 * cell]) / 2
    differences = np.clip(differences, -_MAX_DIFFERENCE, _MAX_DIFFERENCE) * audible
    folded = np.zeros((_PERIOD * _CELL_DETECTOR_HOPS, _BANDS))
    np.add.at(folded, np.arange(len(differences)) % len(folded), differences)
    energy = float(np.sqrt((differences**2).sum())) or 1.0
    return np.asarray(np.fft.rfft(folded / energy, axis=0))


def _correlate(spectrum: npt.NDArray[np.complex128], key: bytes) -> float:
    """The highest correlation with a key's pattern over all offsets."""
    return float(np.fft.irfft((spectrum * _pattern_spectrum(key)).sum(axis=1)).max())


@lru_cache(maxsize=256)
def _pattern_spectrum(key: bytes) -> npt.NDArray[np.complex128]:
    """The conjugate of `_difference_spectrum` of the pattern itself."""
    bands = _subtract_neighbours(_pattern(key))
    cells = bands - (np.roll(bands, 1, axis=0) + np.roll(bands, -1, axis=0)) / 2
    return np.asarray(np.conj(np.fft.rfft(np.repeat(cells, _CELL_DETECTOR_HOPS, axis=0), axis=0)))


def _subtract_neighbours(values: Values) -> Values:
    """Each band (last axis) minus the mean of its two neighbours; the outermost bands are 0."""
    differences = np.zeros_like(values)
    differences[:, 1:-1] = values[:, 1:-1] - (values[:, 2:] + values[:, :-2]) / 2
    return differences
