"""When Kokoro says each word: the durations that it predicts, followed through the windows of its audio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ..timing import Word
from .model import FRAME_SAMPLES, Prosody
from .phonemes import Place
from .windows import Window


def token_ends(prosody: Prosody, tokens: int) -> list[int] | None:
    """The frame after each of so many tokens and of the two that enclose them; None if the durations are not clear.

    The decoder's input repeats the features of a token for each of its frames, so they change where a token begins.
    """
    features = prosody.phonemes[0]  # (512, frames)
    changes = np.flatnonzero((features[:, 1:] != features[:, :-1]).any(axis=0)) + 1
    ends = [*map(int, changes), prosody.frames]
    return ends if len(ends) == tokens + 2 else None


class PhraseClock:
    """Places the words of a phrase in the samples of its text chunk, window by window.

    places: of each word, in tokens.
    """

    def __init__(self, words: Sequence[Word], places: Sequence[Place], ends: Sequence[int]) -> None:
        starts = [0, *ends]  # of the token before the first, the first, …
        self._words = [
            (word, starts[place.begin + 1], starts[place.end + 1]) for word, place in zip(words, places, strict=True)
        ]

    def advance(self, window: Window, end: int, *, is_last: bool) -> Iterator[Word]:
        """The words that have ended with a window, whose audio ends at sample `end`.

        The joiner moves the start of a window by some samples, and never its end.
        """
        while self._words and (is_last or self._words[0][2] <= window.end):
            word, first, last = self._words.pop(0)
            begin, after = (max(end + (min(at, window.end) - window.end) * FRAME_SAMPLES, 0) for at in (first, last))
            yield replace(word, begin=begin, end=after)
