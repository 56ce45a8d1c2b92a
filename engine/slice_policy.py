"""How many frames to emit in the next slice: few while the listener has little audio buffered, more later."""

from __future__ import annotations

import time
from collections.abc import Callable

from .types import FRAME_MILLISECONDS


class SlicePolicy:
    """Slices grow from `first` to `max_frames` frames, doubling, within what the listener's buffer allows.

    Playback begins with the first slice. A slice of n frames that take f seconds each arrives after n * f seconds.
    That may use up at most half of the buffered audio, so that a slow frame causes no gap. A fast engine reaches
    `max_frames` at once; one that barely keeps up stays with small slices.
    """

    def __init__(self, first: int, max_frames: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.size = self._first_size = min(first, max_frames)
        self._max_frames = max_frames
        self._clock = clock
        self._emitted = 0  # frames
        self._first_emitted = self._last_emitted = 0.0  # clock times of the first and the latest slice

    def emitted(self) -> None:
        """A slice of `size` frames has just been emitted: choose the size of the next."""
        now, size = self._clock(), self.size
        if not self._emitted:
            self._first_emitted = now  # the second slice shows how fast the engine is, so it is no larger
        else:
            seconds_per_frame = max((now - self._last_emitted) / size, 1e-6)
            buffered = (self._emitted + size) * FRAME_MILLISECONDS / 1000 - (now - self._first_emitted)
            affordable = int(buffered / 2 / seconds_per_frame)
            self.size = max(1, min(2 * size, self._max_frames, affordable))
        self._emitted += size
        self._last_emitted = now

    def text_came(self) -> None:
        """The request may have waited for text: if its listener has heard all of it, playback begins anew."""
        now = self._clock()
        late = now - self._first_emitted - self._emitted * FRAME_MILLISECONDS / 1000
        if late > 0:
            self._first_emitted += late
            self.size = self._first_size
        self._last_emitted = now
