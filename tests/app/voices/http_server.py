"""An HTTP server on loopback whose answers are bytes, for tests of downloads."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress


def answer(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    """A whole response. headers: underscores stand for hyphens."""
    fields = {"Content-Length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


@asynccontextmanager
async def http_server(
    answers: Mapping[str, bytes | None], tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[int, list[str]]]:
    """Its port, and the heads of the requests it got.

    answers: by path; None is no answer until the client leaves.
    """
    requests: list[str] = []
    left: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left.add(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
            path = requests[-1].split(" ")[1].partition("?")[0]
            content = answers.get(path, answer(status="404 Not Found"))
            if content is None:
                await reader.read()
            else:
                writer.write(content)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1], requests
    finally:
        server.close()
        for writer in left:
            writer.close()
