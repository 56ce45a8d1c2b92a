"""Where words are in the text of a request and in its audio. Plain dataclasses, no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Word:
    """A word as it is said.

    text: without white space; with the punctuation on it.
    text_begin, text_end: the characters of the request's text that it stands for; several words that are said for one
        written word share them ("twenty dollars" for "$20").
    begin, end: samples from the origin of the TextTiming that holds it; None where the engine does not know them.
    """

    text: str
    text_begin: int
    text_end: int
    begin: int | None = None
    end: int | None = None


@dataclass(frozen=True)
class TextTiming:
    """Where a text chunk is in the audio; its frames were counted, so this is exact.

    begin, end: samples; on an AudioChunk from its first sample on, so begin is mostly negative.
    """

    words: tuple[Word, ...]
    begin: int
    end: int

    def moved(self, by: int) -> TextTiming:
        """The same so many samples later."""
        words = tuple(_placed(word, lambda at: at + by) for word in self.words)
        return TextTiming(words, self.begin + by, self.end + by)

    def clipped(self, first: int, last: int) -> TextTiming:
        """The part between two samples: words beyond them are dropped where their place is known."""
        words = tuple(
            _placed(word, lambda at: min(max(at, first), last))
            for word in self.words
            if word.begin is None or word.end is None or (word.begin < last and word.end > first)
        )
        return TextTiming(words, min(max(self.begin, first), last), min(max(self.end, first), last))


def share_words(words: Sequence[Word], parts: Sequence[str]) -> list[tuple[Word, ...]]:
    """The words of a text chunk for each of the parts that it was cut into, between words."""
    shares: list[tuple[Word, ...]] = []
    used = 0
    for part in parts:
        count = sum(map(is_word, part.split()))
        shares.append(tuple(words[used : used + count]))
        used += count
    return shares


def is_word(token: str) -> bool:
    """Whether anything of a token is said."""
    return any(map(str.isalnum, token))


def _placed(word: Word, place: Callable[[int], int]) -> Word:
    if word.begin is None or word.end is None:
        return word
    return replace(word, begin=place(word.begin), end=place(word.end))
