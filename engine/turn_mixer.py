"""Sets the turns of a dialogue one after another: with silence between them, or mixed where they overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

import numpy as np

from .timing import TextTiming
from .types import SAMPLE_RATE, AudioChunk, Codes, DialogueTurn, Samples

_EMPTY: Samples = np.zeros(0, np.float32)


class TurnMixer:
    """Inserts the gaps before the turns, and mixes a turn that begins early with the end of those before it.

    A gap counts from the end of all that was said so far. A turn never begins before the one before it does, so no
    sample that was emitted is ever needed again. Only what the next turn may overlap is held back.
    """

    def __init__(self, turns: Sequence[DialogueTurn]) -> None:
        self._gaps = [turn.gap_milliseconds * SAMPLE_RATE // 1000 for turn in turns]
        self._part = 0  # the turn that is being added
        self._begin = 0  # its first sample
        self._next = 0  # where its next sample goes
        self._emitted = 0  # samples
        self._held = _EMPTY  # what follows them
        self._codes: list[Codes] = []  # of chunks whose samples are all held back
        self._timings: list[TextTiming] = []  # of text chunks whose ends are held back, in samples of the output

    def push(self, chunk: AudioChunk) -> AudioChunk | None:
        """The chunk with the samples that can be emitted now; None if there are none yet."""
        while self._part < chunk.text_part:  # turns without any audio
            self._begin_turn()
        self._timings += [timing.moved(self._next) for timing in chunk.timings]
        self._add(chunk.samples)
        self._codes.append(chunk.codes)
        if chunk.ends_text_part and not chunk.ends_speech:
            self._begin_turn()
        count = (self._end if chunk.ends_speech else self._final) - self._emitted
        if count <= 0 and not chunk.ends_speech:
            return None
        first, self._emitted = self._emitted, self._emitted + count
        ready, self._held = self._held[:count], self._held[count:]
        complete = list(takewhile(lambda each: each.end <= self._emitted, self._timings))  # in order of their begins
        self._timings = self._timings[len(complete) :]
        codes, self._codes = np.concatenate(self._codes), []
        return replace(chunk, samples=ready, codes=codes, timings=tuple(each.moved(-first) for each in complete))

    @property
    def _end(self) -> int:
        return self._emitted + self._held.size

    @property
    def _final(self) -> int:
        """The samples before this one are complete: neither this turn nor the next adds to them."""
        gap = self._gaps[self._part + 1] if self._part + 1 < len(self._gaps) else 0
        return min(self._next, max(self._end + min(gap, 0), self._begin))

    def _begin_turn(self) -> None:
        """Go to the next turn; a gap before it becomes silence."""
        self._part += 1
        self._begin = self._next = max(self._end + self._gaps[self._part], self._begin)
        self._lengthen(self._begin)

    def _add(self, samples: Samples) -> None:
        """Mix the turn's next samples with what is there."""
        at = self._next - self._emitted
        shared = min(samples.size, self._held.size - at)
        if shared:
            mixed = self._held[at : at + shared] + samples[:shared]
            self._held = np.concatenate([self._held[:at], np.clip(mixed, -1.0, 1.0), self._held[at + shared :]])
        self._next += samples.size
        self._held = np.concatenate([self._held, samples[shared:]])

    def _lengthen(self, end: int) -> None:
        if end > self._end:
            self._held = np.concatenate([self._held, np.zeros(end - self._end, np.float32)])
