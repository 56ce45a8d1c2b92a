"""Minimal HTTP/1.1 client for load tests: one request per connection, response audio counted and not stored.

A general client would make the load generator the bottleneck with hundreds of streams.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from .audio_meters import Meter

_MAX_HEAD_BYTES = 64 << 10

OnAudio = Callable[[float, int], None]  # (arrival by time.monotonic(), number of samples)


class InvalidResponseError(Exception):
    """The data received is not a valid HTTP/1.1 response."""


class ChunkedBody:
    """Incremental parser of a chunked body."""

    def __init__(self) -> None:
        self.ended = False
        self._left = 0  # remaining bytes of the current chunk, including the final CRLF
        self._line = b""  # an incomplete line
        self._trailer = False

    def feed(self, data: bytes) -> bytes:
        """Return the content in these bytes. Raises InvalidResponseError."""
        content, at = [], 0
        while at < len(data) and not self.ended:
            if self._left:
                taken = min(self._left, len(data) - at)
                content.append(data[at : at + max(min(taken, self._left - 2), 0)])
                self._left -= taken
                at += taken
                continue
            end = data.find(b"\n", at)
            if end < 0:
                self._line += data[at:]
                break
            line, self._line = (self._line + data[at:end]).strip(), b""
            at = end + 1
            if self._trailer:
                self.ended = not line
            else:
                self._begin_chunk(line)
        return b"".join(content)

    def _begin_chunk(self, line: bytes) -> None:
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            raise InvalidResponseError(f"a chunk starts with {line[:20]!r}, not with its size") from None
        self._trailer = size == 0
        self._left = size + 2 if size else 0


class SizedBody:
    """A body with a Content-Length. size None: it ends with the connection, so completeness is unknown."""

    def __init__(self, size: int | None) -> None:
        self._left = size
        self.ended = size == 0

    def feed(self, data: bytes) -> bytes:
        if self._left is None:
            return data
        taken = data[: self._left]
        self._left -= len(taken)
        self.ended = self._left == 0
        return taken


class AudioConnection(asyncio.Protocol):
    """A connection that sends one request and counts the audio of the response.

    request: the bytes sent on connection. on_audio: called with every arrival of audio.
    status: HTTP status or error code; None before a response. complete: the response ended normally. closed: resolves
    when the connection is closed.
    """

    def __init__(self, request: bytes, on_audio: OnAudio) -> None:
        self.status: int | str | None = None
        self.complete = False
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_audio = on_audio
        self._request = request
        self._transport: asyncio.Transport | None = None

    def send(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


class HttpStream(AudioConnection):
    """Reads one HTTP response. Closes the connection at its end, or if the status is not 200."""

    def __init__(self, request: bytes, meter: Meter, on_audio: OnAudio) -> None:
        super().__init__(request, on_audio)
        self._meter = meter
        self._head = b""
        self._body: ChunkedBody | SizedBody | None = None

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        try:
            if self._body is None:
                data = self._read_head(data)
            if self._body is not None and data:
                samples = self._meter.feed(self._body.feed(data))
                if samples:
                    self.on_audio(now, samples)
                self.complete = self._body.ended
        except InvalidResponseError:
            self.abort()
        if self.complete:
            self.abort()

    def _read_head(self, data: bytes) -> bytes:
        """Parse the head from the data received so far and return the body bytes after it."""
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            if len(self._head) > _MAX_HEAD_BYTES:
                raise InvalidResponseError("the response head is too long")
            return b""
        status, headers = parse_head(self._head[:end])
        self.status = status
        if status != 200:
            self.abort()
            return b""
        if "chunked" in headers.get("transfer-encoding", ""):
            self._body = ChunkedBody()
        else:
            length = headers.get("content-length", "")
            self._body = SizedBody(int(length) if length.isdigit() else None)
        return self._head[end + 4 :]


def parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Parse status and headers; names and values in lower case. Raises InvalidResponseError."""
    first, *lines = head.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if not first.startswith("HTTP/1.") or len(parts) < 2 or not parts[1].isdigit():
        raise InvalidResponseError(f"the response starts with {first[:40]!r}, not an HTTP status line")
    pairs = (line.partition(":") for line in lines)
    return int(parts[1]), {name.strip().lower(): value.strip().lower() for name, _, value in pairs}
