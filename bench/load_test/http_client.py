"""Just enough of HTTP/1.1 to listen: one request on one connection, its body counted and not kept.

Written for this alone, since hundreds of streams must not make the one who measures the bottleneck.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from .audio_meters import Meter

_LONGEST_HEAD = 64 << 10  # bytes

OnAudio = Callable[[float, int], None]  # told when (time.monotonic()) and how many samples came


class InvalidResponseError(Exception):
    """What came is not an answer in HTTP/1.1."""


class ChunkedBody:
    """A body in chunked coding, taken apart as it comes."""

    def __init__(self) -> None:
        self.ended = False
        self._left = 0  # bytes of the present chunk, with the line's end behind it
        self._line = b""  # the beginning of a line
        self._trailer = False

    def feed(self, data: bytes) -> bytes:
        """The content in these bytes. Raises InvalidResponseError."""
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
            raise InvalidResponseError(f"a chunk begins with {line[:20]!r} and not with its size") from None
        self._trailer = size == 0
        self._left = size + 2 if size else 0


class SizedBody:
    """A body that said how long it is; None: that ends with the connection, so nobody knows whether it is whole."""

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
    """One connection on which something is asked for once, and heard.

    opening: what is sent first. on_audio: told of all sound as it comes.
    status: of the answer, or the code of its error; None until there is one. whole: it came to its end. over: done
    when the connection is closed.
    """

    def __init__(self, opening: bytes, on_audio: OnAudio) -> None:
        self.status: int | str | None = None
        self.whole = False
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_audio = on_audio
        self._opening = opening
        self._transport: asyncio.Transport | None = None

    def send(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def leave(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._opening)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)


class HttpStream(AudioConnection):
    """One request sent, one answer heard. The connection is closed when it has ended, or was no 200."""

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
                self.whole = self._body.ended
        except InvalidResponseError:
            self.leave()
        if self.whole:
            self.leave()

    def _read_head(self, data: bytes) -> bytes:
        """Take in the head; what lies behind it comes back."""
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            if len(self._head) > _LONGEST_HEAD:
                raise InvalidResponseError("the head of the answer does not end")
            return b""
        status, headers = parse_head(self._head[:end])
        self.status = status
        if status != 200:
            self.leave()
            return b""
        if "chunked" in headers.get("transfer-encoding", ""):
            self._body = ChunkedBody()
        else:
            length = headers.get("content-length", "")
            self._body = SizedBody(int(length) if length.isdigit() else None)
        return self._head[end + 4 :]


def parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """The status and the headers, their names in small letters. Raises InvalidResponseError."""
    first, *lines = head.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if not first.startswith("HTTP/1.") or len(parts) < 2 or not parts[1].isdigit():
        raise InvalidResponseError(f"the answer begins with {first[:40]!r}")
    pairs = (line.partition(":") for line in lines)
    return int(parts[1]), {name.strip().lower(): value.strip().lower() for name, _, value in pairs}
