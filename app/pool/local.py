"""Speech from this worker's own engine."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio.to_thread

from engine import AudioChunk, EngineError, SpeechStream

from ..errors import from_engine
from ..observability.tracing import Trace
from ..schemas.speech import SpeechJob
from .engine_host import EngineHost


class LocalSpeech:
    """The audio of an engine in this process, for one reader. Engine errors are raised as ServiceError.

    fingerprint: of what the job was resolved to; see `StartedSpeech`.
    trace: of the job, which takes its first audio. admitted: when it got its slot, by `time.monotonic()`.
    """

    def __init__(
        self,
        stream: SpeechStream,
        engine_name: str,
        fingerprint: str = "",
        trace: Trace | None = None,
        admitted: float = 0.0,
    ) -> None:
        self.engine_name = engine_name
        self.fingerprint = fingerprint
        self._stream = stream
        self._trace = trace  # until the first audio
        self._admitted = admitted  # time.monotonic()

    def __aiter__(self) -> LocalSpeech:
        return self

    async def __anext__(self) -> AudioChunk:
        try:
            chunk = await anext(self._stream)
        except EngineError as error:
            raise from_engine(error) from error
        if self._trace is not None:
            self._trace_first_audio(self._trace)
        return chunk

    def _trace_first_audio(self, trace: Trace) -> None:
        self._trace, now = None, time.monotonic()
        prefilled = self._stream.prefilled_at
        if prefilled is not None:
            trace.add("prefill", self._admitted, prefilled)
        trace.add("first frame", self._admitted if prefilled is None else prefilled, now)


@asynccontextmanager
async def open_local_speech(
    host: EngineHost, job: SpeechJob, *, wait: float | None = None, on_admitted: Callable[[], None] = lambda: None
) -> AsyncIterator[LocalSpeech]:
    """Stream the speech of a job. It takes a slot before any other work and frees it when the context ends.

    wait: how long it may wait for a slot, in seconds; None: QUEUE_TIMEOUT_SECONDS.
    on_admitted: called once it has a slot.
    Raises Unavailable, Busy, UnknownVoice, and the ServiceError of an EngineError.
    """
    engine, arrived = host.engine, time.monotonic()
    trace = None if host.tracing is None else host.tracing.resume(job.traceparent)
    async with host.admission.reserve(job.permits, wait, first=job.resumed, key=job.key, weight=job.weight):
        on_admitted()
        admitted = time.monotonic()
        if trace is not None:
            trace.add("queue", arrived, admitted, **{"csm.worker_id": host.worker_id})
        try:
            # Abandoned on cancel: a disconnect does not wait until the voice is made. A stream that nobody takes frees
            # its slot by itself.
            started = await anyio.to_thread.run_sync(host.start_speech, job, abandon_on_cancel=True)
        except EngineError as error:
            raise from_engine(error) from error
        with started.stream:
            yield LocalSpeech(started.stream, engine.name, started.fingerprint, trace, admitted)
