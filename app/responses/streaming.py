"""Streaming speech response: encodes and sends audio while it is generated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol, runtime_checkable

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from engine import SAMPLE_RATE, AudioChunk

from ..audio.encoder_factory import create_encoder
from ..audio.encoders import Encoder, Format
from ..audio.thread_pool import run_in_thread
from ..audio.timeline import ChunkMark, Timeline
from ..errors import ServiceError, Unprocessable
from ..middleware import timeouts
from ..observability.logs import PlainError
from ..observability.request_log import RequestRecord, record_of
from ..observability.underruns import UnderrunMeter
from ..pool.pool import Pool
from ..schemas.speech import SpeechJob
from .disconnect import wait_for_disconnect
from .write_timeout import WriteTimeout

# Shorter than the write timeout of the HTTP protocol, which would be reported as a client disconnect.
STALL_SECONDS = timeouts.STALL_SECONDS - 5
_INLINE_FORMATS = frozenset({"wav", "raw_pcm"})  # at 24 kHz encoding them takes less time than a switch to a thread


class StreamCutError(PlainError):
    """A stream failed after its first byte. Propagates to the server, which then cuts the connection."""

    def __init__(self, request_id: str, reason: str) -> None:
        super().__init__(f"the stream of request {request_id} was cut: {reason}")


@runtime_checkable
class MarkEncoder(Protocol):
    """An encoder that writes marks beside the audio or in its place."""

    def mark(self, mark: ChunkMark) -> bytes:
        """The bytes that tell of a text chunk, after those of its audio."""
        ...


class SpeechResponse(Response):
    """Generates the speech of a job and streams it in a format.

    Nothing is sent before the first audio, so an error until then gets its own status. A later error raises
    StreamCutError: the server closes the connection without the terminating chunk, so no client takes the stream
    for a complete one. A client that disconnects frees its slot at once, even while queued: this class receives the
    disconnect itself.
    """

    def __init__(self, pool: Pool, job: SpeechJob, audio_format: Format, timeline: Timeline | None = None) -> None:
        """timeline: of a job with timestamps, whose marks the format's encoder writes (MarkEncoder)."""
        self.status_code = 200
        self.media_type = audio_format.media_type
        self.background = None
        self._pool = pool
        self._job = job
        self._format = audio_format
        self._timeline = timeline
        self._inline = audio_format.name in _INLINE_FORMATS and audio_format.sample_rate == SAMPLE_RATE
        self.init_headers({"X-Sample-Rate": str(audio_format.sample_rate), "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)
        record.voice = self._job.voice_name
        record.format = self._format.name
        writer = _StreamWriter(self, send, record)
        speaking = asyncio.create_task(self._speak(writer))
        disconnect = asyncio.create_task(wait_for_disconnect(receive))
        stall = asyncio.create_task(writer.write_timeout.wait())
        try:
            await asyncio.wait({speaking, disconnect, stall}, return_when=asyncio.FIRST_COMPLETED)
            if not speaking.done():
                record.outcome = "left" if disconnect.done() else "stalled"
        finally:
            for task in (speaking, disconnect, stall):
                task.cancel()
            await asyncio.gather(speaking, disconnect, stall, return_exceptions=True)
        if not speaking.cancelled():
            speaking.result()  # raises its error
        elif record.outcome == "stalled":
            raise StreamCutError(record.request_id, f"the client read nothing for {STALL_SECONDS:g} seconds")

    async def _speak(self, writer: _StreamWriter) -> None:
        encoder = create_encoder(self._format, self._pool.host.components)
        record = writer.record
        async with self._pool.dispatcher.dispatch(self._job, record) as speech:
            started = time.monotonic()
            record.admit()
            try:
                async for chunk in speech:
                    if not writer.started:
                        self.headers["X-TTS-Engine"] = speech.engine_name
                        self.headers["X-Worker-ID"] = speech.worker_id
                    if chunk.samples.size or chunk.timings:
                        data = await self._encode(record, partial(self._encode_chunk, encoder, chunk))
                        await writer.write(data, chunk.samples.size, started)
            except ServiceError as error:
                record.code = error.code
                if error.code == "draining":
                    record.outcome = "drained"
                if writer.started:
                    raise StreamCutError(record.request_id, str(error)) from error
                raise
        if not writer.samples:
            raise Unprocessable(
                "no audio is left: remove_leading_milliseconds and remove_trailing_milliseconds exceed the length of "
                "the speech",
                code="nothing_left",
            )
        await writer.finish(await self._encode(record, encoder.flush))

    def _encode_chunk(self, encoder: Encoder, chunk: AudioChunk) -> bytes:
        data = encoder.encode(chunk.samples) if chunk.samples.size else b""
        if self._timeline is not None:
            assert isinstance(encoder, MarkEncoder)
            data += b"".join(map(encoder.mark, self._timeline.push(chunk)))
        return data

    async def _encode(self, record: RequestRecord, encode: Callable[[], bytes]) -> bytes:
        with record.stage("encode"):
            return encode() if self._inline else await run_in_thread(encode)


class _StreamWriter:
    """Sends the body of a response, its headers before the first byte, and records its timing."""

    def __init__(self, response: Response, send: Send, record: RequestRecord) -> None:
        self._response = response
        self._send = send
        self._underruns = UnderrunMeter()
        self.write_timeout = WriteTimeout(STALL_SECONDS)
        self.record = record
        self.started = False  # the headers have been sent
        self.samples = 0  # encoded so far
        self._held = b""  # marks of speech that is trimmed away: without audio the response is an error

    async def write(self, data: bytes, samples: int, speech_started: float) -> None:
        """Send the bytes that encoding some samples returned; empty if the encoder holds all of them back.

        Bytes of marks that come before the first sample are sent with it.
        """
        self.samples += samples
        self.record.audio_seconds = self.samples / SAMPLE_RATE
        self.record.speech_seconds = time.monotonic() - speech_started
        data = self._held + data
        if not self.samples:
            self._held = data
        elif data:
            self._held = b""
            self._underruns.ready(time.monotonic())
            self.record.underrun_seconds = self._underruns.worst
            await self._send_headers()
            await self._send_message({"type": "http.response.body", "body": data, "more_body": True})
            self._underruns.sent(time.monotonic(), self.samples / SAMPLE_RATE)

    async def finish(self, data: bytes) -> None:
        """Send the last bytes."""
        await self._send_headers()
        await self._send_message({"type": "http.response.body", "body": data, "more_body": False})

    async def _send_headers(self) -> None:
        if not self.started:
            self.started = True
            self.record.first_audio_seconds = time.monotonic() - self.record.started
            headers = self._response.raw_headers
            await self._send_message({"type": "http.response.start", "status": 200, "headers": headers})

    async def _send_message(self, message: Message) -> None:
        with self.record.stage("send"):
            await self.write_timeout.send(self._send(message))
