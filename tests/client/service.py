"""A service as a function from request to response, through httpx's mock transport."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
from csm_serve_client import AsyncCsmClient, CsmClient

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


class StreamBody(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body of chunks, each yielded on demand; an exception among them is raised in its place."""

    def __init__(self, *chunks: bytes | Exception) -> None:
        self._chunks = chunks
        self.yielded = 0
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            if isinstance(chunk, Exception):
                raise chunk
            self.yielded += 1
            yield chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


def streamed(*chunks: bytes | Exception, **headers: str) -> httpx.Response:
    return httpx.Response(200, headers={**AUDIO, "Transfer-Encoding": "chunked", **headers}, stream=StreamBody(*chunks))


def refused(status: int, code: str = "some_code", **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"detail": f"what to do about {status}", "code": code}, headers=headers)


def client(answer: Answer, **options: Any) -> CsmClient:
    return CsmClient(URL, KEY, transport=httpx.MockTransport(answer), **options)


def async_client(answer: Answer, **options: Any) -> AsyncCsmClient:
    return AsyncCsmClient(URL, KEY, transport=httpx.MockTransport(answer), **options)
