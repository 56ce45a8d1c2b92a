"""A service that is a function: what the client sends comes in, what it shall get goes out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx

from app.client import AsyncCsmClient, CsmClient

URL = "http://service.test"
KEY = "a-key"
AUDIO = {
    "Content-Type": "audio/wav",
    "X-Sample-Rate": "24000",
    "X-TTS-Engine": "csm",
    "X-Worker-ID": "0",
    "X-Request-ID": "r1",
}
Answer = Callable[[httpx.Request], httpx.Response]


class PiecesBody(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes in parts, each when it is asked for; an exception among them is raised there."""

    def __init__(self, *parts: bytes | Exception) -> None:
        self._parts = parts
        self.given = 0
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            if isinstance(part, Exception):
                raise part
            self.given += 1
            yield part

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


def streamed(*parts: bytes | Exception, **headers: str) -> httpx.Response:
    return httpx.Response(200, headers={**AUDIO, "Transfer-Encoding": "chunked", **headers}, stream=PiecesBody(*parts))


def refused(status: int, code: str = "some_code", **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"detail": f"what to do about {status}", "code": code}, headers=headers)


def client(answer: Answer, **options: Any) -> CsmClient:
    return CsmClient(URL, KEY, transport=httpx.MockTransport(answer), **options)


def async_client(answer: Answer, **options: Any) -> AsyncCsmClient:
    return AsyncCsmClient(URL, KEY, transport=httpx.MockTransport(answer), **options)
