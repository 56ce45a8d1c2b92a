"""Audio with an alignment of its characters, as ElevenLabs' clients expect it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from ..audio.encoders import Encoder, Format
from ..audio.encoders.base import Samples
from ..audio.timeline import ChunkMark
from .aligned import Aligned, Characters, SpacedWords


class TextAlignment(Protocol):
    """Gives every character of a text its time, in order, text chunk by text chunk."""

    def push(self, mark: ChunkMark) -> Aligned:
        """The next characters."""
        ...

    def rest(self) -> Aligned:
        """What follows the last word."""
        ...

    def nothing(self) -> Aligned:
        """No characters, as they are sent with audio alone."""
        ...


class Alignment:
    """The alignment of a text.

    first: of its characters, where others are before it. begin: when it begins, in seconds.
    """

    def __init__(self, text: str, first: int = 0, begin: float = 0.0) -> None:
        self._text = text
        self._done = first  # characters
        self.end = begin  # seconds, of the last one
        self._said = SpacedWords()

    def push(self, mark: ChunkMark) -> Aligned:
        written = Characters()
        for word in mark.words:
            begin = max(word.text_begin, self._done)
            self._end_at(written, begin, word.begin)
            self._done = max(word.text_end, begin)
            after = max(self.end, word.end)
            written.add(self._text[begin : self._done], max(word.begin, self.end), after)
            self.end = after
        return Aligned(written, self._said.push(mark.spoken))

    def rest(self) -> Aligned:
        written = Characters()
        self._end_at(written, len(self._text), self.end)
        return Aligned(written)

    def nothing(self) -> Aligned:
        return Aligned()

    def _end_at(self, written: Characters, place: int, seconds: float) -> None:
        """The characters between two words last from one to the other."""
        after = max(seconds, self.end)
        written.add(self._text[self._done : place], self.end, after)
        self._done, self.end = place, after


def with_alignment(audio_format: Format, align: Callable[[], TextAlignment], *, streamed: bool) -> Format:
    """A format that is JSON: one object with all of the audio, or a line for each piece of it and each text chunk."""
    create: Callable[[Encoder, TextAlignment], Encoder] = AlignedLines if streamed else AlignedWhole
    return replace(
        audio_format,
        name=f"{audio_format.name}+timestamps",
        media_type="application/json",
        create_encoder=lambda: create(audio_format.create_encoder(), align()),
    )


class AlignedWhole:
    def __init__(self, encoder: Encoder, alignment: TextAlignment) -> None:
        self._encoder = encoder
        self._audio: list[bytes] = []
        self._alignment = alignment
        self._aligned = alignment.nothing()

    def encode(self, samples: Samples) -> bytes:
        self._audio.append(self._encoder.encode(samples))
        return b""

    def mark(self, mark: ChunkMark) -> bytes:
        self._aligned.extend(self._alignment.push(mark))
        return b""

    def flush(self) -> bytes:
        self._audio.append(self._encoder.flush())
        self._aligned.extend(self._alignment.rest())
        return _line(b"".join(self._audio), self._aligned)


class AlignedLines:
    def __init__(self, encoder: Encoder, alignment: TextAlignment) -> None:
        self._encoder = encoder
        self._alignment = alignment

    def encode(self, samples: Samples) -> bytes:
        data = self._encoder.encode(samples)
        return _line(data, self._alignment.nothing()) if data else b""

    def mark(self, mark: ChunkMark) -> bytes:
        return _line(b"", self._alignment.push(mark))

    def flush(self) -> bytes:
        return _line(self._encoder.flush(), self._alignment.rest())


def _line(audio: bytes, aligned: Aligned) -> bytes:
    fields = {"audio_base64": base64.b64encode(audio).decode(), **aligned.as_fields()}
    return json.dumps(fields, ensure_ascii=False).encode() + b"\n"
