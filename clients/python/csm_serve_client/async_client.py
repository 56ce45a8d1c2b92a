"""AsyncCsmClient: the same methods as CsmClient, for asyncio and trio."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import anyio
import httpx
from anyio import to_thread

from . import endpoints
from .conversation import AsyncConversation
from .conversation_requests import ConversationOptions
from .endpoints import Call, Progress, Recording, Turn, Warn
from .errors import Busy, Unavailable
from .options import AudioFormat, SpeechOptions
from .responses import Health, SpeechHead, Voice, error_of
from .speech import AsyncSpeechStream
from .transport import READ_TIMEOUT_SECONDS, Retry, Server
from .wav import fill_in_sizes

if TYPE_CHECKING:
    from typing import Self


_T = TypeVar("_T")


class AsyncCsmClient:
    """Connection pool to one service. Close it, or use it in an `async with`. Parameters as in CsmClient."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = READ_TIMEOUT_SECONDS,
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
        format: AudioFormat = "wav",  # noqa: A002  # the service's parameter name
        **options: Unpack[SpeechOptions],
    ) -> bytes:
        """Generate speech and return it as a complete file of that format."""
        async with self.stream(text, voice_id=voice_id, format=format, **options) as speech:
            audio = b"".join([data async for data in speech])
        return fill_in_sizes(audio) if format.startswith("wav") else audio

    @asynccontextmanager
    async def stream(
        self,
        text: str,
        *,
        voice_id: str | None = None,
        format: AudioFormat = "wav",  # noqa: A002
        timestamps: bool = False,
        **options: Unpack[SpeechOptions],
    ) -> AsyncIterator[AsyncSpeechStream]:
        """Stream speech while it is generated. Leaving the `async with` early ends it and frees its slot.

        timestamps: the stream's `marks` tell when each word is said.
        """
        async with self._stream(endpoints.speak(text, voice_id, format, options, timestamps=timestamps)) as speech:
            yield speech

    async def dialogue(
        self,
        turns: Iterable[Turn],
        *,
        gap_ms: int | None = None,
        format: AudioFormat = "wav",  # noqa: A002
        **options: Unpack[SpeechOptions],
    ) -> bytes:
        """Generate a dialogue and return it as a complete file of that format.

        turns: who says what, each `("amy.wav", "Hello.")`, or a DialogueTurn.
        gap_ms: silence between two turns, 200 by default; a negative gap mixes the end of one with the next.
        """
        async with self.stream_dialogue(turns, gap_ms=gap_ms, format=format, **options) as speech:
            audio = b"".join([data async for data in speech])
        return fill_in_sizes(audio) if format.startswith("wav") else audio

    @asynccontextmanager
    async def stream_dialogue(
        self,
        turns: Iterable[Turn],
        *,
        gap_ms: int | None = None,
        format: AudioFormat = "wav",  # noqa: A002
        timestamps: bool = False,
        **options: Unpack[SpeechOptions],
    ) -> AsyncIterator[AsyncSpeechStream]:
        """Stream a dialogue while it is generated: `dialogue` as `stream`."""
        call = endpoints.dialogue(turns, gap_ms, format, options, timestamps=timestamps)
        async with self._stream(call) as speech:
            yield speech

    @asynccontextmanager
    async def _stream(self, call: Call[SpeechHead]) -> AsyncIterator[AsyncSpeechStream]:
        started = time.monotonic()
        async with (
            aclosing(await self._open(call)) as response,
            aclosing(AsyncSpeechStream(response, call.read(response), self._server, started)) as speech,
        ):
            yield speech

    @asynccontextmanager
    async def converse(self, **options: Unpack[ConversationOptions]) -> AsyncIterator[AsyncConversation]:
        """Begin a voice conversation, on asyncio alone. Leaving the `async with` ends it."""
        for attempt in count():
            try:
                conversation = await AsyncConversation.connect(self._server)
            except (Busy, Unavailable) as error:
                delay = self._retry.delay(error, attempt)
                if delay is None:
                    raise
                await anyio.sleep(delay)
            else:
                break
        async with conversation:
            await conversation.begin(options)
            yield conversation

    async def voices(self) -> list[str]:
        """Ids of all voices."""
        return await self._request(endpoints.voices())

    async def voice(self, voice_id: str) -> Voice:
        return await self._request(endpoints.voice(voice_id))

    async def add_voice(
        self,
        recording: Recording,
        *,
        transcript: str = "",
        voice_id: str | None = None,
        progress: Progress | None = None,
        warn: Warn | None = None,
    ) -> str:
        """Upload a recording, given as a path or bytes. Returns the voice's id, by default the file's name.

        transcript: the spoken words. progress: called with (bytes sent, total bytes). warn: called with
        each quality problem of the recording, a sentence.
        """
        call = await to_thread.run_sync(endpoints.add_voice, recording, transcript, voice_id, progress)  # reads a file
        return endpoints.report(await self._request(call), warn)

    async def replace_voice(
        self,
        voice_id: str,
        recording: Recording,
        *,
        transcript: str = "",
        progress: Progress | None = None,
        warn: Warn | None = None,
    ) -> None:
        """Replace an uploaded voice's recording, from the next request on."""
        call = await to_thread.run_sync(endpoints.replace_voice, voice_id, recording, transcript, progress)
        endpoints.report(await self._request(call), warn)

    async def delete_voice(self, voice_id: str) -> None:
        await self._request(endpoints.delete_voice(voice_id))

    async def health(self) -> Health:
        """Health of the service, also while it is failed or shutting down. Needs no key."""
        return await self._request(endpoints.health())

    async def system_status(self) -> dict[str, Any]:
        """CPU, GPUs and workers, as in GET /system-status."""
        return await self._request(endpoints.system_status())

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def _request(self, call: Call[_T]) -> _T:
        async with aclosing(await self._open(call)) as response:
            with self._server.translate_errors():
                await response.aread()
            return call.read(response)

    async def _open(self, call: Call[Any]) -> httpx.Response:
        """Send a request, with retries. Returns a successful response whose body is not read yet."""
        for attempt in count():
            with self._server.translate_errors():
                response = await self._http.send(call.request(self._http), stream=True)
                if call.succeeded(response):
                    return response
                async with aclosing(response):
                    await response.aread()
            error = error_of(response)
            delay = self._retry.delay(error, attempt)
            if delay is None:
                raise error
            await anyio.sleep(delay)
        raise AssertionError("unreachable")
