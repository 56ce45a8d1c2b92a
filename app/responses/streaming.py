"""Speech as a response: bytes leave while it is still being spoken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from engine import SAMPLE_RATE

from ..audio.encoder_factory import create_encoder
from ..audio.encoders import Format
from ..audio.thread_pool import run_in_thread
from ..errors import ServiceError, Unprocessable
from ..middleware import timeouts
from ..observability.logs import PlainError
from ..observability.request_log import RequestRecord, record_of
from ..observability.underruns import UnderrunMeter
from ..pool.pool import Pool
from ..schemas.speech import SpeechJob
from ..speaking import speak
from .write_timeout import WriteTimeout

# A reader that takes nothing for this long has left, as far as its slot goes. Before the deadline of its connection,
# which would look as if it had left by itself.
STALL_SECONDS = timeouts.STALL_SECONDS - 5
_UNENCODED = frozenset({"wav", "raw_pcm"})  # they cost less than the way to a thread and back


class StreamCutError(PlainError):
    """A stream that broke after its first byte: raised through, so that the connection is cut and not ended."""

    def __init__(self, request_id: str, why: str) -> None:
        super().__init__(f"the stream of request {request_id} was cut: {why}")


class SpeechResponse(Response):
    """Speaks an order in a format.

    Nothing is sent before the first audio exists, so what fails until then still has its own status. After that
    a failure raises StreamCutError out of the application: the server then closes the connection without the
    last chunk, and no client takes the stream for a whole one. A client that leaves frees its slot at once,
    also while it is queued: this listens for that itself.
    """

    def __init__(self, pool: Pool, job: SpeechJob, audio: Format) -> None:
        self.status_code = 200
        self.media_type = audio.media_type
        self.background = None
        self._pool = pool
        self._order = job
        self._format = audio
        self.init_headers({"X-Sample-Rate": str(SAMPLE_RATE), "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)
        record.voice = self._order.voice_id or "default"
        record.format = self._format.name
        line = _Line(send, record)
        speaking = asyncio.create_task(self._speak(line))
        leaving = asyncio.create_task(_until_it_leaves(receive))
        stalling = asyncio.create_task(line.patience.end())
        try:
            await asyncio.wait({speaking, leaving, stalling}, return_when=asyncio.FIRST_COMPLETED)
            if not speaking.done():
                record.outcome = "left" if leaving.done() else "stalled"
        finally:
            for task in (speaking, leaving, stalling):
                task.cancel()
            await asyncio.gather(speaking, leaving, stalling, return_exceptions=True)
        if not speaking.cancelled():
            speaking.result()  # raises what went wrong
        elif record.outcome == "stalled":
            raise StreamCutError(record.request_id, f"the reader took nothing for {STALL_SECONDS:g} seconds")

    async def _speak(self, line: _Line) -> None:
        encoder = create_encoder(self._format, self._pool.host.parts)
        async with speak(self._pool, self._order) as speech:
            started = time.monotonic()
            line.record.admit()
            try:
                async for chunk in speech:
                    if not line.begun:
                        self.headers["X-TTS-Engine"] = speech.engine_name
                        self.headers["X-Worker-ID"] = speech.worker_id
                    if chunk.samples.size:
                        data = await self._do(partial(encoder.encode, chunk.samples))
                        await line.deliver(self, data, chunk.samples.size, started)
            except ServiceError as error:
                line.record.code = error.code
                if error.code == "draining":
                    line.record.outcome = "drained"
                if line.begun:
                    raise StreamCutError(line.record.request_id, str(error)) from error
                raise
        if not line.samples:
            raise Unprocessable(
                "no audio is left: remove_leading_milliseconds and remove_trailing_milliseconds are longer than "
                "what was spoken",
                code="nothing_left",
            )
        await line.end(self, await self._do(encoder.flush))

    async def _do(self, encoding: Callable[[], bytes]) -> bytes:
        return encoding() if self._format.name in _UNENCODED else await run_in_thread(encoding)


class _Line:
    """The way to one client, and the account of what went over it."""

    def __init__(self, send: Send, record: RequestRecord) -> None:
        self._send = send
        self._pacing = UnderrunMeter()
        self.patience = WriteTimeout(STALL_SECONDS)
        self.record = record
        self.begun = False  # the header has left
        self.samples = 0

    async def deliver(self, response: Response, data: bytes, samples: int, started: float) -> None:
        """Send the bytes that some more samples gave; an encoder may still hold all of them back."""
        self.samples += samples
        self.record.audio_seconds = self.samples / SAMPLE_RATE
        self.record.speech_seconds = time.monotonic() - started
        if data:
            self._pacing.ready(time.monotonic())
            self.record.underrun_seconds = self._pacing.worst
            await self._begin(response)
            await self._push({"type": "http.response.body", "body": data, "more_body": True})
            self._pacing.sent(time.monotonic(), self.samples / SAMPLE_RATE)

    async def end(self, response: Response, data: bytes) -> None:
        await self._begin(response)
        await self._push({"type": "http.response.body", "body": data, "more_body": False})

    async def _begin(self, response: Response) -> None:
        if not self.begun:
            self.begun = True
            self.record.first_audio_seconds = time.monotonic() - self.record.started
            await self._push({"type": "http.response.start", "status": 200, "headers": response.raw_headers})

    async def _push(self, message: Message) -> None:
        await self.patience.send(self._send(message))


async def _until_it_leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
