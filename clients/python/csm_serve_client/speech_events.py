"""Reads speech that comes as server-sent events: audio, and marks that tell when each word is said."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from .errors import StreamCut, UnexpectedAnswer


@dataclass(frozen=True)
class WordTiming:
    """A word as it was written.

    text_start, text_end: its place in the text, in characters. spoken: what is said for it. start_ms, end_ms: its place
    in the audio. estimated: the model does not tell; the times are worked out from the text and the audio.
    """

    text: str
    text_start: int
    text_end: int
    spoken: str
    start_ms: int
    end_ms: int
    estimated: bool


@dataclass(frozen=True)
class Mark:
    """A text chunk of the speech, and its words. Its own times are exact. turn (from 0), voice_id: of a dialogue."""

    text: str
    text_start: int
    text_end: int
    start_ms: int
    end_ms: int
    words: tuple[WordTiming, ...]
    turn: int | None = None
    voice_id: str | None = None


class SpeechEventReader:
    """Turns the bytes of an event stream into those of the audio. marks: those that were read."""

    def __init__(self) -> None:
        self.marks: list[Mark] = []
        self._line = b""  # incomplete
        self._done = False

    def read(self, data: bytes) -> bytes:
        """The audio in the next bytes. Raises UnexpectedAnswer if they are not events of this service."""
        *lines, self._line = (self._line + data).split(b"\n")
        return b"".join(map(self._read_line, lines))

    def end(self) -> None:
        """Raises StreamCut if the last event is missing."""
        if not self._done:
            raise StreamCut("the stream ended before its last event: the audio is incomplete")

    def _read_line(self, line: bytes) -> bytes:
        if not line.startswith(b"data:"):
            return b""
        try:
            event: dict[str, Any] = json.loads(line[len(b"data:") :])
            if event["type"] == "speech.audio.delta":
                return base64.b64decode(event["audio"], validate=True)
            if event["type"] == "speech.audio.mark":
                self.marks.append(_mark_of(event))
        except (KeyError, TypeError, ValueError) as error:
            raise UnexpectedAnswer(f"an event of the stream cannot be read ({error!r}): is this csm-serve?") from error
        self._done = self._done or event["type"] == "speech.audio.done"
        return b""


def _mark_of(event: dict[str, Any]) -> Mark:
    """Fields that this client does not know are ignored."""
    names = ("text", "text_start", "text_end", "start_ms", "end_ms")
    words = (WordTiming(**{name: word[name] for name in WordTiming.__annotations__}) for word in event["words"])
    return Mark(
        **{name: event[name] for name in names},
        words=tuple(words),
        turn=event.get("turn"),
        voice_id=event.get("voice_id"),
    )
