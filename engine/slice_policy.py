"""How many frames to emit in the next slice: few while the listener has little audio buffered, more later."""

from __future__ import annotations

import time
from collections.abc import Callable

from .types import FRAME_MILLISECONDS


class SlicePolicy:
    """Slices grow from `first` to `max_frames` frames, doubling, within what the listener's buffer allows.

    Playback begins once the listener has been given audio. A slice of n frames that take f seconds each arrives after
    n * f seconds. That may use up at most half of the buffered audio, so that a slow frame causes no gap. A fast engine
    reaches `max_frames` at once; one that barely keeps up stays with small slices.

    audio: seconds that the listener has been given so far; fewer than were emitted where turns overlap.
    """

    def __init__(
        self, first: int, max_frames: int, audio: Callable[[], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.size = self._first_size = min(first, max_frames)
        self._max_frames = max_frames
        self._audio = audio
        self._clock = clock
        self._began = self._last_emitted = 0.0  # clock times: when playback began, and of the latest slice
        self._seconds_per_frame = 0.0  # of the latest slice

    def emitting(self) -> None:
        """A slice of `size` frames is being emitted: choose the size of the next."""
        now, size = self._clock(), self.size
        if not self._begins(now):  # else the next slice shows how fast the engine is, so it is no larger
            buffered = self._buffered(now) + size * FRAME_MILLISECONDS / 1000
            self._seconds_per_frame = max((now - self._last_emitted) / size, 1e-6)
            self.size = max(1, min(2 * size, self._max_frames, self._affordable(buffered)))
        self._last_emitted = now

    def ending_chunk(self) -> None:
        """The last slice of a text chunk is being emitted, of fewer frames than `size`."""
        self._begins(self._clock())

    def text_came(self) -> None:
        """The request may have waited for text: the next slice is no larger than what is buffered still allows.

        If its listener has heard everything, playback begins anew.
        """
        now = self._clock()
        buffered = self._buffered(now)
        if buffered > 0 and self._seconds_per_frame:
            self.size = max(1, min(self.size, self._affordable(buffered)))
        else:
            self._began -= min(buffered, 0.0)
            self.size = self._first_size
        self._last_emitted = now

    def _begins(self, now: float) -> bool:
        """Whether playback begins with the slice that is being emitted: nothing was given before it."""
        begins = self._audio() <= 0
        if begins:
            self._began = now
        return begins

    def _buffered(self, now: float) -> float:
        """Seconds of audio that the listener has been given and has not heard."""
        return self._audio() - (now - self._began)

    def _affordable(self, buffered: float) -> int:
        return int(buffered / 2 / self._seconds_per_frame)
