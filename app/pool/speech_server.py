"""Where the other workers come for speech: a socket in a folder that is private to the service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from asyncio import StreamReader, StreamWriter
from pathlib import Path

from ..errors import ServiceError
from .engine_host import EngineHost
from .framing import ConnectionBroken, Kind, audio_message, error_message, message, read_job, receive
from .local import open_local_speech

_log = logging.getLogger(__name__)

BUFFER_BYTES = 64 << 10  # about 0.7 s of audio: what may lie between two workers before the slot is held
BACKLOG = 1024


def socket_path(folder: Path, index: int) -> Path:
    """Where the worker in a place is to be found."""
    return folder / f"{index}.sock"


class SpeechServer:
    """Speaks for the other workers, each order on a connection of its own. Closing that ends its speech at once."""

    def __init__(self, host: EngineHost, path: Path) -> None:
        self._host = host
        self._path = path
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """Orders that wait or are being spoken."""
        return len(self._connections)

    async def start(self) -> None:
        self._path.unlink(missing_ok=True)  # of a worker that died in this place
        self._server = await asyncio.start_unix_server(self._accept, self._path, backlog=BACKLOG)

    async def close(self) -> None:
        """Let nobody in any more and cut who is still there."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        speaking = asyncio.create_task(self._handle(reader, writer))
        self._connections.add(speaking)
        try:
            await asyncio.wait({speaking})
        finally:
            self._connections.discard(speaking)
            speaking.cancel()
            writer.close()
        if not speaking.cancelled() and (error := speaking.exception()) is not None:
            _log.error("an order of another worker failed", exc_info=error)

    async def _handle(self, reader: StreamReader, writer: StreamWriter) -> None:
        _bound_buffers(writer)
        with contextlib.suppress(ConnectionBroken, ConnectionError):
            kind, payload = await receive(reader)
            if kind is not Kind.JOB:
                return
            speaking = asyncio.create_task(self._speak(payload, writer))
            leaving = asyncio.create_task(reader.read(1))  # nothing more is said on that side: this is its end
            try:
                await asyncio.wait({speaking, leaving}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                speaking.cancel()
                leaving.cancel()
                await asyncio.gather(speaking, leaving, return_exceptions=True)
            if not speaking.cancelled():
                speaking.result()

    async def _speak(self, payload: bytes, writer: StreamWriter) -> None:
        job, wait = read_job(payload)
        try:
            async with open_local_speech(
                self._host, job, wait=wait, on_admitted=lambda: _say(writer, message(Kind.ADMITTED))
            ) as speech:
                _say(writer, message(Kind.BEGUN, json.dumps({"engine": speech.engine_name}).encode()))
                async for chunk in speech:
                    _say(writer, audio_message(chunk))
                    await writer.drain()
            _say(writer, message(Kind.END))
        except ServiceError as error:
            _say(writer, error_message(error))
        await writer.drain()


def _say(writer: StreamWriter, data: bytes) -> None:
    """Raises ConnectionBroken if who asked has left; the transport would say so by a RuntimeError of its own."""
    if writer.is_closing():
        raise ConnectionBroken("the other worker closed the connection")
    writer.write(data)


def _bound_buffers(writer: StreamWriter) -> None:
    writer.transport.set_write_buffer_limits(high=0)
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
