"""AsyncCsmClient: CsmClient for asyncio and trio, call by call the same."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import httpx
from anyio import to_thread

from . import endpoints
from .endpoints import Call, Progress, Recording
from .options import AudioFormat, SpeechOptions
from .responses import Health, Voice, error_of
from .speech import AsyncSpeechStream
from .transport import SILENCE_SECONDS, Retry, Server
from .wav import with_its_length

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import Unpack

_T = TypeVar("_T")


class AsyncCsmClient:
    """A connection pool to one service. Close it, or use it in an `async with`. Everything is as in CsmClient."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = SILENCE_SECONDS,
        retries: int = 0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._server = Server.of(base_url, api_key)
        self._retry = Retry(retries)
        self._http = httpx.AsyncClient(transport=transport, **self._server.http_options(timeout))

    async def speak(
        self,
        text: str,
        *,
        voice_id: str | None = None,
        format: AudioFormat = "wav",  # noqa: A002  # the name that the service gives it
        **options: Unpack[SpeechOptions],
    ) -> bytes:
        """The whole speech as a file of that format."""
        async with self.stream(text, voice_id=voice_id, format=format, **options) as speech:
            audio = b"".join([data async for data in speech])
        return with_its_length(audio) if format == "wav" else audio

    @asynccontextmanager
    async def stream(
        self,
        text: str,
        *,
        voice_id: str | None = None,
        format: AudioFormat = "wav",  # noqa: A002
        **options: Unpack[SpeechOptions],
    ) -> AsyncIterator[AsyncSpeechStream]:
        """The speech as it is made. Leaving the `async with` early ends it, and frees its slot."""
        asked = time.monotonic()
        call = endpoints.speak(text, voice_id, format, options)
        async with (
            aclosing(await self._open(call)) as response,
            aclosing(AsyncSpeechStream(response, call.read(response), self._server, asked)) as speech,
        ):
            yield speech

    async def voices(self) -> list[str]:
        """The ids of all voices."""
        return await self._ask(endpoints.voices())

    async def voice(self, voice_id: str) -> Voice:
        return await self._ask(endpoints.voice(voice_id))

    async def add_voice(
        self,
        recording: Recording,
        *,
        transcript: str = "",
        voice_id: str | None = None,
        progress: Progress | None = None,
    ) -> str:
        """Upload a recording, a path or bytes, and get the voice's id: the name of the file, unless given.

        transcript: the words that are said in it. progress: called with (bytes sent, bytes in all).
        """
        call = await to_thread.run_sync(endpoints.add_voice, recording, transcript, voice_id, progress)  # reads a file
        return await self._ask(call)

    async def replace_voice(
        self, voice_id: str, recording: Recording, *, transcript: str = "", progress: Progress | None = None
    ) -> None:
        """Let an uploaded voice be another recording, from the next request on."""
        call = await to_thread.run_sync(endpoints.replace_voice, voice_id, recording, transcript, progress)
        await self._ask(call)

    async def delete_voice(self, voice_id: str) -> None:
        await self._ask(endpoints.delete_voice(voice_id))

    async def health(self) -> Health:
        """How it is; also one that fails or shuts down answers. Needs no key."""
        return await self._ask(endpoints.health())

    async def system_status(self) -> dict[str, Any]:
        """CPU, GPUs and workers, as in GET /system-status."""
        return await self._ask(endpoints.system_status())

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def _ask(self, call: Call[_T]) -> _T:
        async with aclosing(await self._open(call)) as response:
            with self._server.errors():
                await response.aread()
            return call.read(response)

    async def _open(self, call: Call[Any]) -> httpx.Response:
        """An answer that is no error, its body still to come."""
        for tried in count():
            with self._server.errors():
                response = await self._http.send(call.request(self._http), stream=True)
                if call.succeeded(response):
                    return response
                async with aclosing(response):
                    await response.aread()
            error = error_of(response)
            pause = self._retry.pause(error, tried)
            if pause is None:
                raise error
            await anyio.sleep(pause)
        raise AssertionError("counting has no end")
