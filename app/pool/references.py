"""Gives a job the voice of the recording that came with it, before the job is dispatched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial

import anyio.to_thread

from engine import VoicePrompt

from ..audio.thread_pool import run_in_executor
from ..errors import Busy
from ..schemas.reference import ReferenceRecording
from ..schemas.speech import SpeechJob
from ..voices.recording_download import RecordingDownloader
from ..voices.references import Reference, ReferenceVoices
from .admission import Admission

MAX_DECODED, MAX_FETCHED, MAX_QUEUED, WAIT_SECONDS = 2, 4, 32, 30.0  # recordings at once, and that wait for either


class ReferenceResolver:
    """Fetches and decodes recordings on the worker that received them. The job carries the samples to the worker that
    speaks."""

    def __init__(self, voices: ReferenceVoices, downloader: RecordingDownloader) -> None:
        self._voices = voices
        self._downloader = downloader
        self._decoding = Admission(MAX_DECODED, MAX_QUEUED, WAIT_SECONDS)
        self._fetching = Admission(MAX_FETCHED, MAX_QUEUED, WAIT_SECONDS)  # until they are decoded: they take memory
        self._executor = ThreadPoolExecutor(MAX_DECODED, thread_name_prefix="decode-reference")

    async def resolve(self, job: SpeechJob) -> SpeechJob:
        """The job with the voice of its recording; unchanged if it has none. Raises what `load` raises."""
        if job.reference is None:
            return job
        prompt = await self.load(job.reference)
        return replace(job, request=replace(job.request, voice=prompt), reference=None)

    async def load(self, recording: ReferenceRecording) -> VoicePrompt:
        """The voice of a recording. A known one waits for no other.

        Raises what `RecordingDownloader.fetch`, `ReferenceVoices.read` and `load` raise, and Busy if too many other
        recordings wait.
        """
        if recording.url is None:
            assert recording.audio is not None, "one of the two is set"
            read = partial(self._voices.read, recording.audio, recording.transcript)
            return await self._decode(await anyio.to_thread.run_sync(read, abandon_on_cancel=True))
        async with _reserve(self._fetching, "fetched"):
            data = await self._downloader.fetch(recording.url)
            identify = partial(self._voices.identify, data, recording.transcript)
            return await self._decode(await anyio.to_thread.run_sync(identify, abandon_on_cancel=True))

    async def _decode(self, reference: Reference) -> VoicePrompt:
        prompt = self._voices.cached(reference)
        if prompt is None:
            async with _reserve(self._decoding, "decoded"):
                prompt = await run_in_executor(self._executor, lambda: self._voices.load(reference))
        return prompt


@asynccontextmanager
async def _reserve(admission: Admission, done: str) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(admission.reserve())
        except Busy:
            raise Busy(f"too many other recordings are being {done}: try again soon", retry_after=5) from None
        yield
