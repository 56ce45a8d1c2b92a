"""Pure decisions about text: where it is cut, and how long it can take to say. No torch."""

from __future__ import annotations

import math
import re
import unicodedata

from .types import FRAME_MILLISECONDS

_SENTENCE_END = re.compile(r"""[.!?…]+["'”’)\]]*(?=\s)|[。！？｡]+["'”’」』）]*""")
_CLAUSE_END = re.compile(r"""[,;:—–]+["'”’)\]]*(?=\s)|\s[-–—](?=\s)|[，；：、]+""")
_SPACE = re.compile(r"\s")
# A dot behind one of these, or behind a single letter, ends no sentence.
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'“‘])(?:[A-Za-z]|mr|mrs|ms|dr|prof|st|vs|etc|no|fig|e\.g|i\.e|jr|sr|approx)\.$", re.I
)


def split_text(text: str, limit: int) -> list[str]:
    """Cut a text into chunks of at most `limit` characters, none of them empty, in reading order.

    A chunk ends at a sentence's end where it can, else at a clause's, else between words, else anywhere.
    White space is folded; a chunk in which nothing can be pronounced is left out, unless that is all there is.
    """
    rest = " ".join(text.split())
    chunks = []
    while len(rest) > limit:
        cut = _best_cut(rest, limit)
        chunks.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    if rest:
        chunks.append(rest)
    return [chunk for chunk in chunks if any(map(str.isalnum, chunk))] or chunks[:1]


def sentences_end(text: str) -> int:
    """Behind the last sentence that has surely ended in a text that is still being written; 0 if none has.

    A mark ends a sentence once white space follows it: what is "3." now may be "3.5" with the next letter.
    """
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return next((end for end in reversed(ends) if not _ABBREVIATION.search(text[:end])), 0)


def _best_cut(text: str, limit: int) -> int:
    """Where to cut a text that is longer than `limit`: behind the best break in its first `limit` characters."""
    window = text[: limit + 1]  # the character behind the window tells whether a word ends there
    for pattern in (_SENTENCE_END, _CLAUSE_END, _SPACE):
        ends = [match.end() for match in pattern.finditer(window) if match.end() <= limit]
        if pattern is _SENTENCE_END:
            ends = [end for end in ends if not _ABBREVIATION.search(window[:end])]
        if ends and window[: ends[-1]].strip():
            return ends[-1]
    return limit


# Seconds that one character can take in slow speech. Latin text is spoken at 10 to 18 characters a second;
# digits and symbols become words, an ideograph is a syllable or two.
_SLOW_LETTER, _SLOW_SYMBOL, _SLOW_IDEOGRAPH = 0.15, 0.7, 0.6
_SILENCE = 1.5  # seconds around the words


def max_frames_for(text: str) -> int:
    """The most frames that saying `text` can reasonably take: CSM sometimes never says that it has finished.

    Roughly twice to three times what a slow reader needs, so that only a runaway meets it.
    """
    seconds = _SILENCE + sum(map(_slow_seconds, text))
    return math.ceil(seconds * 1000 / FRAME_MILLISECONDS)


def _slow_seconds(character: str) -> float:
    if character.isspace():
        return _SLOW_LETTER
    category = unicodedata.category(character)
    if category == "Lo":
        return _SLOW_IDEOGRAPH
    if category[0] == "N" or category[0] == "S":
        return _SLOW_SYMBOL
    return _SLOW_LETTER
