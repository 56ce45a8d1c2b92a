"""A text that is still being written, as utterances that can be said by now."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable, Iterator

from engine import sentences_end, split_text

from .exit_status import CommandFailed

LONGEST = 1000  # characters of one utterance: what waits is said in fewer of them, in one breath and one context
_UNBROKEN = 300  # so much text without the end of a sentence is said in parts
_AT_ONCE = 65536  # bytes
_LINE = re.compile(r"\n")
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n")


def read_pieces(descriptor: int) -> Iterator[str]:
    """Text as it comes in on a file descriptor, in UTF-8. Raises CommandFailed if it is something else."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        while data := os.read(descriptor, _AT_ONCE):
            yield decoder.decode(data)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise CommandFailed(f"the text on stdin is not UTF-8 ({error.reason}): convert it, as with iconv") from None


def utterances(pieces: Iterable[str], *, lines: bool = False) -> Iterator[str]:
    """What can be said of a text so far, each time it is asked for: whole sentences, or paragraphs without a mark.

    lines: every line is at its end, as when somebody types.
    """
    waiting = ""
    for piece in pieces:
        ready, waiting = _divided(waiting + piece, lines)
        yield from _parts(ready)
    yield from _parts(waiting)


def _divided(text: str, lines: bool) -> tuple[str, str]:
    """What can be said by now, and the rest."""
    mark = _LINE if lines else _PARAGRAPH
    end = max([sentences_end(text), *(found.end() for found in mark.finditer(text))])
    if end or len(text) <= _UNBROKEN:
        return text[:end], text[end:]
    *whole, rest = split_text(text, _UNBROKEN)  # white space at its end is gone
    return " ".join(whole), rest + (" " if text[-1].isspace() else "")


def _parts(text: str) -> list[str]:
    return [part for part in split_text(text, LONGEST) if any(map(str.isalnum, part))]
