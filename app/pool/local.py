"""Speech from this worker's own engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio.to_thread

from engine import AudioChunk, EngineError, SpeechStream

from ..errors import from_engine
from ..schemas.speech import SpeechJob
from .engine_host import EngineHost


class LocalSpeech:
    """The audio of an engine in this process, for one reader. Engine errors are raised as ServiceError.

    fingerprint: of what the job was resolved to; see `StartedSpeech`.
    """

    def __init__(self, stream: SpeechStream, engine_name: str, fingerprint: str = "") -> None:
        self.engine_name = engine_name
        self.fingerprint = fingerprint
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
    """Stream the speech of a job. It takes a slot before any other work and frees it when the context ends.

    wait: how long it may wait for a slot, in seconds; None: QUEUE_TIMEOUT_SECONDS.
    on_admitted: called once it has a slot.
    Raises Unavailable, Busy, UnknownVoice, and the ServiceError of an EngineError.
    """
    engine = host.engine
    async with host.admission.reserve(job.permits, wait, first=job.resumed):
        on_admitted()
        try:
            # Abandoned on cancel: a disconnect does not wait until the voice is made. A stream that nobody takes frees
            # its slot by itself.
            started = await anyio.to_thread.run_sync(host.start_speech, job, abandon_on_cancel=True)
        except EngineError as error:
            raise from_engine(error) from error
        with started.stream:
            yield LocalSpeech(started.stream, engine.name, started.fingerprint)
