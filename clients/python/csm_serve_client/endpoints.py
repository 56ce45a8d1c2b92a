"""The service's endpoints as data: the request, and the parser of its response. No network I/O."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx

from .options import DialogueTurn
from .responses import (
    Health,
    SpeechHead,
    StoredVoice,
    Voice,
    read_health,
    read_ids,
    read_nothing,
    read_object,
    read_stored,
    read_voice,
    speech_head,
)

_T = TypeVar("_T")

Recording = str | os.PathLike[str] | bytes
Progress = Callable[[int, int], None]  # (bytes sent, total bytes)
Turn = DialogueTurn | tuple[str, str]  # a tuple holds a voice's id and a text
Warn = Callable[[str], None]  # a quality problem of a recording, as a sentence


@dataclass(frozen=True)
class Call(Generic[_T]):
    """One request.

    read: parses the response into the result.
    accepted: statuses other than 2xx that are not errors.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], _T]
    content: Mapping[str, Any] = field(default_factory=dict)  # arguments of httpx: json and headers, or data and files
    accepted: frozenset[int] = frozenset()

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        return http.build_request(self.method, self.path, **self.content)

    def succeeded(self, response: httpx.Response) -> bool:
        return response.is_success or response.status_code in self.accepted


def speak(
    text: str, voice_id: str | None, audio_format: str, options: Mapping[str, Any], *, timestamps: bool = False
) -> Call[SpeechHead]:
    """timestamps: the response is events that hold the audio, and marks."""
    body = {"text": text, "voice_id": voice_id, "format": audio_format, **options}
    return _speech("/tts/generate", body, timestamps)


def dialogue(
    turns: Iterable[Turn],
    gap_ms: int | None,
    audio_format: str,
    options: Mapping[str, Any],
    *,
    timestamps: bool = False,
) -> Call[SpeechHead]:
    """turns: each a mapping, or a voice's id and a text. timestamps: as of `speak`."""
    sent = [{"voice_id": turn[0], "text": turn[1]} if isinstance(turn, tuple) else dict(turn) for turn in turns]
    return _speech("/tts/dialogue", {"turns": sent, "gap_ms": gap_ms, "format": audio_format, **options}, timestamps)


def _speech(path: str, body: Mapping[str, Any], timestamps: bool) -> Call[SpeechHead]:
    content: dict[str, Any] = {"json": {name: value for name, value in body.items() if value is not None}}
    if timestamps:
        content["headers"] = {"Accept": "text/event-stream"}
    return Call("POST", path, speech_head, content)


def voices() -> Call[list[str]]:
    return Call("GET", "/voices", read_ids)


def voice(voice_id: str) -> Call[Voice]:
    return Call("GET", _voice_path(voice_id), read_voice)


def add_voice(
    recording: Recording, transcript: str, voice_id: str | None, progress: Progress | None
) -> Call[StoredVoice]:
    if voice_id is None and isinstance(recording, bytes):
        raise ValueError("voice_id is required for a recording given as bytes, for example amy.wav")
    return Call("POST", "/voices", read_stored, _form(recording, transcript, voice_id, progress))


def replace_voice(voice_id: str, recording: Recording, transcript: str, progress: Progress | None) -> Call[StoredVoice]:
    return Call("PUT", _voice_path(voice_id), read_stored, _form(recording, transcript, None, progress))


def delete_voice(voice_id: str) -> Call[None]:
    return Call("DELETE", _voice_path(voice_id), read_nothing)


def health() -> Call[Health]:
    return Call("GET", "/health", read_health, accepted=frozenset({500, 503}))


def system_status() -> Call[dict[str, Any]]:
    return Call("GET", "/system-status", read_object)


def report(stored: StoredVoice, warn: Warn | None) -> str:
    """Pass on the warnings about a stored voice. Returns its id."""
    if warn is not None:
        for warning in stored.warnings:
            warn(warning)
    return stored.voice_id


def _voice_path(voice_id: str) -> str:
    """Quotes dots too, because clients resolve `..` in a path before they send it."""
    return f"/voices/{quote(voice_id, safe='').replace('.', '%2E')}"


def _form(recording: Recording, transcript: str, voice_id: str | None, progress: Progress | None) -> dict[str, Any]:
    if isinstance(recording, bytes):
        name, data = voice_id or "recording", recording
    else:
        name, data = Path(recording).name, Path(recording).read_bytes()
    texts = {"transcript": transcript, "voice_id": voice_id}
    return {
        "files": {"file": (name, _ProgressReader(data, progress))},
        "data": {field: value for field, value in texts.items() if value},
    }


class _ProgressReader(io.BytesIO):
    """Reports how much of the recording has been read, and so sent."""

    def __init__(self, data: bytes, progress: Progress | None) -> None:
        super().__init__(data)
        self._size = len(data)
        self._progress = progress

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if self._progress is not None:
            self._progress(self.tell(), self._size)
        return data
