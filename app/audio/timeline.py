"""When the words of a response are said, in seconds of the audio that is sent."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from engine import MIN_GAP_MILLISECONDS, SAMPLE_RATE, AudioChunk, TextTiming, Word, estimate_word_times

from .encoders.base import Samples

MAX_OVERLAP_SECONDS = -MIN_GAP_MILLISECONDS / 1000  # of the turns of a dialogue, in the engine's audio


class ScriptTurn(NamedTuple):
    """A turn of a dialogue as it was sent."""

    voice_id: str
    text: str


@dataclass(frozen=True)
class WordMark:
    """A word as it was written, or several that are said as one.

    text: as written; text_begin, text_end: where that is in the request's text. spoken: what is said for it.
    begin, end: seconds. estimated: the engine does not know the times.
    """

    text: str
    text_begin: int
    text_end: int
    spoken: str
    begin: float
    end: float
    estimated: bool


@dataclass(frozen=True)
class ChunkMark:
    """A text chunk: its place in the audio, in seconds, is exact.

    words: as written. spoken: as they are said, each with its begin and its end.
    turn: of a dialogue, from 0. voice_id: that it was sent with.
    """

    words: tuple[WordMark, ...]
    spoken: tuple[tuple[str, float, float], ...]
    begin: float
    end: float
    turn: int | None = None
    voice_id: str | None = None

    def as_fields(self) -> dict[str, object]:
        """For a JSON message; times in milliseconds."""
        return {
            **({} if self.turn is None else {"turn": self.turn, "voice_id": self.voice_id}),
            "text": " ".join(word.text for word in self.words),
            "text_start": self.words[0].text_begin,
            "text_end": max(word.text_end for word in self.words),
            "start_ms": round(1000 * self.begin),
            "end_ms": round(1000 * self.end),
            "words": [
                {
                    "text": word.text,
                    "text_start": word.text_begin,
                    "text_end": word.text_end,
                    "spoken": word.spoken,
                    "start_ms": round(1000 * word.begin),
                    "end_ms": round(1000 * word.end),
                    "estimated": word.estimated,
                }
                for word in self.words
            ],
        }


class Timeline:
    """Follows the audio of one text, and tells of each text chunk once it is complete.

    text: that the engine's timings refer to. turns: of a dialogue, each a line of the text.
    speed: of the audio that is sent, which is shorter by that factor.
    text_at, samples_at: where the text and its audio begin, if other texts were spoken before it.
    """

    def __init__(
        self, text: str, speed: float = 1.0, *, turns: Sequence[ScriptTurn] = (), text_at: int = 0, samples_at: int = 0
    ) -> None:
        self._text = text
        self._speed = speed
        self._turns = turns
        self._turn_ends = list(accumulate(len(turn.text) + 1 for turn in turns))  # the first character after each
        self._overlap = round(MAX_OVERLAP_SECONDS * SAMPLE_RATE) if turns else 0
        self._text_at = text_at
        self.samples = samples_at  # of the engine so far
        self._kept_from = samples_at  # the first sample of _kept
        self._kept: list[Samples] = []  # what text chunks may hold that are not complete

    def push(self, chunk: AudioChunk) -> list[ChunkMark]:
        """The marks of the text chunks that end with this audio. Where there are any, it takes milliseconds."""
        first, self.samples = self.samples, self.samples + chunk.samples.size
        self._kept.append(chunk.samples)
        marks = []
        for timing in chunk.timings:
            placed = timing.moved(first)
            audio = self._audio(placed.begin, placed.end)
            if placed.words:
                marks.append(self._mark(estimate_word_times(placed, audio), placed))
        return marks

    def _audio(self, begin: int, end: int) -> Samples:
        """The samples of a text chunk. Kept are those that later ones share, in a crossfade or where turns overlap."""
        kept = np.concatenate(self._kept)
        audio = kept[max(begin - self._kept_from, 0) : end - self._kept_from]
        since = max(min(begin, end - self._overlap), self._kept_from)
        self._kept, self._kept_from = [kept[since - self._kept_from :]], since
        return audio

    def _mark(self, timing: TextTiming, known: TextTiming) -> ChunkMark:
        spoken = tuple((word.text, self._seconds(word.begin), self._seconds(word.end)) for word in timing.words)
        words = tuple(self._words(timing.words, known.words))
        begin, end = self._seconds(timing.begin), self._seconds(timing.end)
        if not self._turns:
            return ChunkMark(words, spoken, begin, end)
        turn = bisect_right(self._turn_ends, timing.words[0].text_begin)
        return ChunkMark(words, spoken, begin, end, turn, self._turns[turn].voice_id)

    def _words(self, placed: tuple[Word, ...], known: tuple[Word, ...]) -> Iterator[WordMark]:
        """One mark for all words that are said for the same characters."""
        index = 0
        while index < len(placed):
            first, after = placed[index], index + 1
            while after < len(placed) and _same_text(placed[after], first):
                after += 1
            group = placed[index:after]
            yield WordMark(
                " ".join(self._text[first.text_begin : first.text_end].split()),
                self._text_at + first.text_begin,
                self._text_at + first.text_end,
                " ".join(word.text for word in group),
                self._seconds(first.begin),
                self._seconds(group[-1].end),
                any(word.begin is None for word in known[index:after]),
            )
            index = after

    def _seconds(self, sample: int | None) -> float:
        assert sample is not None, "every word has a place once it is estimated"
        return sample / SAMPLE_RATE / self._speed


def _same_text(one: Word, other: Word) -> bool:
    return (one.text_begin, one.text_end) == (other.text_begin, other.text_end)
