"""How many frames go into the next slice: few while the listener has little in hand, more once there is time."""

from __future__ import annotations

import time
from collections.abc import Callable

from .types import FRAME_MILLISECONDS


class SlicePolicy:
    """Slices grow from `first` to `most` frames, doubling, but never beyond what the listener can wait for.

    A listener begins with the first slice and hears what was emitted; a slice of n frames that take f seconds
    each is n * f away. That may use up no more than half of what is still unheard, so that a slow frame is no gap
    either. A fast engine reaches `most` at once; one that barely keeps up stays with small slices.
    """

    def __init__(self, first: int, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.size = min(first, most)
        self._most = most
        self._clock = clock
        self._emitted = 0  # frames
        self._began = self._last = 0.0  # when the first slice was emitted, and the last

    def emitted(self) -> None:
        """A slice of `size` frames has just been emitted: settle the size of the next."""
        now, size = self._clock(), self.size
        if not self._emitted:
            self._began = now  # how fast the engine is shows with the second slice, which is no larger
        else:
            seconds_each = max((now - self._last) / size, 1e-6)
            unheard = (self._emitted + size) * FRAME_MILLISECONDS / 1000 - (now - self._began)
            bearable = int(unheard / 2 / seconds_each)
            self.size = max(1, min(2 * size, self._most, bearable))
        self._emitted += size
        self._last = now
