"""Speech by another worker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from engine import AudioChunk

from ..errors import ServiceError
from ..schemas.speech import SpeechJob
from .framing import ConnectionBroken, Kind, job_message, read_audio, read_error, receive

READ_AHEAD_BYTES = 32 << 10  # asyncio keeps up to twice as much


class RemoteSpeech:
    """Audio that comes over a socket. From one reader; who does not read holds the slot over there.

    Iterating raises the ServiceError that the other worker met, and ConnectionBroken if it died.
    """

    def __init__(self, reader: asyncio.StreamReader, engine_name: str) -> None:
        self.engine_name = engine_name
        self._reader = reader

    def __aiter__(self) -> RemoteSpeech:
        return self

    async def __anext__(self) -> AudioChunk:
        kind, payload = await _next(self._reader)
        if kind is Kind.END:
            raise StopAsyncIteration
        return read_audio(payload)


@asynccontextmanager
async def open_remote_speech(
    path: Path, job: SpeechJob, *, wait: float, on_admitted: Callable[[], None] = lambda: None
) -> AsyncIterator[RemoteSpeech]:
    """The speech of an order, by the worker whose socket this is. Leaving the context ends it over there too.

    Raises what `speak_here` raises over there, and ConnectionBroken if nobody is there or it died.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=READ_AHEAD_BYTES)
    except OSError as error:
        raise ConnectionBroken(f"nobody answers ({error})") from error
    try:
        writer.write(job_message(job, wait))
        await _next(reader)
        on_admitted()
        _, payload = await _next(reader)
        yield RemoteSpeech(reader, json.loads(payload)["engine"])
    finally:
        writer.transport.abort()  # there is nothing left to say, and the other side must know at once


async def _next(reader: asyncio.StreamReader) -> tuple[Kind, bytes]:
    kind, payload = await receive(reader)
    if kind is Kind.ERROR:
        error: ServiceError = read_error(payload)
        raise error
    return kind, payload
