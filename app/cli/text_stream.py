"""Splits streamed text into utterances that can be spoken before the text is complete."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable, Iterator

from engine import sentences_end, speakable_end, split_written

from .exit_status import CommandFailed

MAX_CHARACTERS = 1000  # of one utterance: waiting sentences are combined up to this, so that they share a context
_MAX_UNFINISHED = 150  # characters; of twice as many without a sentence end, all but these are spoken
_READ_BYTES = 65536
_LINE = re.compile(r"\n")
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n")


def read_text(descriptor: int) -> Iterator[str]:
    """Read UTF-8 text from a file descriptor as it arrives. Raises CommandFailed for another encoding."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        while data := os.read(descriptor, _READ_BYTES):
            yield decoder.decode(data)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise CommandFailed(
            f"the text on stdin is not UTF-8 ({error.reason}): convert it, for example with iconv"
        ) from None


def utterances(chunks: Iterable[str], *, lines: bool = False) -> Iterator[str]:
    """Yield utterances of complete sentences or paragraphs as chunks of text arrive.

    lines: a line end completes an utterance too, for typed text.
    """
    pending = ""
    for chunk in chunks:
        ready, pending = _split_ready(pending + chunk, lines)
        yield from _split_long(ready)
    yield from _split_long(pending)


def _split_ready(text: str, lines: bool) -> tuple[str, str]:
    """The text that can be spoken now, and the rest."""
    mark = _LINE if lines else _PARAGRAPH
    end = sentences_end(text)
    if "<speak" not in text:  # an element is spoken once it is closed
        end = max([end, *(found.end() for found in mark.finditer(text))])
    end = end or speakable_end(text, _MAX_UNFINISHED)
    return text[:end], text[end:]


def _split_long(text: str) -> list[str]:
    return [part for part in split_written(text, MAX_CHARACTERS) if any(map(str.isalnum, part))]
