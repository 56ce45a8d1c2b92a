"""Tracks which characters of a request's text each spoken word stands for, through markup and normalisation."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from ..timing import Word, is_word

_TOKEN = re.compile(r"\S+")


@dataclass(frozen=True)
class Origin:
    """characters: number of characters, white space not counted, that stand for text[begin:end] of the request."""

    characters: int
    begin: int
    end: int

    @property
    def is_verbatim(self) -> bool:
        return self.end - self.begin == self.characters

    def split(self, characters: int) -> tuple[Origin, Origin]:
        """Its first characters and the rest. What is not verbatim is not divisible: both then stand for all of it."""
        cut = self.begin + characters
        if self.is_verbatim:
            return Origin(characters, self.begin, cut), Origin(self.characters - characters, cut, self.end)
        return Origin(characters, self.begin, self.end), Origin(self.characters - characters, self.begin, self.end)


def verbatim(text: str, at: int) -> Iterator[Origin]:
    """The origins of a text that stands in the request's text from `at` on."""
    for found in _TOKEN.finditer(text):
        yield Origin(found.end() - found.start(), at + found.start(), at + found.end())


def count(text: str) -> int:
    """Characters of a text without its white space."""
    return sum(map(len, text.split()))


class OriginQueue:
    """The origins of a text, taken in the order in which the text is read."""

    def __init__(self, origins: Iterable[Origin] = ()) -> None:
        self._origins = deque(origins)
        self._at = 0  # where the last word ends in the request's text

    def add(self, origins: Iterable[Origin]) -> None:
        self._origins.extend(origins)

    def take(self, characters: int) -> list[Origin]:
        """The origins of the next characters, white space not counted."""
        taken: list[Origin] = []
        while characters > 0 and self._origins:
            origin = self._origins.popleft()
            if origin.characters > characters:
                origin, rest = origin.split(characters)
                self._origins.appendleft(rest)
            taken.append(origin)
            characters -= origin.characters
        return taken

    def words(self, text: str) -> tuple[Word, ...]:
        """The words of the next text, with the characters that they stand for."""
        words = []
        for token in text.split():
            begin, self._at = _span(self.take(len(token))) or (self._at, self._at)
            if is_word(token):
                words.append(Word(token, begin, self._at))
        return tuple(words)


def trace(written: str, origins: Sequence[Origin], said: str) -> list[Origin]:
    """The origins of what is said in place of a text, whose origins are given.

    Words that stay the same map to themselves. A run of words that changed maps as a whole to the run that it was
    written as, since nothing tells which part became which.
    """
    if written == said:
        return list(origins)
    queue, before, after = OriginQueue(origins), written.split(), said.split()
    spans = [_span(queue.take(len(token))) for token in before]
    traced: list[Origin] = []
    matcher = SequenceMatcher(None, [*map(_key, before)], [*map(_key, after)], autojunk=False)
    for kind, first, last, begin, end in matcher.get_opcodes():
        tokens = after[begin:end]
        if kind == "equal":
            pairs = zip(tokens, spans[first:last], strict=True)
        else:  # words that were inserted belong to the word before them
            span = _union(spans[first:last] or spans[max(first - 1, 0) : max(first, 1)])
            pairs = zip(tokens, [span] * len(tokens), strict=True)
        traced += [Origin(len(token), *(span or (0, 0))) for token, span in pairs]
    return traced


def _key(token: str) -> str:
    return "".join(filter(str.isalnum, token)).casefold() or token


def _span(origins: Sequence[Origin]) -> tuple[int, int] | None:
    return _union([(origin.begin, origin.end) for origin in origins])


def _union(spans: Sequence[tuple[int, int] | None]) -> tuple[int, int] | None:
    known = [span for span in spans if span is not None and span[0] < span[1]]
    if not known:
        return None
    return min(begin for begin, _ in known), max(end for _, end in known)
