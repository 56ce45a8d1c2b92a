"""Streaming crossfades between text chunks, pauses, and trims at both ends. Pure numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .timing import TextTiming
from .types import SAMPLE_RATE, AudioChunk, Codes, Samples, SpeechRequest

_EMPTY: Samples = np.zeros(0, np.float32)


def _samples(milliseconds: int) -> int:
    return milliseconds * SAMPLE_RATE // 1000


class Crossfader:
    """Crossfades the joins between text chunks, inserts pauses and trims both ends of the speech, as the request asks.

    It holds back as few samples as possible: none in the last text chunk without a trailing trim. A crossfade of n
    samples overlaps the last n of one text chunk with the first n of the next, so each join shortens the audio by n.
    Weights are linear and add up to 1, so nothing gets louder. A pause is exact silence between two text chunks, which
    are then not crossfaded; trims do not reach over it. Nor do they reach over the end of a dialogue's turn.
    """

    def __init__(self, request: SpeechRequest) -> None:
        self._trim_left = _samples(request.trim_start_milliseconds)
        self._trim_end = _samples(request.trim_end_milliseconds)
        self._fade = _samples(request.crossfade_milliseconds) if request.overlap == "full" else 0
        self._has_turns = bool(request.turns)
        self._held = _EMPTY  # crossfaded, but may still be trimmed or be part of the next crossfade
        self._tail = _EMPTY  # the end of the previous text chunk, to overlap with this one
        self._head = _EMPTY  # the start of this text chunk, while it is shorter than the tail
        self._codes: list[Codes] = []  # of chunks whose samples are all held back
        self._silence = 0  # samples of a pause that go before the next samples
        self._emitted = 0  # samples so far
        self._kept = 0  # samples of this text chunk so far, without those that were trimmed
        self._timings: list[TextTiming] = []  # of text chunks whose ends are held back, in samples of the output

    def push(self, chunk: AudioChunk) -> AudioChunk | None:
        """The chunk with the samples that can be emitted now; None if there are none yet."""
        before = _EMPTY  # what was held back of the chunk before a pause
        if chunk.pause_before and (self._held.size or self._tail.size):
            before = np.concatenate([self._held, self._tail])
            self._held = self._tail = _EMPTY
        self._silence += chunk.pause_before
        if chunk.in_last_text_chunk and self._passthrough and not chunk.pause_after:
            self._kept += chunk.samples.size
            self._locate(chunk, self._emitted + chunk.samples.size)
            return self._with_timings(chunk)
        trimmed = self._trim_start(chunk.samples)
        self._kept += trimmed.size
        fresh = self._crossfade_tail(trimmed, chunk.ends_text_chunk)
        pending = np.concatenate([self._held, fresh]) if self._held.size else fresh
        self._locate(chunk, self._emitted + self._silence + pending.size)
        if chunk.ends_speech:
            hold, drop = 0, self._trim_end
        elif chunk.pause_after or (self._has_turns and chunk.ends_text_part):
            hold, drop = 0, 0
        elif chunk.ends_text_chunk:
            split = max(pending.size - self._fade, 0)
            pending, self._tail = pending[:split], pending[split:]
            hold, drop = max(self._trim_end - self._fade, 0), 0
        else:
            hold, drop = max(self._trim_end, 0 if chunk.in_last_text_chunk else self._fade), 0
        cut = max(pending.size - hold - drop, 0)
        ready, self._held = pending[:cut], pending[cut : pending.size - drop] if hold else _EMPTY
        if self._silence and (ready.size or chunk.ends_speech):
            ready, self._silence = np.concatenate([np.zeros(self._silence, np.float32), ready]), 0
        if before.size:
            ready = np.concatenate([before, ready])
        if chunk.pause_after:
            ready = np.concatenate([ready, np.zeros(chunk.pause_after, np.float32)])
        self._codes.append(chunk.codes)
        if not (ready.size or chunk.ends_speech or chunk.ends_text_part):
            return None
        codes = np.concatenate(self._codes) if len(self._codes) > 1 else chunk.codes
        self._codes = []
        return self._with_timings(replace(chunk, samples=ready, codes=codes, pause_before=0, pause_after=0))

    def _locate(self, chunk: AudioChunk, end: int) -> None:
        """Note where the text chunks that end with it are: their last sample is before sample `end` of the output."""
        for timing in chunk.timings:
            self._timings.append(timing.moved(end - timing.end).clipped(end - self._kept, end))
        if chunk.ends_text_chunk:
            self._kept = 0

    def _with_timings(self, chunk: AudioChunk) -> AudioChunk:
        """The chunk to emit with the timings of the text chunks whose last samples have been emitted with it."""
        first, self._emitted = self._emitted, self._emitted + chunk.samples.size
        if not self._timings:
            return chunk
        complete = [each for each in self._timings if chunk.ends_speech or each.end <= self._emitted]
        self._timings = self._timings[len(complete) :]
        placed = (each.clipped(each.begin, self._emitted).moved(-first) for each in complete)
        return replace(chunk, timings=tuple(placed))

    @property
    def _passthrough(self) -> bool:
        """Nothing is left to trim or crossfade, so chunks of the last text chunk pass unchanged."""
        return not (
            self._trim_left or self._trim_end or self._held.size or self._tail.size or self._codes or self._silence
        )

    def _trim_start(self, samples: Samples) -> Samples:
        skipped = min(self._trim_left, samples.size)
        self._trim_left -= skipped
        return samples[skipped:]

    def _crossfade_tail(self, samples: Samples, complete: bool) -> Samples:
        """Crossfade the previous text chunk's tail with the start of this one, once this one is long enough."""
        if not self._tail.size:
            return samples
        samples = np.concatenate([self._head, samples])
        if samples.size < self._tail.size and not complete:
            self._head = samples
            return _EMPTY
        tail, self._tail, self._head = self._tail, _EMPTY, _EMPTY
        n = min(samples.size, tail.size)
        weight = (np.arange(n, dtype=np.float32) + 0.5) / max(n, 1)
        mixed = tail[:n] * (1 - weight) + samples[:n] * weight
        return np.concatenate([mixed, tail[n:], samples[n:]])
