"""Text splitting, before and after normalisation, and the longest duration that a text can take. Pure, no torch."""

from __future__ import annotations

import math
import re
import unicodedata

from ..types import FRAME_MILLISECONDS

_SENTENCE_END = re.compile(r"""[.!?…]+["'”’)\]]*(?=\s)|[。！？｡]+["'”’」』）]*""")
_CLAUSE_END = re.compile(r"""[,;:—–]+["'”’)\]]*(?=\s)|\s[-–—](?=\s)|[，；：、]+""")
_SPACE = re.compile(r"\s")
# A dot after one of these, or after a single letter, does not end a sentence; after several letters it does: "S S H."
_LONGEST_ABBREVIATION = 12  # characters, with those before it
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
        cut = best_cut(rest, limit)
        chunks.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    if rest:
        chunks.append(rest)
    return [chunk for chunk in chunks if any(map(str.isalnum, chunk))] or chunks[:1]


def sentence_ends(text: str) -> list[int]:
    """Indices after the sentences of a text, in order.

    A mark ends a sentence only where whitespace follows: "3." may become "3.5" with the next character.
    """
    ends = (match.end() for match in _SENTENCE_END.finditer(text))
    return [end for end in ends if not _ABBREVIATION.search(text[max(end - _LONGEST_ABBREVIATION, 0) : end])]


def best_cut(text: str, limit: int) -> int:
    """Index after the best break in the first `limit` characters of a longer text."""
    window = text[: limit + 1]  # one more character shows whether a word ends at the limit
    for pattern in (_SENTENCE_END, _CLAUSE_END, _SPACE):
        ends = [match.end() for match in pattern.finditer(window) if match.end() <= limit]
        if pattern is _SENTENCE_END:
            ends = [end for end in ends if not _ABBREVIATION.search(window[:end])]
        if ends and window[: ends[-1]].strip():
            return ends[-1]
    return limit


# ---- Before normalisation

_PARAGRAPH_END = re.compile(r"\n[^\S\n]*\n\s*")
_LINE_END = re.compile(r"\n")
_LAST_TOKEN = re.compile(r"\S{1,40}\s*$")
_NEXT_TOKEN = re.compile(r"\s*(\S{0,40})")
# Tokens that are said together with their neighbour: with digits, signs alone, Roman numerals, abbreviations.
_BEFORE_NUMBERS = re.compile(r"\d|^[^\w\s]+$|^(?:No|Nos|Fig|Figs|Eq|Sec|Ch|Vol|pp?|St|Mt|Ft)\.$", re.I)
_AFTER_NUMBERS = re.compile(r"\d|^[^\w\s\"'“‘(\[<*_]+$|^[IVXLC]+\b")


def raw_cut(text: str, start: int, end: int) -> int:
    """Index in (start, end] to cut a text that is not normalised yet, so that each side is said as in the whole.

    A cut is made after a paragraph, a line, a sentence, a clause or a word, whichever comes first in this order, and
    never inside "$3 million", "May 5" or "Dr. Lee", if `text` up to `end` offers anything else.
    """
    window = text[start:end]
    for pattern in (_PARAGRAPH_END, _LINE_END, _SENTENCE_END, _CLAUSE_END, _SPACE):
        for found in reversed(list(pattern.finditer(window))):
            at = start + found.end()
            if pattern in (_PARAGRAPH_END, _LINE_END) or _is_safe(text, at, ends_sentence=pattern is _SENTENCE_END):
                return at
    spaces = [found.end() for found in _SPACE.finditer(window)]
    return start + spaces[-1] if spaces else end


def _is_safe(text: str, at: int, *, ends_sentence: bool) -> bool:
    last = _LAST_TOKEN.search(text, max(at - 60, 0), at)
    following = _NEXT_TOKEN.match(text, at)
    before = last[0].strip() if last else ""
    after = following[1] if following else ""
    if not after:
        return False  # what follows is not known
    if _ABBREVIATION.search(text[max(at - _LONGEST_ABBREVIATION, 0) : at].rstrip()):
        return False
    if ends_sentence and (after[0].isupper() or after[0] in "\"'“‘"):
        return _BEFORE_NUMBERS.search(before) is None or not before[-1].isdigit()
    if before.endswith((",", ";", ":")) and not _AFTER_NUMBERS.search(after):
        return True
    return not (_BEFORE_NUMBERS.search(before) or _AFTER_NUMBERS.search(after))


# ---- Duration

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
