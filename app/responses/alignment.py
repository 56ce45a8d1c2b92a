"""Audio with an alignment of its characters, as ElevenLabs' clients expect it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from dataclasses import replace

from ..audio.encoders import Encoder, Format
from ..audio.encoders.base import Samples
from ..audio.timeline import ChunkMark


class Alignment:
    """Gives every character of a text its time, in order, text chunk by text chunk."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._done = 0  # characters
        self._end = 0.0  # seconds, of the last one
        self._said = SpacedWords()

    def push(self, mark: ChunkMark) -> tuple[Characters, Characters]:
        """The next characters as they were written, and as they are said."""
        written = Characters()
        for word in mark.words:
            begin = max(word.text_begin, self._done)
            self._end_at(written, begin, word.begin)
            self._done = max(word.text_end, begin)
            after = max(self._end, word.end)
            written.add(self._text[begin : self._done], max(word.begin, self._end), after)
            self._end = after
        return written, self._said.push(mark.spoken)

    def rest(self) -> Characters:
        """What follows the last word."""
        written = Characters()
        self._end_at(written, len(self._text), self._end)
        return written

    def _end_at(self, written: Characters, place: int, seconds: float) -> None:
        """The characters between two words last from one to the other."""
        after = max(seconds, self._end)
        written.add(self._text[self._done : place], self._end, after)
        self._done, self._end = place, after


class SpacedWords:
    """Gives the characters of words their times, with one space between two words.

    end: of the last one so far, in seconds.
    """

    def __init__(self) -> None:
        self.end = 0.0
        self._has_words = False

    def push(self, words: Iterable[tuple[str, float, float]]) -> Characters:
        """The characters of the next words, each given with its begin and its end."""
        characters = Characters()
        for text, first, last in words:
            begin = max(first, self.end)
            if self._has_words:
                characters.add(" ", self.end, begin)
            self.end, self._has_words = max(last, begin), True
            characters.add(text, begin, self.end)
        return characters


class Characters:
    """Characters, and when each of them begins and ends, in seconds."""

    def __init__(self) -> None:
        self.characters: list[str] = []
        self.begins: list[float] = []
        self.ends: list[float] = []

    def add(self, text: str, begin: float, end: float) -> None:
        step = (end - begin) / max(len(text), 1)
        self.characters += text
        self.begins += [round(begin + index * step, 3) for index in range(len(text))]
        self.ends += [round(begin + (index + 1) * step, 3) for index in range(len(text))]

    def extend(self, other: Characters) -> None:
        self.characters += other.characters
        self.begins += other.begins
        self.ends += other.ends

    def as_fields(self) -> dict[str, object] | None:
        if not self.characters:
            return None
        return {
            "characters": self.characters,
            "character_start_times_seconds": self.begins,
            "character_end_times_seconds": self.ends,
        }


def with_alignment(audio_format: Format, text: str, *, streamed: bool) -> Format:
    """A format that is JSON: one object with all of the audio, or a line for each piece of it and each text chunk."""
    create: Callable[[Encoder, str], Encoder] = AlignedLines if streamed else AlignedWhole
    return replace(
        audio_format,
        name=f"{audio_format.name}+timestamps",
        media_type="application/json",
        create_encoder=lambda: create(audio_format.create_encoder(), text),
    )


class AlignedWhole:
    def __init__(self, encoder: Encoder, text: str) -> None:
        self._encoder = encoder
        self._audio: list[bytes] = []
        self._alignment = Alignment(text)
        self._written, self._said = Characters(), Characters()

    def encode(self, samples: Samples) -> bytes:
        self._audio.append(self._encoder.encode(samples))
        return b""

    def mark(self, mark: ChunkMark) -> bytes:
        written, said = self._alignment.push(mark)
        self._written.extend(written)
        self._said.extend(said)
        return b""

    def flush(self) -> bytes:
        self._audio.append(self._encoder.flush())
        self._written.extend(self._alignment.rest())
        return _line(b"".join(self._audio), self._written, self._said)


class AlignedLines:
    def __init__(self, encoder: Encoder, text: str) -> None:
        self._encoder = encoder
        self._alignment = Alignment(text)

    def encode(self, samples: Samples) -> bytes:
        data = self._encoder.encode(samples)
        return _line(data) if data else b""

    def mark(self, mark: ChunkMark) -> bytes:
        return _line(b"", *self._alignment.push(mark))

    def flush(self) -> bytes:
        return _line(self._encoder.flush(), self._alignment.rest())


def _line(audio: bytes, written: Characters | None = None, said: Characters | None = None) -> bytes:
    fields = {
        "audio_base64": base64.b64encode(audio).decode(),
        "alignment": written and written.as_fields(),
        "normalized_alignment": said and said.as_fields(),
    }
    return json.dumps(fields, ensure_ascii=False).encode() + b"\n"
