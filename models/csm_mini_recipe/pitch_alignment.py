"""Aligns speech to the codec's frames with TD-PSOLA: words start at frames, pitch periods at frame boundaries.

A codec of 12.5 frames per second spends its few bits on timing within the frame, and the language model has to learn
that timing: a word gets different codes wherever it starts. Pitch is also what a small codec learns last; it first
buzzes at the rate of its own layers. After alignment a word starts at a frame, its pitch is one of a few values with
constant phase, and it takes as many frames as its text has tokens, so that the text-to-frame alignment is known. The
price is audible: pitch in steps of 12.5 Hz and an even rhythm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from engine.fallback.pitch import median_pitch
from engine.types import FRAME_SAMPLES, SAMPLE_RATE

Wave = npt.NDArray[np.floating]  # (samples,)

_HOP, _WINDOW = 240, 1200  # samples
_MIN_CORRELATION = 0.6  # normalized autocorrelation from which a window is voiced
_MIN_RMS = 200.0  # of 32,768
_PERIOD_RANGE = (0.66, 1.5)  # range of a clip's periods, relative to its median
_UNVOICED_HOP = 120  # samples between grains in unvoiced speech


def align_to_frames(
    recording: npt.NDArray[np.int16], words: Sequence[int] = (0,), frames: Sequence[int] | None = None
) -> npt.NDArray[np.int16]:
    """Align speech at 24 kHz to whole frames (TD-PSOLA, Moulines 1990).

    words: start samples of the words, ascending, the first at 0; each will start at a frame. frames: number of frames
    of each word; None rounds its duration.
    """
    wave = recording.astype(np.float64)
    source = np.array([*words, wave.size], dtype=np.float64)
    lengths = np.maximum(np.rint(np.diff(source) / FRAME_SAMPLES), 1) if frames is None else np.array(frames)
    target = np.concatenate(([0.0], np.cumsum(lengths * FRAME_SAMPLES)))
    pitch = median_pitch((wave / 32768).astype(np.float32), SAMPLE_RATE)
    periods = _periods(wave, SAMPLE_RATE / pitch) if pitch else np.zeros(wave.size // _HOP + 1)
    marks = np.array(
        [mark for run in _voiced_runs(periods > 0) for mark in _pitch_marks(wave, periods, *run)] or [-wave.size]
    )
    output, weight = np.zeros(int(target[-1])), np.full(int(target[-1]), 1e-9)
    position = 0.0
    while position < output.size:
        source_position = float(np.interp(position, target, source))
        period = _frame_period(periods, position, target, source) if periods[int(source_position) // _HOP] else 0.0
        if period:
            start = position // FRAME_SAMPLES * FRAME_SAMPLES
            target_mark = start + np.ceil((position - start) / period - 0.5) * period  # on the frame's period grid
            source_mark = float(np.interp(target_mark, target, source))
            pitch_mark = int(marks[np.abs(marks - source_mark).argmin()])
            if abs(pitch_mark - source_mark) < period:
                _overlap_add(output, weight, wave, round(target_mark), pitch_mark, round(period))
                position = target_mark + period
                continue
        _overlap_add(output, weight, wave, round(position), round(source_position), _UNVOICED_HOP)
        position += _UNVOICED_HOP
    aligned: npt.NDArray[np.int16] = np.clip((output / np.maximum(weight, 0.3)).round(), -32768, 32767).astype(np.int16)
    return aligned


def _periods(wave: Wave, median_period: float) -> Wave:
    """Pitch period in samples per 10 ms, 0 if unvoiced."""
    padded = np.pad(wave, (_WINDOW // 2, _WINDOW))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[: wave.size + 1 : _HOP] * np.hanning(_WINDOW)
    correlation = _autocorrelation(windows) / _autocorrelation(np.hanning(_WINDOW)[None]).clip(0.05)
    low, high = (int(median_period * share) for share in _PERIOD_RANGE)
    best = correlation[:, low:high].argmax(axis=1) + low
    rows = np.arange(len(best))
    before, at, behind = correlation[rows, best - 1], correlation[rows, best], correlation[rows, best + 1]
    curvature = before - 2 * at + behind
    offset = np.where(curvature < 0, (before - behind) / np.where(curvature < 0, 2 * curvature, 1), 0).clip(-0.5, 0.5)
    loud = np.sqrt((windows**2).mean(axis=1)) > _MIN_RMS
    periods = np.where((at > _MIN_CORRELATION) & loud, best + offset, 0.0)
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(periods, 2, mode="edge"), 5), axis=1)
    return np.where((periods > 0) & (smooth > 0), smooth, 0.0)


def _autocorrelation(windows: Wave) -> Wave:
    spectrum = np.abs(np.fft.rfft(windows, 2 * _WINDOW)) ** 2
    correlation = np.fft.irfft(spectrum)[:, :_WINDOW]
    normal: Wave = correlation / np.maximum(correlation[:, :1], 1e-9)
    return normal


def _voiced_runs(voiced: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Voiced stretches of at least 30 ms, as (start, end) samples."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], voiced, [False]))))
    return [(int(a) * _HOP, int(b) * _HOP) for a, b in edges.reshape(-1, 2) if b - a >= 3]


def _pitch_marks(wave: Wave, periods: Wave, begin: int, end: int) -> list[int]:
    """Peak of every pitch period, in order.

    Chosen by correlation with the previous period, since another formant's peak may be higher, plus height, since
    correlation alone drifts away from the peaks.
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
        previous = wave[mark - reach : mark + reach]
        left = mark + int(0.85 * period)
        ahead = np.lib.stride_tricks.sliding_window_view(
            wave[left - reach : mark + int(1.15 * period) + reach], 2 * reach
        )
        correlation = ahead @ previous / (np.linalg.norm(ahead, axis=1) * np.linalg.norm(previous) + 1)
        height = sign * ahead[:, reach] / (np.abs(ahead[:, reach]).max() + 1)
        mark = left + int((correlation + height).argmax())
    return marks


def _frame_period(periods: Wave, position: float, target: Wave, source: Wave) -> float:
    """The integer fraction of a frame closest to the median period of the source in it; 0 if unvoiced."""
    start = position // FRAME_SAMPLES * FRAME_SAMPLES
    source_position = np.interp(np.arange(start, start + FRAME_SAMPLES, _HOP), target, source).astype(int) // _HOP
    voiced = periods[np.minimum(source_position, len(periods) - 1)]
    return FRAME_SAMPLES / round(FRAME_SAMPLES / float(np.median(voiced[voiced > 0]))) if (voiced > 0).any() else 0.0


def _overlap_add(output: Wave, weight: Wave, wave: Wave, position: int, source_position: int, reach: int) -> None:
    """Overlap-add the windowed grain around a source position to a target position."""
    left = max(0, reach - source_position, reach - position)
    right = max(0, source_position + reach - wave.size, position + reach - output.size)
    if left + right < 2 * reach:
        window = np.hanning(2 * reach + 1)[left : 2 * reach - right]
        output[position - reach + left : position + reach - right] += (
            wave[source_position - reach + left : source_position + reach - right] * window
        )
        weight[position - reach + left : position + reach - right] += window
