"""Subtitles of a speech in place of its audio: SubRip or WebVTT."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from ..audio.encoders import Format
from ..audio.encoders.base import Samples
from ..audio.timeline import MAX_OVERLAP_SECONDS, ChunkMark, WordMark

Subtitles = Literal["srt", "vtt"]
_MEDIA_TYPES = {"srt": "application/x-subrip", "vtt": "text/vtt"}
_CUE_CHARACTERS = 84  # two lines of a subtitle
_SENTENCE_ENDS = (".", "!", "?", "…")


def as_subtitles(audio_format: Format, kind: Subtitles, speakers: Sequence[str] = ()) -> Format:
    """A format that is the subtitles of the speech in place of its audio. speakers: of each turn of a dialogue."""
    return replace(
        audio_format,
        name=kind,
        media_type=_MEDIA_TYPES[kind],
        create_encoder=lambda: SubtitleEncoder(kind, speakers),
    )


class SubtitleEncoder:
    """Cues of at most two lines, in the order in which they begin, each as soon as none can follow that begins earlier.

    speakers: of each turn of a dialogue; WebVTT names them, SubRip cannot.
    """

    def __init__(self, kind: Subtitles, speakers: Sequence[str] = ()) -> None:
        self._kind = kind
        self._speakers = speakers
        self._held: list[tuple[float, float, str]] = []  # cues: begin, end, and text
        self._cues = 0  # written so far
        self._started = False  # the header is written

    def encode(self, samples: Samples) -> bytes:
        return b""

    def mark(self, mark: ChunkMark) -> bytes:
        for words in _cues(mark.words):
            text = self._text(" ".join(word.text for word in words), mark.turn)
            self._held.append((words[0].begin, words[-1].end, text))
        # Where its turn ends with this text chunk, the next one may begin before that end.
        return self._write(math.inf if mark.turn is None else mark.end - MAX_OVERLAP_SECONDS)

    def flush(self) -> bytes:
        return self._write(math.inf)

    def _text(self, text: str, turn: int | None) -> str:
        if self._kind == "srt":
            return text
        speaker = self._speakers[turn] if turn is not None and self._speakers else ""
        voice = f"<v {_escape(speaker)}>" if speaker else ""
        return f"{voice}{_escape(text)}"

    def _write(self, until: float) -> bytes:
        """The cues that begin until then, in seconds."""
        ready = sorted(cue for cue in self._held if cue[0] <= until)
        self._held = [cue for cue in self._held if cue[0] > until]
        header = b"WEBVTT\n\n" if self._kind == "vtt" and not self._started else b""
        self._started = True
        return header + b"".join(map(self._cue, ready))

    def _cue(self, cue: tuple[float, float, str]) -> bytes:
        self._cues += 1
        begin, end, text = cue
        comma = "," if self._kind == "srt" else "."
        return f"{self._cues}\n{_clock(begin, comma)} --> {_clock(end, comma)}\n{text}\n\n".encode()


def _escape(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=False)


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
