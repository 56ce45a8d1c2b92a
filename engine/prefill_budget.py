"""How many prompt positions to prefill beside decoding without making any listener's audio run out. Pure, no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from .types import FRAME_MILLISECONDS, SpeechRequest

_FRAME_SECONDS = FRAME_MILLISECONDS / 1000
UNLIMITED = 1 << 40  # positions
_SMOOTHING = 0.2  # weight of the newest measurement in the moving averages


@dataclass(frozen=True)
class BufferedAudio:
    """How far a stream is ahead of its playback.

    seconds: lower bound on the audio that was emitted and is not played yet.
    frames: upper bound on the frames that are made before more audio is emitted.
    """

    seconds: float
    frames: int


BEFORE_PLAYBACK = BufferedAudio(_FRAME_SECONDS, 1)  # no audio emitted: the first frame is urgent, but cannot be late


class PrefillBudget:
    """Measures what a step and a prefilled position cost, and grants prefill the time that listeners can spare.

    A burst is admitted together as far as possible, because a step costs about the same for one row and for many. What
    a round of prefill may take:

    - Nobody is decoding: a frame's 80 ms, so that the first of a long queue do not wait for the last.
    - Every listener has more audio buffered than its next slice takes to make: half of the surplus, 80 ms at most;
      SlicePolicy uses the other half. In any case a quarter of a step, but no more than half of what the step leaves
      of its 80 ms: SlicePolicy cuts slices so that frames may take twice as long.
    - A step takes longer than 80 ms: everything. Real time is lost anyway, and all are done soonest in few large steps.

    min_positions: always granted, so that no request starves and each prefill pass is worth its launch.
    position_seconds: what a prefilled position took at load; 0 if it was not measured.
    """

    def __init__(self, min_positions: int, position_seconds: float = 0.0) -> None:
        self._min_positions = min_positions
        self._step = 0.0  # seconds of an iteration that prefilled nothing
        self._position = position_seconds  # that each prefilled position adds

    @property
    def step_seconds(self) -> float:
        """What a step takes; 0 before the first measurement."""
        return self._step

    def record(self, seconds: float, positions: int, stepped: bool) -> None:
        """Add the measurement of one engine iteration: positions prefilled, and whether a frame was launched."""
        if positions == 0 and stepped:
            self._step = _moving_average(self._step, seconds)
        elif positions > 0 and (self._step or not stepped):
            step = self._step if stepped else 0.0
            self._position = _moving_average(self._position, max(seconds - step, 1e-9) / positions)

    def budget(self, buffers: Iterable[BufferedAudio]) -> int:
        """Positions that may be prefilled in the next round, given the buffered audio of all decoding streams."""
        step, spare = self._step, [each.seconds / each.frames for each in buffers]
        if step >= _FRAME_SECONDS or not (spare or self._position):
            return UNLIMITED
        if not self._position:
            return self._min_positions
        always = min(step / 4, (_FRAME_SECONDS - step) / 2)
        seconds = min(max(always, (min(spare) - step) / 2), _FRAME_SECONDS) if spare else _FRAME_SECONDS
        return max(self._min_positions, int(seconds / self._position))


def _moving_average(average: float, new: float) -> float:
    return average + _SMOOTHING * (new - average) if average else new


class PlaybackClock:
    """Estimates how much audio of each stream is buffered at its listener, from when playback began.

    Streams are keyed by their request object and forgotten with it.
    surplus: seconds of audio that the listener is given beyond that of the frames: pauses and gaps. It is below 0 where
    turns overlap, and while they are held back until they are mixed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started: WeakKeyDictionary[object, float] = WeakKeyDictionary()

    def frame_emitted(self, key: object, begins: bool = False) -> None:
        """A frame was emitted. begins: the listener had no audio before it; playback begins with the last such one."""
        if begins or key not in self._started:
            self._started[key] = self._clock()

    def hold(self, key: object, frames: int, request: SpeechRequest, surplus: float = 0.0) -> None:
        """The stream is held because its reader is behind: the queued audio counts as buffered, whatever the clock."""
        buffered = min(frames, request.slice_frames) * _FRAME_SECONDS
        started = self._clock() - (frames * _FRAME_SECONDS + surplus) + buffered
        self._started[key] = max(self._started.get(key, started), started)

    def text_came(self, key: object, frames: int, surplus: float = 0.0) -> None:
        """The stream may have waited for text: if its listener has heard all of it, playback begins anew."""
        if key in self._started:
            self._started[key] = max(self._started[key], self._clock() - frames * _FRAME_SECONDS - surplus)

    def buffered(self, key: object, frames: int, request: SpeechRequest, surplus: float = 0.0) -> BufferedAudio:
        """Of a stream that has made so many frames. All but one slice of them are certain to be emitted."""
        started = self._started.get(key)
        if started is None or frames == 0:
            return BEFORE_PLAYBACK
        emitted = max(1, frames - request.slice_frames + 1)
        seconds = emitted * _FRAME_SECONDS + surplus - (self._clock() - started)
        return BufferedAudio(seconds, min(emitted, request.slice_frames))
