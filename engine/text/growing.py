"""Texts in parts, before they are normalised: how much of a text that is still written can be spoken already."""

from __future__ import annotations

from .splitting import raw_cut, sentence_ends
from .ssml import speak_spans


def sentences_end(text: str) -> int:
    """Index after the last complete sentence of a text that is still growing; 0 if there is none.

    A `<speak>` element is spoken once it is closed.
    """
    if "<speak" not in text:
        return max(sentence_ends(text), default=0)
    closed, unclosed = speak_spans(text)
    ends = [end for end in sentence_ends(text[:unclosed]) if not any(start < end < stop for start, stop in closed)]
    return max([*ends, *(stop for _, stop in closed)], default=0)


def speakable_end(text: str, limit: int) -> int:
    """Index up to which a text that is still growing can be spoken; 0 if more of it has to be known.

    Up to its last complete sentence; a text of more than twice `limit` characters without one is cut at a clause or
    between words, where its parts are said as in the whole.
    """
    end = sentences_end(text)
    if end or len(text) <= 2 * limit:
        return end
    _, unclosed = speak_spans(text)
    if unclosed is not None and not text[:unclosed].strip():
        return 0
    known = len(text) if unclosed is None else unclosed
    return raw_cut(text, 0, min(len(text) - limit, known))


def split_written(text: str, limit: int) -> list[str]:
    """Split a text into parts of at most `limit` characters that are said as in the whole, none blank.

    A `<speak>` element is a part of its own, however long. White space is collapsed elsewhere.
    """
    parts: list[str] = []
    done = 0
    for start, end in [*speak_spans(text)[0], (len(text), len(text))]:
        rest = " ".join(text[done:start].split())
        while len(rest) > limit:
            cut = raw_cut(rest, 0, limit)
            parts.append(rest[:cut].rstrip())
            rest = rest[cut:].lstrip()
        parts += [rest, text[start:end]]
        done = end
    return [part for part in parts if part]
