"""Voices tuned to the codec's frames: in each 80 ms a whole number of periods, the first one at its beginning.

A codec of twelve frames a second has to tell pitch and phase in a few bits, and a small one learns that last of all:
first it buzzes at the rate of its own layers. Here the phase is always the same and the pitch one of a few, so there
is nothing left to tell but which. What is heard is speech whose melody moves in steps of 12.5 Hz.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engine.fallback.pitch import median_pitch
from engine.types import FRAME_SAMPLES, SAMPLE_RATE

Wave = npt.NDArray[np.float64]  # (samples,)

_HOP, _WINDOW = 240, 1200  # samples
_VOICED = 0.6  # of 1: how alike a period and the next one are
_QUIET = 200.0  # of 32,768
_BAND = (0.66, 1.5)  # where a clip's periods lie, of its median
_FADE = 120  # samples from voiced to unvoiced


def tune(recording: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """The same speech at 24 kHz, every period where its frame wants it (TD-PSOLA, Moulines 1990)."""
    wave = recording.astype(np.float64)
    middle = median_pitch((wave / 32768).astype(np.float32), SAMPLE_RATE)
    if middle is None:
        return recording
    periods = _periods(wave, SAMPLE_RATE / middle)
    tuned, voiced = np.zeros_like(wave), np.zeros_like(wave)
    for first, last in _runs(periods > 0):
        begin, end = first * _HOP, min((last + 1) * _HOP, wave.size)
        marks = _marks(wave, periods, begin, end)
        if len(marks) > 2:
            _lay(tuned, wave, marks, _targets(periods, begin, end))
            voiced[begin:end] = 1
    ramp = np.hanning(2 * _FADE + 1)
    share = np.convolve(voiced, ramp / ramp.sum(), mode="same")
    mixed = share * tuned + (1 - share) * wave
    return np.clip(mixed.round(), -32768, 32767).astype(np.int16)


def _periods(wave: Wave, middle: float) -> Wave:
    """Samples a period for every 10 ms, 0 where there is none."""
    padded = np.pad(wave, (_WINDOW // 2, _WINDOW))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[: wave.size : _HOP] * np.hanning(_WINDOW)
    spectrum = np.abs(np.fft.rfft(windows, 2 * _WINDOW)) ** 2
    likeness = np.fft.irfft(spectrum)[:, :_WINDOW]
    taper = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(_WINDOW), 2 * _WINDOW)) ** 2)[:_WINDOW]
    likeness = likeness / np.maximum(likeness[:, :1], 1e-9) / (taper / taper[0]).clip(0.05)
    low, high = (int(middle * share) for share in _BAND)
    best = likeness[:, low:high].argmax(axis=1) + low
    loud = np.sqrt((windows**2).mean(axis=1)) > _QUIET
    sure = (likeness[np.arange(len(best)), best] > _VOICED) & loud
    found = np.where(sure, best, 0).astype(np.float64)
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(found, 2, mode="edge"), 5), axis=1)
    return np.where((found > 0) & (smooth > 0), smooth, 0.0)


def _runs(voiced: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last hop of each stretch of at least 30 ms."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], voiced, [False]))))
    return [(int(a), int(b) - 1) for a, b in edges.reshape(-1, 2) if b - a >= 3]


def _marks(wave: Wave, periods: Wave, begin: int, end: int) -> list[int]:
    """Where the source's periods have their peaks, from left to right."""
    period = int(periods[begin // _HOP])
    mark = begin + int(np.abs(wave[begin : begin + period]).argmax())
    sign = np.sign(wave[mark]) or 1.0
    marks = []
    while mark < end - period // 2:
        marks.append(mark)
        period = int(periods[min(mark // _HOP, len(periods) - 1)]) or period
        left, right = mark + int(0.85 * period), mark + int(1.15 * period) + 1
        around = wave[mark - period // 3 : mark + period // 3]
        if mark < period // 3 or right + period // 3 >= wave.size:
            break
        ahead = np.lib.stride_tricks.sliding_window_view(wave[left - period // 3 : right + period // 3], around.size)[
            : right - left
        ]
        match = ahead @ around + 0.1 * sign * ahead[:, period // 3] * np.abs(around).sum()
        mark = left + int(match.argmax())
    return marks


def _targets(periods: Wave, begin: int, end: int) -> list[tuple[int, float]]:
    """Where periods are to stand, and how long each is: so many equal ones in every frame."""
    found = []
    for frame in range(begin // FRAME_SAMPLES, -(-end // FRAME_SAMPLES)):
        start = frame * FRAME_SAMPLES
        here = periods[start // _HOP : (start + FRAME_SAMPLES) // _HOP]
        here = here[here > 0]
        if here.size:
            count = round(FRAME_SAMPLES / float(np.median(here)))
            period = FRAME_SAMPLES / count
            found += [(round(start + each * period), period) for each in range(count)]
    return [each for each in found if begin <= each[0] < end]


def _lay(tuned: Wave, wave: Wave, marks: list[int], targets: list[tuple[int, float]]) -> None:
    """Add up, at each target, the two periods around the nearest mark."""
    places = np.array(marks)
    lengths = np.diff(places, append=places[-1] + (places[-1] - places[-2]))
    for target, period in targets:
        nearest = int(np.abs(places - target).argmin())
        source, reach = marks[nearest], int(min(lengths[nearest], 1.2 * period))
        left = max(0, reach - source, reach - target)
        right = max(0, source + reach - wave.size, target + reach - wave.size)
        grain = (
            (wave[source - reach + left : source + reach - right]) * np.hanning(2 * reach + 1)[left : 2 * reach - right]
        )
        tuned[target - reach + left : target + reach - right] += grain * min(1.0, period / reach)
