"""Bridge from Wyoming, Home Assistant's voice protocol, to the service: each connection of Wyoming is a client of it.

    Describe                                   Info: the voices
    Synthesize                                 AudioStart, AudioChunk …, AudioStop
    SynthesizeStart, SynthesizeChunk …,        the same, while the text is still being written, and SynthesizeStopped
    SynthesizeStop

A Synthesize within a stream repeats its text, for servers that know no streams: it is passed over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable
from importlib.metadata import version

import numpy as np
from csm_serve_client import ApiError, AsyncCsmClient, CsmError
from csm_serve_client.transport import CONNECT_SECONDS, Server
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, Eventable
from wyoming.info import Attribution, Describe, Info, TtsProgram, TtsVoice
from wyoming.ping import Ping, Pong
from wyoming.server import AsyncEventHandler
from wyoming.tts import (
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
    SynthesizeStopped,
    SynthesizeTextFormat,
    SynthesizeVoice,
)

from ..audio.encoders.pcm import to_int16

_log = logging.getLogger(__name__)

RATE, WIDTH, CHANNELS = 24_000, 2, 1
_FORMAT = {"rate": RATE, "width": WIDTH, "channels": CHANNELS}
_SPEAKERS = tuple(f"speaker_{number}" for number in range(4))  # every engine has them
_LANGUAGES = ["en"]
_SOURCE = Attribution(name="Sesame", url="https://github.com/SesameAILabs/csm")


class WyomingBridge:
    """Accepts connections of Wyoming's clients.

    client, server: of the service. default_voice: of requests that name none.
    """

    def __init__(self, client: AsyncCsmClient, server: Server, default_voice: str) -> None:
        self._client = client
        self._server = server
        self._default_voice = default_voice
        self._connections: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until either side ends it."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await _Connection(reader, writer, self._client, self._server, self._default_voice).run()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client has left, or speaks something else
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # of an event that lacks what it must have
            _log.warning("a client sent an event that cannot be read (%s: %s)", type(error).__name__, error)
        except asyncio.CancelledError:
            if not task.cancelling():
                raise
        finally:
            self._connections.discard(task)

    async def close(self) -> None:
        """End all connections, and what they speak."""
        for each in self._connections:
            each.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)


class _Connection(AsyncEventHandler):
    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: AsyncCsmClient,
        server: Server,
        default_voice: str,
    ) -> None:
        super().__init__(reader, writer)
        self._client = client
        self._server = server
        self._default_voice = default_voice
        self._stream: _TextStream | None = None

    async def handle_event(self, event: Event) -> bool:
        """Returns False to end the connection."""
        if Describe.is_type(event.type):
            await self._answer(self._describe())
        elif Ping.is_type(event.type):
            await self.send(Pong(text=Ping.from_event(event).text))
        elif SynthesizeStart.is_type(event.type):
            await self._end_stream()
            start = SynthesizeStart.from_event(event)
            self._stream = _TextStream(self, self._server, self._voice_id(start.voice), start.text_format)
        elif SynthesizeChunk.is_type(event.type):
            if self._stream is not None:
                self._stream.add(SynthesizeChunk.from_event(event).text)
        elif SynthesizeStop.is_type(event.type):
            if self._stream is not None:
                stream, self._stream = self._stream, None
                await self._answer(stream.finish())
                await self.send(SynthesizeStopped())
        elif Synthesize.is_type(event.type) and self._stream is None:
            request = Synthesize.from_event(event)
            await self._answer(self._speak(marked_up(request.text, request.text_format), self._voice_id(request.voice)))
        return True

    async def disconnect(self) -> None:
        await self._end_stream()

    async def send(self, event: Eventable) -> None:
        await self.write_event(event.event())

    async def _end_stream(self) -> None:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.cancel()

    async def _answer(self, answer: Awaitable[None]) -> None:
        """Await an answer; an error of the service is told to the client, which stays connected."""
        try:
            await answer
        except CsmError as error:
            _log.warning("%s", error)
            await self.send(Error(text=str(error), code=error.code if isinstance(error, ApiError) else None))

    async def _describe(self) -> None:
        voices = [*_SPEAKERS, *await self._client.voices()]
        await self.send(
            Info(
                tts=[
                    TtsProgram(
                        name="csm-serve",
                        description="csm-serve",
                        attribution=_SOURCE,
                        installed=True,
                        version=version("csm-serve"),
                        supports_synthesize_streaming=True,
                        voices=[_voice(each) for each in dict.fromkeys(voices)],
                    )
                ]
            )
        )

    async def _speak(self, text: str, voice_id: str) -> None:
        if not text.strip():
            await self.send(AudioStart(**_FORMAT))
            await self.send(AudioStop())
            return
        async with self._client.stream(text, voice_id=voice_id, format="raw_pcm", sample_rate=RATE) as speech:
            await self.send(AudioStart(**_FORMAT))
            rest = b""
            async for data in speech:
                audio = rest + data
                whole = len(audio) // WIDTH * WIDTH
                rest = audio[whole:]
                if whole:
                    await self.send(AudioChunk(**_FORMAT, audio=audio[:whole]))
        await self.send(AudioStop())

    def _voice_id(self, voice: SynthesizeVoice | None) -> str:
        return (voice.name if voice is not None else None) or self._default_voice


class _TextStream:
    """A text that is being written, and its speech: a WebSocket of the service, and a task that passes on its audio."""

    def __init__(
        self, connection: _Connection, server: Server, voice_id: str, text_format: str | SynthesizeTextFormat | None
    ) -> None:
        self._connection = connection
        self._server = server
        self._voice_id = voice_id
        self._is_ssml = text_format == SynthesizeTextFormat.SSML
        self._texts: asyncio.Queue[str | None] = asyncio.Queue()  # None: the text is complete
        self._wraps = False  # it is SSML that came without <speak>
        self._task = asyncio.create_task(self._run())

    def add(self, text: str) -> None:
        self._texts.put_nowait(text)

    async def finish(self) -> None:
        """The text is complete: wait until it is spoken. Raises CsmError."""
        self._texts.put_nowait(None)
        try:
            await self._task
        except asyncio.CancelledError:
            await self.cancel()
            raise

    async def cancel(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, CsmError, ConnectionError):
            await self._task

    async def _run(self) -> None:
        send = self._connection.send
        await send(AudioStart(**_FORMAT))
        first = await self._first_text()
        if first is not None:
            await self._speak(first)
        await send(AudioStop())

    async def _first_text(self) -> str | None:
        """What there is to speak at first; None if the text is complete and there is nothing."""
        text = ""
        while not text.strip():
            more = await self._texts.get()
            if more is None:
                return None
            text += more
        self._wraps = self._is_ssml and not text.lstrip().startswith("<speak")
        return f"<speak>{text}" if self._wraps else text

    async def _speak(self, first: str) -> None:
        try:
            service = await connect(
                f"{self._server.base_url.rstrip('/').replace('http', 'ws', 1)}/ws",
                additional_headers={} if self._server.api_key is None else {"X-API-Key": self._server.api_key},
                proxy=None if self._server.is_loopback else True,
                open_timeout=CONNECT_SECONDS,
            )
        except (WebSocketException, OSError) as error:
            raise CsmError(
                f"cannot connect to {self._server.redacted_url} ({error or type(error).__name__})"
            ) from error
        async with service:
            writing = asyncio.create_task(self._write(service, first))
            try:
                await self._read(service)
            finally:
                writing.cancel()
                with contextlib.suppress(asyncio.CancelledError, WebSocketException):
                    await writing

    async def _write(self, service: ClientConnection, first: str) -> None:
        message = {"text": first, "voice_id": self._voice_id, "sample_rate": RATE, "binary": True, "continue": True}
        await service.send(json.dumps(message))
        while (text := await self._texts.get()) is not None:
            await service.send(json.dumps({"text": text, "continue": True}))
        await service.send(json.dumps({"text": "</speak>" if self._wraps else ""}))

    async def _read(self, service: ClientConnection) -> None:
        """Pass on audio until the text is spoken. Raises CsmError."""
        with contextlib.suppress(ConnectionClosed):
            async for message in service:
                if await self._take(message):
                    return
        raise CsmError("the service closed the connection before the end of the speech")

    async def _take(self, message: str | bytes) -> bool:
        """Returns whether the speech is complete."""
        if isinstance(message, bytes):
            audio = to_int16(np.frombuffer(message, "<f4")).tobytes()
            await self._connection.send(AudioChunk(**_FORMAT, audio=audio))
            return False
        answer = json.loads(message)
        if answer.get("type") == "error":
            raise CsmError(str(answer.get("message")))
        return bool(answer.get("type") == "completion")


def marked_up(text: str, text_format: str | SynthesizeTextFormat | None) -> str:
    """The text as the service reads it: SSML is within <speak>."""
    if text_format == SynthesizeTextFormat.SSML and not text.lstrip().startswith("<speak"):
        return f"<speak>{text}</speak>"
    return text


def _voice(voice_id: str) -> TtsVoice:
    return TtsVoice(
        name=voice_id, description=voice_id, attribution=_SOURCE, installed=True, version=None, languages=_LANGUAGES
    )
