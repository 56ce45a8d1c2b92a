"""Where pieces of audio meet: crossfades between text chunks, trims at both ends. Pure numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .types import SAMPLE_RATE, AudioChunk, Codes, Samples, SpeechRequest

_NOTHING: Samples = np.zeros(0, np.float32)


def _samples(milliseconds: int) -> int:
    return milliseconds * SAMPLE_RATE // 1000


class Crossfader:
    """Crossfades the joins between text chunks and trims both ends of the whole, as the request asks.

    It holds back no more than it must: nothing at all in the last text chunk without a trailing trim.
    Over a crossfade of n samples the last n of one text chunk lie on the first n of the next, so each
    join shortens the whole by n. Weights are linear: they add up to 1, so nothing gets louder.
    """

    def __init__(self, request: SpeechRequest) -> None:
        self._to_skip = _samples(request.trim_start_milliseconds)
        self._trim_end = _samples(request.trim_end_milliseconds)
        self._fade = _samples(request.crossfade_milliseconds) if request.overlap == "full" else 0
        self._held = _NOTHING  # joined, but may still be trimmed off or faded out
        self._tail = _NOTHING  # the end of the text chunk before, waiting for this one
        self._young = _NOTHING  # the start of this one, while it is shorter than that tail
        self._codes: list[Codes] = []  # of chunks that gave out no samples yet

    def push(self, chunk: AudioChunk) -> AudioChunk | None:
        """The chunk with the samples that can be given out by now; None if that is none of them yet."""
        if chunk.in_last_text_chunk and self._idle:
            return chunk
        fresh = self._meet_tail(self._skip_start(chunk.samples), chunk.ends_text_chunk)
        pending = np.concatenate([self._held, fresh]) if self._held.size else fresh
        if chunk.ends_speech:
            hold, drop = 0, self._trim_end
        elif chunk.ends_text_chunk:
            split = max(pending.size - self._fade, 0)
            pending, self._tail = pending[:split], pending[split:]
            hold, drop = max(self._trim_end - self._fade, 0), 0
        else:
            hold, drop = max(self._trim_end, 0 if chunk.in_last_text_chunk else self._fade), 0
        cut = max(pending.size - hold - drop, 0)
        ready, self._held = pending[:cut], pending[cut : pending.size - drop] if hold else _NOTHING
        self._codes.append(chunk.codes)
        if not ready.size and not chunk.ends_speech:
            return None
        codes = np.concatenate(self._codes) if len(self._codes) > 1 else chunk.codes
        self._codes = []
        return replace(chunk, samples=ready, codes=codes)

    @property
    def _idle(self) -> bool:
        """In the last text chunk there is nothing left to do: most chunks of most speech pass as they are."""
        return not (self._to_skip or self._trim_end or self._held.size or self._tail.size or self._codes)

    def _skip_start(self, samples: Samples) -> Samples:
        skipped = min(self._to_skip, samples.size)
        self._to_skip -= skipped
        return samples[skipped:]

    def _meet_tail(self, samples: Samples, whole: bool) -> Samples:
        """Lay the last text chunk's tail over the start of this one, once enough of this one is there."""
        if not self._tail.size:
            return samples
        samples = np.concatenate([self._young, samples])
        if samples.size < self._tail.size and not whole:
            self._young = samples
            return _NOTHING
        tail, self._tail, self._young = self._tail, _NOTHING, _NOTHING
        n = min(samples.size, tail.size)
        weight = (np.arange(n, dtype=np.float32) + 0.5) / max(n, 1)
        meeting = tail[:n] * (1 - weight) + samples[:n] * weight
        return np.concatenate([meeting, tail[n:], samples[n:]])
