"""Cuts the frames of a phrase into windows for the decoder, and joins their audio. Pure decisions on numpy arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, repeat

import numpy as np
import numpy.typing as npt

from ..types import Samples
from .model import FRAME_SAMPLES, Curve

LEFT_CONTEXT, RIGHT_CONTEXT = 16, 8  # frames decoded with a window and thrown away: the decoder looks around itself
FADE_SAMPLES = 480
_MAX_LAG = 120  # samples by which a window is shifted so that its waveform continues that before it

_SILENT = -4.0  # energy below which a frame has no speech
_LEAD, _TAIL = 2, 5  # frames kept before the first and after the last frame with speech
# Fewest and most frames of a speech's first windows, and of all after them. Short for a short wait; then longer,
# because each window costs its context, and speech with fewer joins is understood better (bench/LOG.md).
_SIZES = ((14, 24), (40, 80), (80, 160))


@dataclass(frozen=True)
class Window:
    """Frames from begin to end."""

    begin: int
    end: int


def windows_of(energy: Curve, starts_speech: bool) -> Iterator[Window]:
    """Windows over the frames with speech, cut where the phrase is quietest. A speech starts with a short one."""
    sizes = _SIZES if starts_speech else _SIZES[1:]
    level = energy.reshape(-1, 2).max(axis=1)
    loud = np.flatnonzero(level > _SILENT)
    if not loud.size:
        return
    begin, last = max(int(loud[0]) - _LEAD, 0), min(int(loud[-1]) + 1 + _TAIL, level.size)
    for fewest, most in chain(sizes, repeat(sizes[-1])):
        if last - begin <= most + _SIZES[0][0]:  # else the last one would be too short
            yield Window(begin, last)
            return
        end = begin + fewest + int(level[begin + fewest : begin + most + 1].argmin())
        yield Window(begin, end)
        begin = end


class WindowJoiner:
    """Joins the audio of consecutive windows with a crossfade at the lag where their waveforms agree best."""

    def __init__(self) -> None:
        self._tail: npt.NDArray[np.float32] | None = None  # what the last window has after its end

    def push(self, audio: Samples, start: int, frames: int) -> Samples:
        """The samples to play of a window whose frames begin at sample `start` of its audio."""
        end = start + frames * FRAME_SAMPLES
        if self._tail is not None:
            start = _best_start(audio, start, self._tail)
            audio = audio.copy()
            size = min(self._tail.size, audio.size - start)
            ramp = np.linspace(0.0, 1.0, size, dtype=np.float32)
            audio[start : start + size] *= ramp
            audio[start : start + size] += self._tail[:size] * (1.0 - ramp)
        self._tail = audio[end : end + FADE_SAMPLES].copy()
        return audio[start:end]


def _best_start(audio: Samples, start: int, tail: Samples) -> int:
    """The sample near `start` from which the audio resembles the tail most (normalized cross-correlation)."""
    first = max(start - _MAX_LAG, 0)
    candidates = audio[first : start + _MAX_LAG + tail.size]
    if not tail.size or candidates.size < tail.size:
        return start
    windows = np.lib.stride_tricks.sliding_window_view(candidates, tail.size)
    likeness = windows @ tail / (np.linalg.norm(windows, axis=1) + 1e-3)
    return first + int(likeness.argmax())
