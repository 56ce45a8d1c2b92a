"""Just enough of HTTP/1.1 to be a client that behaves in any way, and sees whether an answer was whole."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

KEY = "soak-key-of-no-value"


class Cut(Exception):
    """The connection ended before the answer did."""


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes = b""


class Wire:
    """A connection to the service."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        try:
            self.writer.write(data)
            await self.writer.drain()
        except OSError as error:
            raise Cut(str(error)) from error

    async def head(self) -> Answer:
        """Raises Cut if the connection ends first."""
        lines = (await self._until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(": ") for line in lines[1:] if line)
        return Answer(int(lines[0].split()[1]), {name.lower(): value for name, _, value in pairs})

    async def body(self, answer: Answer, on_piece: Callable[[int], Awaitable[None]] | None = None) -> Answer:
        """Read it to its end. on_piece: awaited after each, with the bytes so far. Raises Cut if it has none."""
        pieces: list[bytes] = []
        if "chunked" not in answer.headers.get("transfer-encoding", ""):
            pieces.append(await self._exactly(int(answer.headers.get("content-length", "0"))))
        else:
            got = 0
            while size := int(await self._until(b"\r\n"), 16):
                pieces.append((await self._exactly(size + 2))[:-2])
                got += size
                if on_piece is not None:
                    await on_piece(got)
            await self._exactly(2)
        answer.body = b"".join(pieces)
        return answer

    async def closed(self) -> None:
        """Wait until the service closes the connection."""
        with suppress(OSError):
            while await self.reader.read(65536):
                pass

    def reset(self) -> None:
        """Leave without a word, as a crashed client does."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def _until(self, mark: bytes) -> bytes:
        try:
            return await self.reader.readuntil(mark)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Cut(str(error)) from error

    async def _exactly(self, size: int) -> bytes:
        try:
            return await self.reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Cut(str(error)) from error


@asynccontextmanager
async def connect(port: int, buffer: int | None = None) -> AsyncIterator[Wire]:
    """buffer: bytes that the kernel holds for a reader that stops; small, so that the service notices it soon."""
    raw = socket.socket()
    raw.setblocking(False)
    if buffer is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    try:
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=raw, limit=buffer or 1 << 20)
    except OSError as error:
        raw.close()
        raise Cut(str(error)) from error
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


def request(method: str, target: str, body: bytes = b"", *, key: str | None = KEY, close: bool = False) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: service"]
    if key is not None:
        lines.append(f"X-API-Key: {key}")
    if close:
        lines.append("Connection: close")
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body
