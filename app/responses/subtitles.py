"""Subtitles of a speech in place of its audio: SubRip or WebVTT."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal

from ..audio.encoders import Format
from ..audio.encoders.base import Samples
from ..audio.timeline import ChunkMark, WordMark

Subtitles = Literal["srt", "vtt"]
_MEDIA_TYPES = {"srt": "application/x-subrip", "vtt": "text/vtt"}
_CUE_CHARACTERS = 84  # two lines of a subtitle
_SENTENCE_ENDS = (".", "!", "?", "…")


def as_subtitles(audio_format: Format, kind: Subtitles) -> Format:
    """A format that is the subtitles of the speech in place of its audio."""
    return replace(audio_format, name=kind, media_type=_MEDIA_TYPES[kind], create_encoder=lambda: SubtitleEncoder(kind))


class SubtitleEncoder:
    """Cues of at most two lines, each as soon as its text chunk is complete."""

    def __init__(self, kind: Subtitles) -> None:
        self._kind = kind
        self._cues = 0

    def encode(self, samples: Samples) -> bytes:
        return b""

    def mark(self, mark: ChunkMark) -> bytes:
        return self._header() + b"".join(map(self._cue, _cues(mark.words)))

    def flush(self) -> bytes:
        return self._header()

    def _header(self) -> bytes:
        return b"WEBVTT\n\n" if self._kind == "vtt" and not self._cues else b""

    def _cue(self, words: list[WordMark]) -> bytes:
        self._cues += 1
        text, comma = " ".join(word.text for word in words), "," if self._kind == "srt" else "."
        if self._kind == "vtt":
            text = html.escape(text, quote=False)
        begin, end = (_clock(seconds, comma) for seconds in (words[0].begin, words[-1].end))
        return f"{self._cues}\n{begin} --> {end}\n{text}\n\n".encode()


def _cues(words: Iterable[WordMark]) -> Iterator[list[WordMark]]:
    """The words of each cue: a sentence, or as much of it as fits."""
    cue: list[WordMark] = []
    for word in words:
        if cue and sum(len(each.text) + 1 for each in cue) + len(word.text) > _CUE_CHARACTERS:
            yield cue
            cue = []
        cue.append(word)
        if word.text.rstrip("\"'”’)]").endswith(_SENTENCE_ENDS):
            yield cue
            cue = []
    if cue:
        yield cue


def _clock(seconds: float, comma: str) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{comma}{rest % 1000:03}"
