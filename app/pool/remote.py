"""Speech from another worker, over its Unix socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from engine import AudioChunk, Codes, TextFeed, VoicePrompt

from ..errors import ServiceError
from ..schemas.speech import SpeechJob
from .framing import (
    ConnectionBroken,
    Kind,
    encode_message,
    job_message,
    message,
    read_audio,
    read_error,
    receive,
    text_message,
)

READ_AHEAD_BYTES = 32 << 10  # asyncio buffers up to twice as much


class RemoteSpeech:
    """The audio of another worker, for one reader. Not reading it pauses the slot of that worker.

    engine_name, fingerprint: as of `LocalSpeech`.
    Iterating raises the ServiceError that the other worker sent, and ConnectionBroken if it died.
    """

    def __init__(self, reader: asyncio.StreamReader, engine_name: str, fingerprint: str) -> None:
        self.engine_name = engine_name
        self.fingerprint = fingerprint
        self._reader = reader

    def __aiter__(self) -> RemoteSpeech:
        return self

    async def __anext__(self) -> AudioChunk:
        kind, payload = await _read_message(self._reader)
        if kind is Kind.END:
            raise StopAsyncIteration
        return read_audio(payload)


@asynccontextmanager
async def open_remote_speech(
    path: Path, job: SpeechJob, *, wait: float, on_admitted: Callable[[], None] = lambda: None
) -> AsyncIterator[RemoteSpeech]:
    """Stream the speech of a job from the worker that listens on `path`. Leaving the context ends it there too.

    wait, on_admitted: as of `open_local_speech`. Raises the errors of `open_local_speech` in the other worker, and
    ConnectionBroken if it does not listen or died.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=READ_AHEAD_BYTES)
    except OSError as error:
        raise ConnectionBroken(f"no connection ({error})") from error
    try:
        writer.write(job_message(job, wait))
        if job.request.more is not None:
            _TextForwarder(job.request.more, writer).forward()
        await _read_message(reader)
        on_admitted()
        _, payload = await _read_message(reader)
        started = json.loads(payload)
        yield RemoteSpeech(reader, started["engine"], started["fingerprint"])
    finally:
        writer.transport.abort()  # nothing more to send; frees the slot of the other worker at once


class _TextForwarder:
    """Sends the parts of a job's text as they are written. They are appended on the event loop's thread."""

    def __init__(self, more: TextFeed, writer: asyncio.StreamWriter) -> None:
        self._more, self._writer = more, writer
        self._sent = 0  # parts

    def forward(self) -> None:
        """Send what is written, and again once more is."""
        while self._more.ready(self._sent):
            if self._writer.is_closing():
                return
            part = self._more.get(self._sent)
            self._writer.write(text_message(part))
            if part is None:
                return
            self._sent += 1
        self._more.when_ready(self._sent, self.forward)


async def prepare_remote_voice(path: Path, voice_id: str) -> None:
    """Ask the worker that listens on `path` to encode a voice, and wait for nothing. Raises ConnectionBroken."""
    try:
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(message(Kind.PREPARE, voice_id.encode()))
        await writer.drain()
        writer.close()
    except OSError as error:
        raise ConnectionBroken(f"no connection ({error})") from error


async def encode_remotely(path: Path, recording: VoicePrompt) -> Codes | None:
    """The codes of a recording from the engine of the worker that listens on `path`; None if it has no codec.

    Raises the errors of `EngineHost.encode` in the other worker, and ConnectionBroken if it does not listen or died.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=READ_AHEAD_BYTES)
    except OSError as error:
        raise ConnectionBroken(f"no connection ({error})") from error
    try:
        writer.write(encode_message(recording))
        kind, payload = await _read_message(reader)
        return read_audio(payload).codes if kind is Kind.AUDIO else None
    finally:
        writer.transport.abort()


async def _read_message(reader: asyncio.StreamReader) -> tuple[Kind, bytes]:
    kind, payload = await receive(reader)
    if kind is Kind.ERROR:
        error: ServiceError = read_error(payload)
        raise error
    return kind, payload
