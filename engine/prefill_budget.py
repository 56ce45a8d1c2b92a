"""How much of the prompts that wait is read before those who speak get their next frame. Pure, no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from .types import FRAME_MILLISECONDS, SpeechRequest

_FRAME_SECONDS = FRAME_MILLISECONDS / 1000
_NEWEST = 0.2  # how much the newest measurement counts


@dataclass(frozen=True)
class BufferedAudio:
    """How far one who speaks is ahead of its listener.

    seconds: of sound that was given out and is not heard yet, at the least.
    frames: to be made before more is given out, at the most.
    """

    seconds: float
    frames: int


BEFORE_PLAYBACK = BufferedAudio(
    _FRAME_SECONDS, 1
)  # nothing is heard yet: the first frame is waited for, but cannot be late


class PrefillBudget:
    """Learns what a step and a prefilled position take, and spends on prefill what listeners can spare.

    A quarter of a step is always spent: slices are cut so that frames may take twice as long (see SliceSizes). Where
    every listener has more in hand than what it waits for takes, half of the rest. A machine that hardly keeps up
    spends no more than half of what is left of a frame's 80 ms; one that does not keep up cannot be held to it.

    fewest: positions that are always prefilled, so that nobody waits for ever and each pass is worth its launch.
    """

    def __init__(self, fewest: int) -> None:
        self._fewest = fewest
        self._step = 0.0  # seconds of a round in which nothing was prefilled
        self._position = 0.0  # seconds that a prefilled position adds

    def took(self, seconds: float, positions: int, spoke: bool) -> None:
        """A round of the engine is over, in which so much was prefilled and a frame was made or not."""
        if positions == 0 and spoke:
            self._step = _blend(self._step, seconds)
        elif positions > 0 and (self._step or not spoke):
            beside = self._step if spoke else 0.0
            self._position = _blend(self._position, max(seconds - beside, 1e-9) / positions)

    def budget(self, leads: Iterable[BufferedAudio]) -> int:
        """Positions that may be prefilled in the coming round, for those who speak have such leads."""
        step = self._step
        always = step / 4 if step >= _FRAME_SECONDS else min(step / 4, (_FRAME_SECONDS - step) / 2)
        spare = min(((lead.seconds / lead.frames - step) / 2 for lead in leads), default=0.0)
        if not self._position:
            return self._fewest
        return max(self._fewest, int(max(always, spare) / self._position))


def _blend(known: float, new: float) -> float:
    return known + _NEWEST * (new - known) if known else new


class PlaybackClock:
    """When each began to hear, and so how far its speech is ahead of it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: WeakKeyDictionary[object, float] = WeakKeyDictionary()

    def hear(self, who: object) -> None:
        """A frame was given out; the first of them begins it."""
        if who not in self._began:
            self._began[who] = self._clock()

    def lag(self, who: object, frames: int, request: SpeechRequest) -> None:
        """It is held since its reader is behind: what waits for it is in hand, however long ago it began."""
        in_hand = min(frames, request.slice_frames) * _FRAME_SECONDS
        began = self._clock() - frames * _FRAME_SECONDS + in_hand
        self._began[who] = max(self._began.get(who, began), began)

    def lead(self, who: object, frames: int, request: SpeechRequest) -> BufferedAudio:
        """Of one who has spoken so many frames. All but a whole slice of them were given out for sure."""
        began = self._began.get(who)
        if began is None or frames == 0:
            return BEFORE_PLAYBACK
        given_out = max(1, frames - request.slice_frames + 1)
        unheard = given_out * _FRAME_SECONDS - (self._clock() - began)
        return BufferedAudio(unheard, min(given_out, request.slice_frames))
