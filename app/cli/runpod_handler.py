"""Jobs of a RunPod endpoint as requests to the service: a job's input is a speech request, its output audio in base64.

    {"input": {"text": "Hello.", "voice_id": "amy.wav", "format": "mp3", "seed": 7}}
    {"output": [{"index": 0, "audio": base64, "format": "mp3", "sample_rate": 24000, "engine": "csm"}, …]}

The pieces are one file when they are laid end to end. `/stream` gives each when it is there, `/runsync` all of them.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

from csm_serve_client import ApiError, AsyncCsmClient, CsmError

_BROKEN = ("engine_failed", "out_of_memory", "no_model")  # what a new worker may mend


class RunPodHandler:
    """Speaks jobs.

    config: of `runpod.serverless.start`, which is told to replace this worker when its engine has failed.
    """

    def __init__(self, url: str | None, retries: int, config: dict[str, Any]) -> None:
        self._url = url
        self._retries = retries
        self._config = config
        self._client: AsyncCsmClient | None = None

    async def stream(self, job: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Yield the pieces of a job's speech, or one error in RunPod's form."""
        request = job.get("input")
        if not isinstance(request, dict) or not isinstance(request.get("text"), str):
            yield {"error": 'the input must be an object with a text: {"input": {"text": "Hello."}}'}
            return
        options = dict(request)
        text, audio_format = options.pop("text"), options.pop("format", "wav")
        if self._client is None:  # it belongs to the event loop of the jobs
            self._client = AsyncCsmClient(self._url, retries=self._retries)
        index = 0
        try:
            async with self._client.stream(text, format=audio_format, **options) as speech:
                head = {
                    "format": audio_format,
                    "media_type": speech.head.media_type,
                    "sample_rate": speech.head.sample_rate,
                    "engine": speech.head.engine,
                }
                async for data in speech:
                    yield {"index": index, "audio": base64.b64encode(data).decode(), **(head if index == 0 else {})}
                    index += 1
        except CsmError as error:
            yield {"error": await self._report(error)}

    async def _report(self, error: CsmError) -> str:
        if isinstance(error, ApiError):
            broken = error.code in _BROKEN
        else:  # the stream was cut, or there was no answer
            broken = await self._has_failed()
        if broken:
            self._config["refresh_worker"] = True
        return f"{error.code}: {error.detail}" if isinstance(error, ApiError) else str(error)

    async def _has_failed(self) -> bool:
        assert self._client is not None
        try:
            return (await self._client.health()).status == "failed"
        except CsmError:
            return True
