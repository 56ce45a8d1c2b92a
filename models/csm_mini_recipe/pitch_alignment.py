"""Voices tuned to the codec's frames: words begin with one, and each holds whole periods from its own beginning.

A codec of twelve frames a second spends its few bits on when in a frame something happens, and a language model has
to learn all of that from its text: a word has other codes wherever it begins. And pitch is what a small codec learns
last: first it buzzes at the rate of its own layers. Here a word begins with a frame, and its pitch is one of a few
with the phase always the same; and it takes as many frames as its text has tokens, so that nobody has to learn where in
the text the speech is. What is heard is speech on a grid: its melody moves in steps of 12.5 Hz, its rhythm is even.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from engine.fallback.pitch import median_pitch
from engine.types import FRAME_SAMPLES, SAMPLE_RATE

Wave = npt.NDArray[np.floating]  # (samples,)

_HOP, _WINDOW = 240, 1200  # samples
_VOICED = 0.6  # of 1: how alike a period and the next one are
_QUIET = 200.0  # of 32,768
_BAND = (0.66, 1.5)  # where a clip's periods lie, of its median
_BREATH = 120  # samples from grain to grain where there are no periods


def tune(
    recording: npt.NDArray[np.int16], words: Sequence[int] = (0,), frames: Sequence[int] | None = None
) -> npt.NDArray[np.int16]:
    """The same speech at 24 kHz, in whole frames (TD-PSOLA, Moulines 1990).

    words: the samples at which words begin, the first one at 0, each behind the one before; each will begin with a
    frame. frames: how many each of them is to take; None is what comes nearest to how long it is.
    """
    wave = recording.astype(np.float64)
    source = np.array([*words, wave.size], dtype=np.float64)
    lengths = np.maximum(np.rint(np.diff(source) / FRAME_SAMPLES), 1) if frames is None else np.array(frames)
    target = np.concatenate(([0.0], np.cumsum(lengths * FRAME_SAMPLES)))
    middle = median_pitch((wave / 32768).astype(np.float32), SAMPLE_RATE)
    periods = _periods(wave, SAMPLE_RATE / middle) if middle else np.zeros(wave.size // _HOP + 1)
    marks = np.array([mark for run in _runs(periods > 0) for mark in _marks(wave, periods, *run)] or [-wave.size])
    tuned, weight = np.zeros(int(target[-1])), np.full(int(target[-1]), 1e-9)
    place = 0.0
    while place < tuned.size:
        heard = float(np.interp(place, target, source))
        period = _period_of_frame(periods, place, target, source) if periods[int(heard) // _HOP] else 0.0
        if period:
            start = place // FRAME_SAMPLES * FRAME_SAMPLES
            spot = start + np.ceil((place - start) / period - 0.5) * period  # on the frame's grid
            wanted = float(np.interp(spot, target, source))
            nearest = int(marks[np.abs(marks - wanted).argmin()])
            if abs(nearest - wanted) < period:
                _lay(tuned, weight, wave, round(spot), nearest, round(period))
                place = spot + period
                continue
        _lay(tuned, weight, wave, round(place), round(heard), _BREATH)
        place += _BREATH
    laid: npt.NDArray[np.int16] = np.clip((tuned / np.maximum(weight, 0.3)).round(), -32768, 32767).astype(np.int16)
    return laid


def _periods(wave: Wave, middle: float) -> Wave:
    """Samples a period for every 10 ms, 0 where there is none."""
    padded = np.pad(wave, (_WINDOW // 2, _WINDOW))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[: wave.size + 1 : _HOP] * np.hanning(_WINDOW)
    likeness = _autocorrelation(windows) / _autocorrelation(np.hanning(_WINDOW)[None]).clip(0.05)
    low, high = (int(middle * share) for share in _BAND)
    best = likeness[:, low:high].argmax(axis=1) + low
    rows = np.arange(len(best))
    before, at, behind = likeness[rows, best - 1], likeness[rows, best], likeness[rows, best + 1]
    bend = before - 2 * at + behind
    between = np.where(bend < 0, (before - behind) / np.where(bend < 0, 2 * bend, 1), 0).clip(-0.5, 0.5)
    loud = np.sqrt((windows**2).mean(axis=1)) > _QUIET
    found = np.where((at > _VOICED) & loud, best + between, 0.0)
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(found, 2, mode="edge"), 5), axis=1)
    return np.where((found > 0) & (smooth > 0), smooth, 0.0)


def _autocorrelation(windows: Wave) -> Wave:
    spectrum = np.abs(np.fft.rfft(windows, 2 * _WINDOW)) ** 2
    likeness = np.fft.irfft(spectrum)[:, :_WINDOW]
    normal: Wave = likeness / np.maximum(likeness[:, :1], 1e-9)
    return normal


def _runs(voiced: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Each stretch of at least 30 ms, from sample to sample."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], voiced, [False]))))
    return [(int(a) * _HOP, int(b) * _HOP) for a, b in edges.reshape(-1, 2) if b - a >= 3]


def _marks(wave: Wave, periods: Wave, begin: int, end: int) -> list[int]:
    """The peak of every period, from left to right.

    By what is like the last period, since another formant's peak may be higher, and by height, since what is only
    ever like the last one drifts away from the peaks.
    """
    period = int(periods[begin // _HOP])
    reach = period // 3
    begin = max(begin, reach)
    first = wave[begin : min(begin + period, end)]
    if not first.size:
        return []
    mark = begin + int(np.abs(first).argmax())
    sign = np.sign(wave[mark]) or 1.0
    marks = []
    while mark < end and mark + 2 * period + reach < wave.size:
        marks.append(mark)
        period = round(periods[min(mark // _HOP, len(periods) - 1)]) or period
        around = wave[mark - reach : mark + reach]
        left = mark + int(0.85 * period)
        ahead = np.lib.stride_tricks.sliding_window_view(
            wave[left - reach : mark + int(1.15 * period) + reach], 2 * reach
        )
        likeness = ahead @ around / (np.linalg.norm(ahead, axis=1) * np.linalg.norm(around) + 1)
        height = sign * ahead[:, reach] / (np.abs(ahead[:, reach]).max() + 1)
        mark = left + int((likeness + height).argmax())
    return marks


def _period_of_frame(periods: Wave, place: float, target: Wave, source: Wave) -> float:
    """A whole part of a frame: what is nearest to the periods that are heard in it."""
    start = place // FRAME_SAMPLES * FRAME_SAMPLES
    heard = np.interp(np.arange(start, start + FRAME_SAMPLES, _HOP), target, source).astype(int) // _HOP
    here = periods[np.minimum(heard, len(periods) - 1)]
    return FRAME_SAMPLES / round(FRAME_SAMPLES / float(np.median(here[here > 0]))) if (here > 0).any() else 0.0


def _lay(tuned: Wave, weight: Wave, wave: Wave, place: int, heard: int, reach: int) -> None:
    """Add what is around one sample of the source around a place of the target."""
    left = max(0, reach - heard, reach - place)
    right = max(0, heard + reach - wave.size, place + reach - tuned.size)
    if left + right < 2 * reach:
        window = np.hanning(2 * reach + 1)[left : 2 * reach - right]
        tuned[place - reach + left : place + reach - right] += (
            wave[heard - reach + left : heard + reach - right] * window
        )
        weight[place - reach + left : place + reach - right] += window
