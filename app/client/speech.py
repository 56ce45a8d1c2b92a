"""Speech while it comes: bytes, and the account of how they came."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator

import httpx

from .errors import StreamCut
from .responses import SpeechHead
from .transport import Server


class _Account:
    """head: what was known before the first byte.

    received: bytes so far. first_audio_seconds: from asking to the first of them; the service sends nothing before
    it has audio. complete: everything came.
    """

    def __init__(self, response: httpx.Response, head: SpeechHead, server: Server, asked: float) -> None:
        self.head = head
        self.received = 0
        self.first_audio_seconds: float | None = None
        self.complete = False
        self._response = response
        self._server = server
        self._asked = asked

    def _note(self, data: bytes) -> None:
        if self.first_audio_seconds is None:
            self.first_audio_seconds = time.monotonic() - self._asked
        self.received += len(data)

    def _end(self) -> None:
        if not self.received:
            raise StreamCut("the stream ended before any audio came")
        self.complete = True


class SpeechStream(_Account):
    """An iterator of bytes as they come. Raises StreamCut if they end before the speech does."""

    def __init__(self, response: httpx.Response, head: SpeechHead, server: Server, asked: float) -> None:
        super().__init__(response, head, server, asked)
        self._parts = self._read()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._parts)

    def close(self) -> None:
        """Take no more of it."""
        self._parts.close()

    def _read(self) -> Generator[bytes, None, None]:
        with self._server.errors(begun=True):
            for data in self._response.iter_bytes():
                self._note(data)
                yield data
        self._end()


class AsyncSpeechStream(_Account):
    """An iterator of bytes as they come. Raises StreamCut if they end before the speech does."""

    def __init__(self, response: httpx.Response, head: SpeechHead, server: Server, asked: float) -> None:
        super().__init__(response, head, server, asked)
        self._parts = self._read()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._parts)

    async def aclose(self) -> None:
        """Take no more of it."""
        await self._parts.aclose()

    async def _read(self) -> AsyncGenerator[bytes, None]:
        with self._server.errors(begun=True):
            async for data in self._response.aiter_bytes():
                self._note(data)
                yield data
        self._end()
