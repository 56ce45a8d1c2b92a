"""Minimal HTTP/1.1 client that can misbehave and detects truncated responses."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

KEY = "soak-key-of-no-value"


class Truncated(Exception):
    """The connection ended before the response did."""


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes = b""


class Connection:
    """A connection to the service."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        try:
            self.writer.write(data)
            await self.writer.drain()
        except OSError as error:
            raise Truncated(str(error)) from error

    async def head(self) -> Response:
        """Read the response head. Raises Truncated if the connection ends first."""
        lines = (await self._read_until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(": ") for line in lines[1:] if line)
        return Response(int(lines[0].split()[1]), {name.lower(): value for name, _, value in pairs})

    async def body(self, response: Response, on_chunk: Callable[[int], Awaitable[None]] | None = None) -> Response:
        """Read the body. on_chunk: awaited after every chunk with the bytes so far. Raises Truncated."""
        chunks: list[bytes] = []
        if "chunked" not in response.headers.get("transfer-encoding", ""):
            chunks.append(await self._read_exactly(int(response.headers.get("content-length", "0"))))
        else:
            received = 0
            while size := int(await self._read_until(b"\r\n"), 16):
                chunks.append((await self._read_exactly(size + 2))[:-2])
                received += size
                if on_chunk is not None:
                    await on_chunk(received)
            await self._read_exactly(2)
        response.body = b"".join(chunks)
        return response

    async def closed(self) -> None:
        """Wait until the service closes the connection."""
        with suppress(OSError):
            while await self.reader.read(65536):
                pass

    def reset(self) -> None:
        """Reset the connection, as a crashed client does."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def _read_until(self, separator: bytes) -> bytes:
        try:
            return await self.reader.readuntil(separator)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Truncated(str(error)) from error

    async def _read_exactly(self, size: int) -> bytes:
        try:
            return await self.reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Truncated(str(error)) from error


@asynccontextmanager
async def connect(port: int, buffer: int | None = None) -> AsyncIterator[Connection]:
    """buffer: size of the socket's receive buffer; small, so that the service notices a stalled reader soon."""
    raw = socket.socket()
    raw.setblocking(False)
    if buffer is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    try:
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=raw, limit=buffer or 1 << 20)
    except OSError as error:
        raw.close()
        raise Truncated(str(error)) from error
    try:
        yield Connection(reader, writer)
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
