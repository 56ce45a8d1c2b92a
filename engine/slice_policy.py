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
        self._seconds_per_frame = 0.0  # of the latest slice

    def emitted(self) -> None:
        """A slice of `size` frames has just been emitted: choose the size of the next."""
        now, size = self._clock(), self.size
        if not self._emitted:
            self._first_emitted = now  # the second slice shows how fast the engine is, so it is no larger
        else:
            self._seconds_per_frame = max((now - self._last_emitted) / size, 1e-6)
            self.size = max(1, min(2 * size, self._max_frames, self._affordable(self._buffered(now, size))))
        self._emitted += size
        self._last_emitted = now

    def chunk_ended(self, frames: int) -> None:
        """The last slice of a text chunk has been emitted, of fewer frames than `size`."""
        self._first_emitted = self._first_emitted if self._emitted else self._clock()
        self._emitted += frames

    def text_came(self) -> None:
        """The request may have waited for text: the next slice is no larger than what is buffered still allows.

        If its listener has heard everything, playback begins anew.
        """
        now = self._clock()
        buffered = self._buffered(now)
        if buffered > 0 and self._seconds_per_frame:
            self.size = max(1, min(self.size, self._affordable(buffered)))
        else:
            self._first_emitted -= min(buffered, 0.0)
            self.size = self._first_size
        self._last_emitted = now

    def _buffered(self, now: float, emitting: int = 0) -> float:
        """Seconds of audio that the listener has not heard, with a slice that is just being emitted."""
        return (self._emitted + emitting) * FRAME_MILLISECONDS / 1000 - (now - self._first_emitted)

    def _affordable(self, buffered: float) -> int:
        return int(buffered / 2 / self._seconds_per_frame)
