"""Text splitting, and the longest duration that a text can take. Pure, no torch."""

from __future__ import annotations

import math
import re
import unicodedata

from ..types import FRAME_MILLISECONDS

_SENTENCE_END = re.compile(r"""[.!?…]+["'”’)\]]*(?=\s)|[。！？｡]+["'”’」』）]*""")
_CLAUSE_END = re.compile(r"""[,;:—–]+["'”’)\]]*(?=\s)|\s[-–—](?=\s)|[，；：、]+""")
_SPACE = re.compile(r"\s")
# A dot after one of these, or after a single letter, does not end a sentence; after several letters it does: "S S H."
_ABBREVIATION = re.compile(
    r"(?:^|(?<!\b[A-Z])[\s(\"'“‘])(?:[A-Za-z]|mr|mrs|ms|dr|prof|st|vs|etc|no|fig|e\.g|i\.e|jr|sr|approx)\.$", re.I
)


def split_text(text: str, limit: int) -> list[str]:
    """Split a text into chunks of at most `limit` characters, none empty, in reading order.

    A chunk ends at a sentence end if possible, else at a clause end, else between words, else anywhere. Whitespace is
    collapsed. Chunks without letters or digits are dropped, unless no other chunk is left.
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
    """Index after the last complete sentence of a text that is still growing; 0 if there is none.

    A mark ends a sentence only once whitespace follows: "3." may become "3.5" with the next character.
    """
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return next((end for end in reversed(ends) if not _ABBREVIATION.search(text[:end])), 0)


def _best_cut(text: str, limit: int) -> int:
    """Index after the best break in the first `limit` characters of a longer text."""
    window = text[: limit + 1]  # one more character shows whether a word ends at the limit
    for pattern in (_SENTENCE_END, _CLAUSE_END, _SPACE):
        ends = [match.end() for match in pattern.finditer(window) if match.end() <= limit]
        if pattern is _SENTENCE_END:
            ends = [end for end in ends if not _ABBREVIATION.search(window[:end])]
        if ends and window[: ends[-1]].strip():
            return ends[-1]
    return limit


# Seconds per character in slow speech. Latin text is spoken at 10 to 18 characters a second; digits and symbols become
# words, an ideograph is one or two syllables.
_SLOW_LETTER, _SLOW_SYMBOL, _SLOW_IDEOGRAPH = 0.15, 0.7, 0.6
_SILENCE = 1.5  # seconds around the words


def max_frames_for(text: str) -> int:
    """Upper limit on the frames of `text`, since CSM sometimes never generates its stop frame.

    Roughly two to three times what a slow reader needs, so that only runaway speech reaches it.
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
