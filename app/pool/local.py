"""Speech by the engine of this very worker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio.to_thread

from engine import AudioChunk, EngineError, SpeechStream

from ..errors import from_engine
from ..schemas.speech import SpeechJob
from .engine_host import EngineHost


class LocalSpeech:
    """Audio of an engine in this process, its errors as those of the service. From one reader."""

    def __init__(self, stream: SpeechStream, engine_name: str) -> None:
        self.engine_name = engine_name
        self._stream = stream

    def __aiter__(self) -> LocalSpeech:
        return self

    async def __anext__(self) -> AudioChunk:
        try:
            return await anext(self._stream)
        except EngineError as error:
            raise from_engine(error) from error


@asynccontextmanager
async def open_local_speech(
    host: EngineHost, job: SpeechJob, *, wait: float | None = None, on_admitted: Callable[[], None] = lambda: None
) -> AsyncIterator[LocalSpeech]:
    """The speech of an order. Its slot is taken before any work is done, and is free when the context ends.

    wait: how long it may wait for its slot, in seconds; None: QUEUE_TIMEOUT_SECONDS.
    on_admitted: called once it has it.
    Raises Unavailable, Busy, UnknownVoice, and what an EngineError is answered with.
    """
    engine = host.engine
    async with host.admission.reserve(job.permits, wait):
        on_admitted()
        try:
            # A client that leaves must not wait for a voice that is being made.
            resolved = await anyio.to_thread.run_sync(host.resolve_voice, job.voice_id, abandon_on_cancel=True)
            stream = engine.stream(replace(job.request, voice=resolved.voice, speaker=resolved.speaker))
        except EngineError as error:
            raise from_engine(error) from error
        with stream:
            yield LocalSpeech(stream, engine.name)
