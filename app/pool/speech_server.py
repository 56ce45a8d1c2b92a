"""Serves this worker's speech to the other workers, on a Unix socket in a folder private to the service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from asyncio import StreamReader, StreamWriter
from pathlib import Path

import anyio.to_thread
import numpy as np

from engine import AudioChunk, EngineError, TextFeed

from ..audio.encoders.base import Samples
from ..errors import ServiceError, from_engine
from ..schemas.speech import SpeechJob
from .engine_host import EngineHost
from .framing import ConnectionBroken, Kind, audio_message, error_message, message, read_job, read_recording, receive
from .local import open_local_speech

_log = logging.getLogger(__name__)

BUFFER_BYTES = 64 << 10  # about 0.7 s of audio between two workers; a full buffer pauses the slot
BACKLOG = 1024


def socket_path(folder: Path, index: int) -> Path:
    """The socket of a worker."""
    return folder / f"{index}.sock"


class SpeechServer:
    """Streams one job per connection. Closing the connection ends its speech at once."""

    def __init__(self, host: EngineHost, path: Path) -> None:
        self._host = host
        self._path = path
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """Open connections: jobs that wait for a slot or stream."""
        return len(self._connections)

    async def start(self) -> None:
        self._path.unlink(missing_ok=True)  # left by a worker that died
        self._server = await asyncio.start_unix_server(self._accept, self._path, backlog=BACKLOG)

    async def close(self) -> None:
        """Stop listening and cut the open connections."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        streaming = asyncio.create_task(self._handle(reader, writer))
        self._connections.add(streaming)
        try:
            await asyncio.wait({streaming})
        finally:
            self._connections.discard(streaming)
            streaming.cancel()
            writer.close()
        if not streaming.cancelled() and (error := streaming.exception()) is not None:
            _log.error("a job of another worker failed", exc_info=error)

    async def _handle(self, reader: StreamReader, writer: StreamWriter) -> None:
        _bound_buffers(writer)
        with contextlib.suppress(ConnectionBroken, ConnectionError):
            kind, payload = await receive(reader)
            if kind is Kind.PREPARE:
                self._host.prepare_voice(payload.decode())
            if kind not in (Kind.JOB, Kind.ENCODE):
                return
            more: TextFeed | None = None
            if kind is Kind.JOB:
                job, wait = read_job(payload)
                more = job.request.more
                streaming = asyncio.create_task(self._stream(job, wait, writer))
            else:
                streaming = asyncio.create_task(self._encode(payload, writer))
            disconnect = asyncio.create_task(_receive_text(reader, more))
            try:
                await asyncio.wait({streaming, disconnect}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                streaming.cancel()
                disconnect.cancel()
                await asyncio.gather(streaming, disconnect, return_exceptions=True)
            if not streaming.cancelled():
                streaming.result()

    async def _stream(self, job: SpeechJob, wait: float, writer: StreamWriter) -> None:
        try:
            async with open_local_speech(
                self._host, job, wait=wait, on_admitted=lambda: _write(writer, message(Kind.ADMITTED))
            ) as speech:
                started = {"engine": speech.engine_name, "fingerprint": speech.fingerprint}
                _write(writer, message(Kind.STARTED, json.dumps(started).encode()))
                async for chunk in speech:
                    _write(writer, audio_message(chunk))
                    await writer.drain()
            _write(writer, message(Kind.END))
        except ServiceError as error:
            if self._host.broken:  # for good: this process ends, and another worker may speak the job
                raise ConnectionBroken(f"the engine broke: {error}") from error
            _write(writer, error_message(error))
        await writer.drain()

    async def _encode(self, payload: bytes, writer: StreamWriter) -> None:
        try:
            codes = await anyio.to_thread.run_sync(
                lambda: self._host.encode(read_recording(payload)), abandon_on_cancel=True
            )
            none: Samples = np.zeros(0, np.float32)
            _write(writer, message(Kind.END) if codes is None else audio_message(AudioChunk(none, codes)))
        except ServiceError as error:
            _write(writer, error_message(error))
        except EngineError as error:
            _write(writer, error_message(from_engine(error)))
        await writer.drain()


async def _receive_text(reader: StreamReader, more: TextFeed | None) -> None:
    """Take the parts of a job's text, and return when the client closes: it sends nothing else."""
    with contextlib.suppress(ConnectionBroken):
        while True:
            kind, payload = await receive(reader)
            if kind is Kind.TEXT and more is not None:
                more.append(payload.decode())
            elif kind is Kind.TEXT_END and more is not None:
                more.end()
            else:
                return


def _write(writer: StreamWriter, data: bytes) -> None:
    """Raises ConnectionBroken if the client has closed; the transport itself would raise RuntimeError."""
    if writer.is_closing():
        raise ConnectionBroken("the other worker closed the connection")
    writer.write(data)


def _bound_buffers(writer: StreamWriter) -> None:
    writer.transport.set_write_buffer_limits(high=0)
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
