"""Streamed speech: an iterator of bytes with progress and timing."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator

import httpx

from .errors import StreamCut
from .responses import SpeechHead
from .speech_events import Mark, SpeechEventReader
from .transport import Server


class _StreamState:
    """Progress of a stream.

    head: response headers. received: bytes so far. first_audio_seconds: time from the request to the first bytes,
    which are audio or the header sent with it. complete: whether the whole stream was received. marks: of the text
    chunks that were spoken so far, where timestamps were asked for.
    """

    def __init__(self, response: httpx.Response, head: SpeechHead, server: Server, started: float) -> None:
        self.head = head
        self.received = 0
        self.first_audio_seconds: float | None = None
        self.complete = False
        self._events = SpeechEventReader() if _is_event_stream(response) else None
        self._response = response
        self._server = server
        self._started = started

    @property
    def marks(self) -> list[Mark]:
        return [] if self._events is None else self._events.marks

    def _record(self, data: bytes) -> bytes:
        """The audio in the next bytes of the response."""
        if self._events is not None:
            data = self._events.read(data)
        if data and self.first_audio_seconds is None:
            self.first_audio_seconds = time.monotonic() - self._started
        self.received += len(data)
        return data

    def _end(self) -> None:
        if not self.received:
            raise StreamCut("the stream ended before any audio")
        if self._events is not None:
            self._events.end()
        self.complete = True


class SpeechStream(_StreamState):
    """Iterator of received bytes. Raises StreamCut if the connection is aborted before the end."""

    def __init__(self, response: httpx.Response, head: SpeechHead, server: Server, started: float) -> None:
        super().__init__(response, head, server, started)
        self._chunks = self._read()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._chunks)

    def close(self) -> None:
        """Stop reading."""
        self._chunks.close()

    def _read(self) -> Generator[bytes, None, None]:
        with self._server.translate_errors(streaming=True):
            for data in self._response.iter_bytes():
                if audio := self._record(data):
                    yield audio
        self._end()


class AsyncSpeechStream(_StreamState):
    """Iterator of received bytes. Raises StreamCut if the connection is aborted before the end."""

    def __init__(self, response: httpx.Response, head: SpeechHead, server: Server, started: float) -> None:
        super().__init__(response, head, server, started)
        self._chunks = self._read()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._chunks)

    async def aclose(self) -> None:
        """Stop reading."""
        await self._chunks.aclose()

    async def _read(self) -> AsyncGenerator[bytes, None]:
        with self._server.translate_errors(streaming=True):
            async for data in self._response.aiter_bytes():
                if audio := self._record(data):
                    yield audio
        self._end()


def _is_event_stream(response: httpx.Response) -> bool:
    return "text/event-stream" in response.headers.get("Content-Type", "")
