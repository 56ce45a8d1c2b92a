"""Gives a job the voice of the recording that came with it, before the job is dispatched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import anyio.to_thread

from ..audio.thread_pool import run_in_executor
from ..errors import Busy
from ..schemas.speech import SpeechJob
from ..voices.references import ReferenceVoices
from .admission import Admission

MAX_DECODED, MAX_QUEUED, WAIT_SECONDS = 2, 32, 30.0  # recordings that are decoded concurrently, and that wait


class ReferenceResolver:
    """Decodes recordings on the worker that received them. The job carries the samples to the worker that speaks."""

    def __init__(self, voices: ReferenceVoices) -> None:
        self._voices = voices
        self._admission = Admission(MAX_DECODED, MAX_QUEUED, WAIT_SECONDS)
        self._executor = ThreadPoolExecutor(MAX_DECODED, thread_name_prefix="decode-reference")

    async def resolve(self, job: SpeechJob) -> SpeechJob:
        """The job with the voice of its recording; unchanged if it has none. A known voice waits for no other.

        Raises what `ReferenceVoices.read` and `load` raise, and Busy if too many other recordings wait.
        """
        if job.reference is None:
            return job
        reference = await anyio.to_thread.run_sync(
            self._voices.read, job.reference.audio, job.reference.transcript, abandon_on_cancel=True
        )
        prompt = self._voices.cached(reference)
        if prompt is None:
            async with self._reserve():
                prompt = await run_in_executor(self._executor, lambda: self._voices.load(reference))
        return replace(job, request=replace(job.request, voice=prompt), reference=None)

    @asynccontextmanager
    async def _reserve(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._admission.reserve())
            except Busy:
                raise Busy("too many other recordings are being decoded: try again soon", retry_after=5) from None
            yield
