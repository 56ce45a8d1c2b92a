"""A mark in the sound that nobody hears and that whoever has the key can find: spread spectrum on loudness.

From 750 Hz to 7.5 kHz the spectrum is cut into 45 bands, and time into cells of 53 ms; in each cell each band is made
a little louder or a little softer, as the key's pattern of 32 cells says, over and over. By how little: 3% where
speech has its energy and 8.5% above 2.5 kHz, so what is changed lies 30 dB below the speech and moves with it, and
silence stays silence. The key says where to look: without it the pattern is noise.

Finding it: whatever band and cell hold of speech itself is mostly like what its neighbours hold, so a cell is compared
with those beside it, in frequency and in time, and the differences are summed up along the key's pattern. That sum is
taken at every shift that a recording may have been cut at, and compared with what patterns of other keys give on the
same recording; that makes the score one of standard deviations, whatever the recording is.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from engine import SAMPLE_RATE

from .encoders.base import Samples

Values = npt.NDArray[np.float64]

KEY_NUMBERS = 5
PUBLIC_KEY = bytes((212, 211, 146, 56, 201))  # CSM's own: whoever reads its sources knows it
THRESHOLD = 6.0  # standard deviations; see `score`

_HOP = 320  # samples, 13 ms; a window is two of them
_WINDOW = 2 * _HOP
_CELL_HOPS = 4  # 53 ms
_PERIOD = 32  # cells, 1.7 s
_BANDS, _BAND_BINS, _FIRST_BIN = 45, 4, 20  # bins of 37.5 Hz
_BINS = slice(_FIRST_BIN, _FIRST_BIN + _BANDS * _BAND_BINS)

_LOOK = 160  # samples between two looks of the detector
_CELL_LOOKS = _CELL_HOPS * _HOP // _LOOK
_SILENT = 8.0  # nepers below the loudest cell: nothing to hear there, and nothing to find
_LOUDEST_DIFFERENCE = 1.0  # nepers; beyond it, it is speech itself
_OTHER_KEYS = 64

_hertz = np.arange(_FIRST_BIN, _BINS.stop) * SAMPLE_RATE / _WINDOW
_depth = np.interp(_hertz, [1000, 2500], [0.03, 0.085])
_hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)
_half = np.sqrt(_hann).astype(np.float32)  # before and after the change: squared and laid over each other it is 1


class Marker:
    """Marks one answer, piece by piece. What comes out is as long as what goes in, 13 ms of it a piece later.

    The result depends on the samples alone, not on how they are cut into pieces.
    """

    def __init__(self, key: bytes) -> None:
        self._gains = _gains(key)
        self._cell_of_hop = 0
        self._pending: Samples = np.zeros(_HOP, np.float32)
        self._overlap: Samples = np.zeros(_HOP, np.float32)
        self._to_skip = _HOP  # the lead-in that is not the speaker's
        self._held = 0  # samples that went in and did not come out yet

    def push(self, samples: Samples) -> Samples:
        """Take float32 (samples,) at 24 kHz; give back what is marked by now."""
        self._held += samples.size
        marked = self._advance(samples)
        self._held -= marked.size
        return marked

    def flush(self) -> Samples:
        """The last of it. The marker is of no use afterwards."""
        return self._advance(np.zeros(_WINDOW, np.float32))[: self._held]

    def _advance(self, samples: Samples) -> Samples:
        buffer = np.concatenate([self._pending, samples.astype(np.float32, copy=False)])
        hops = buffer.size // _HOP - 1
        if hops <= 0:
            self._pending = buffer
            return np.zeros(0, np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(buffer, _WINDOW)[: hops * _HOP : _HOP]
        spectra = np.fft.rfft(windows * _half, axis=1)  # (hops, bins)
        cells = (self._cell_of_hop + np.arange(hops)) // _CELL_HOPS % _PERIOD
        spectra[:, _BINS] *= self._gains[cells]
        changed = (np.fft.irfft(spectra, axis=1) * _half).astype(np.float32)
        ready = changed[:, :_HOP].copy()
        ready[0] += self._overlap
        ready[1:] += changed[:-1, _HOP:]
        self._overlap, self._pending = changed[-1, _HOP:], buffer[hops * _HOP :]
        self._cell_of_hop = (self._cell_of_hop + hops) % (_CELL_HOPS * _PERIOD)
        skipped, self._to_skip = self._to_skip, 0
        return np.asarray(ready.reshape(-1)[skipped:])


def mark(samples: Samples, key: bytes) -> Samples:
    """A whole recording, float32 (samples,) at 24 kHz, marked."""
    marker = Marker(key)
    return np.concatenate([marker.push(samples), marker.flush()])


def score(samples: Samples, key: bytes) -> float:
    """How surely a recording, (samples,) at 24 kHz, bears the mark of a key, in standard deviations.

    Without the mark it is around 0 and rarely over 4; from THRESHOLD on it is there. It takes a few seconds of speech
    to tell, and survives what keeps time and pitch: cuts, loudness, mp3, aac, opus.
    """
    if samples.size < 3 * _CELL_HOPS * _HOP:
        return 0.0  # not one cell with two neighbours
    found = _differences(samples.astype(np.float64))
    others = [_match(found, hashlib.sha256(b"another key %d" % index).digest()) for index in range(_OTHER_KEYS)]
    spread = float(np.std(others))
    return (_match(found, key) - float(np.mean(others))) / spread if spread > 0 else 0.0


def parse_key(text: str) -> bytes:
    """A key written as five numbers from 0 to 255 with commas. Raises ValueError."""
    try:
        return check_key([int(part) for part in text.split(",")])
    except ValueError:
        raise ValueError(f"it must be {KEY_NUMBERS} numbers from 0 to 255 with commas") from None


def check_key(numbers: list[int]) -> bytes:
    """A key given as numbers. Raises ValueError unless they are five from 0 to 255."""
    if len(numbers) != KEY_NUMBERS or not all(0 <= number <= 255 for number in numbers):
        raise ValueError(f"it must be {KEY_NUMBERS} numbers from 0 to 255")
    return bytes(numbers)


@lru_cache(maxsize=256)
def _pattern(key: bytes) -> Values:
    """Louder (1) or softer (-1), for each (cell, band)."""
    size = _PERIOD * _BANDS
    bits = np.unpackbits(np.frombuffer(hashlib.shake_256(key).digest((size + 7) // 8), np.uint8))[:size]
    return np.asarray(bits * 2.0 - 1.0, np.float64).reshape(_PERIOD, _BANDS)


@lru_cache(maxsize=64)
def _gains(key: bytes) -> npt.NDArray[np.float32]:
    """What each (cell, bin) is multiplied by."""
    return np.asarray(1 + _depth * np.repeat(_pattern(key), _BAND_BINS, axis=1), np.float32)


def _differences(samples: Values) -> npt.NDArray[np.complex128]:
    """How much each band stands out among its neighbours, summed over periods and transformed along time.

    Its spectrum comes back, (shifts of a period / 2 + 1, bands), of unit energy.
    """
    padded = np.concatenate([np.zeros(_HOP), samples, np.zeros(_WINDOW)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_LOOK]
    loudness = np.log(np.maximum(np.abs(np.fft.rfft(windows * _hann, axis=1))[:, _BINS], 1e-4))
    levels = loudness.reshape(len(loudness), _BANDS, _BAND_BINS).mean(axis=2)  # (looks, bands)
    audible = levels > levels.max() - _SILENT
    among_bands = _among_neighbours(levels)
    shift = _CELL_LOOKS
    found = np.zeros_like(levels)
    found[shift:-shift] = among_bands[shift:-shift] - (among_bands[2 * shift :] + among_bands[: -2 * shift]) / 2
    found = np.clip(found, -_LOUDEST_DIFFERENCE, _LOUDEST_DIFFERENCE) * audible
    folded = np.zeros((_PERIOD * _CELL_LOOKS, _BANDS))
    np.add.at(folded, np.arange(len(found)) % len(folded), found)
    energy = float(np.sqrt((found**2).sum())) or 1.0
    return np.asarray(np.fft.rfft(folded / energy, axis=0))


def _match(found: npt.NDArray[np.complex128], key: bytes) -> float:
    """How well it fits a key's pattern, at the shift where it fits best."""
    return float(np.fft.irfft((found * _expected(key)).sum(axis=1)).max())


@lru_cache(maxsize=256)
def _expected(key: bytes) -> npt.NDArray[np.complex128]:
    """What `_differences` makes of the pattern alone, conjugated."""
    bands = _among_neighbours(_pattern(key))
    cells = bands - (np.roll(bands, 1, axis=0) + np.roll(bands, -1, axis=0)) / 2
    return np.asarray(np.conj(np.fft.rfft(np.repeat(cells, _CELL_LOOKS, axis=0), axis=0)))


def _among_neighbours(values: Values) -> Values:
    """Each band (last axis) less the mean of the two beside it; the outermost have none and are 0."""
    differences = np.zeros_like(values)
    differences[:, 1:-1] = values[:, 1:-1] - (values[:, 2:] + values[:, :-2]) / 2
    return differences
