"""One WebSocket: hears what its client wants, and says its texts one after the other."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import numpy as np
import numpy.typing as npt
from anyio import CancelScope, move_on_after
from starlette.websockets import WebSocket, WebSocketDisconnect

from engine import SpeechSegment

from ..audio.encoders.base import Samples
from ..audio.thread_pool import run_in_thread
from ..errors import BadRequest, ServiceError, Unavailable, Unprocessable
from ..observability.request_log import record_of
from ..pool.dispatcher import Speech
from ..responses.streaming import STALL_SECONDS
from ..responses.write_timeout import WriteTimeout
from ..server.websocket_protocol import socket_control
from ..speaking import speak
from ..state import AppState
from ..voices.speakers import speaker_number
from .messages import CancelCommand, CloseCommand, Command
from .protocol import Message, MessageProtocol
from .text_queue import PendingText, TextQueue
from .utterance_task import UtteranceTask

_log = logging.getLogger(__name__)

MOST_TEXTS = 64  # that wait on one connection
_NORMAL, _GOING_AWAY, _INTERNAL_ERROR, _SERVICE_RESTART = 1000, 1001, 1011, 1012  # RFC 6455, 7.4.1
MOST_REMEMBERED = 500  # frames, 40 s: about what the engine has room for beside a voice and a text
_NO_CODES: npt.NDArray[np.int64] = np.zeros((0, 0), np.int64)
_SMALL = 48_000  # samples, 2 s: making a message of fewer takes less than the way to a thread and back


class _ReaderStalledError(Exception):
    """The client takes nothing any more."""


class WebSocketSession:
    """Runs until the client leaves, is done, or is silent for too long, or the service shuts down.

    One task listens, so that a client can cancel and leave while it is spoken to; one speaks, and holds a slot
    only while it does; one waits for the shutdown, and one for a reader that takes nothing. When the first of them
    ends, all do. They are cancelled once each, and waited for: what they leave behind is given back in an orderly way.
    """

    def __init__(self, websocket: WebSocket, service: AppState, dialect: MessageProtocol) -> None:
        self._websocket = websocket
        self._service = service
        self._dialect = dialect
        self._link = socket_control(websocket.scope)
        self._record = record_of(websocket.scope)
        self._patience = WriteTimeout(STALL_SECONDS)
        self._texts = TextQueue(MOST_TEXTS, service.settings.max_text_length)
        self._saying: asyncio.Task[None] | None = None  # the current text
        self._engaged = False  # something is being said, or waits for a slot
        self._ended = time.monotonic()  # of what was said last
        self._said: tuple[SpeechSegment, ...] = ()  # what the next text follows on from, oldest first
        self._close_code, self._close_reason = _NORMAL, ""

    async def run(self) -> None:
        """Accept it, and serve it to its end."""
        await self._websocket.accept()
        tasks = [
            asyncio.create_task(self._guarded(task))
            for task in (self._listen, self._speak, self._drain, self._lose_patience)
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._record.outcome, self._close_code = "drained", _SERVICE_RESTART
            raise
        finally:
            for task in tasks:
                task.cancel()
            with CancelScope(shield=True):
                await asyncio.gather(*tasks, return_exceptions=True)
                with move_on_after(1), suppress(RuntimeError, WebSocketDisconnect):  # the client was quicker
                    await self._websocket.close(self._close_code, self._close_reason)

    async def _guarded(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except WebSocketDisconnect:
            self._record.outcome = self._record.outcome or ("left" if self._engaged else "ok")
        except _ReaderStalledError:
            self._record.outcome = "stalled"
            self._link.abort()
        except Exception:
            _log.exception("connection %s met an error that nobody expected", self._record.request_id)
            self._record.outcome, self._close_code = "failed", _INTERNAL_ERROR

    # ---- hearing

    async def _listen(self) -> None:
        idle = self._service.settings.websocket_idle_seconds
        last = time.monotonic()
        while True:
            with move_on_after(max(last, self._ended) + idle - time.monotonic()) as waiting:
                message = await self._websocket.receive()
            if waiting.cancelled_caught:
                if self._engaged:
                    last = time.monotonic()
                    continue
                self._close_code, self._close_reason = _GOING_AWAY, f"nothing was said or sent for {idle:g} seconds"
                return
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code") or 1005)
            last = time.monotonic()
            text = message.get("text")
            try:
                if text is None:
                    raise BadRequest("send text messages; a binary one is not understood", code="bad_message")
                self._obey(self._dialect.read(text, continuing=self._texts.continuing))
            except ServiceError as error:
                await self._send(self._dialect.refused(error))

    def _obey(self, command: Command) -> None:
        if isinstance(command, CancelCommand):
            if command.everything:
                self._texts.clear()
            if self._texts.current is not None and self._saying is not None:
                self._texts.current.close()
                self._saying.cancel()
        elif isinstance(command, CloseCommand):
            self._texts.finish()
        elif self._link.leaving.is_set():
            raise _leaving()
        else:
            self._texts.put(command)

    async def _drain(self) -> None:
        """At a shutdown: say the current text to its end, and refuse those that wait."""
        await self._link.leaving.wait()
        self._close_code, self._close_reason = _SERVICE_RESTART, "the service is shutting down"
        self._record.outcome = "drained"
        for text in self._texts.clear():
            await self._send(self._dialect.answer(text.say).failed(_leaving()))
        self._texts.finish()
        await asyncio.Event().wait()  # the task that speaks ends it all

    # ---- speaking

    async def _speak(self) -> None:
        number = 0
        async for text in self._texts:
            number += 1
            await self._say(text, UtteranceTask(text.say, self._dialect.answer(text.say), self._record.part(number)))
        if not self._link.leaving.is_set():
            await self._send(self._dialect.farewell())

    async def _say(self, text: PendingText, telling: UtteranceTask) -> None:
        """One text, up to the message that it is complete, was cancelled, or failed."""
        self._saying = saying = asyncio.create_task(self._say_pieces(text, telling))
        try:
            await asyncio.wait({saying})
            self._engaged, self._ended = False, time.monotonic()
            if saying.cancelled():
                await self._send(telling.cancelled())
            elif isinstance(error := saying.exception(), ServiceError):
                await self._send(telling.failed(error))
            else:
                saying.result()  # raises whatever else went wrong
                await self._send(await run_in_thread(telling.ended))
        finally:
            saying.cancel()
            await asyncio.gather(saying, return_exceptions=True)
            telling.close()

    async def _say_pieces(self, text: PendingText, telling: UtteranceTask) -> None:
        if not self._dialect.remembers:
            self._said = ()
        async for piece in text.pieces():
            job = telling.next_order(piece, self._said, last=not text.open)
            if job is None:
                continue  # max_audio_length_ms is reached: the rest of the text is still the rest of this text
            self._engaged = True
            async with speak(self._service.pool, job) as speech:
                telling.admitted()
                await self._pass_on(speech, telling, text, piece)
            self._engaged, self._ended = False, time.monotonic()
        if telling.effect is not None:
            await self._give(telling, telling.effect.flush, heavy=True)
        if not telling.samples:
            raise Unprocessable("there is nothing to hear: the text has no words, or the trims left nothing of them")

    async def _pass_on(self, speech: Speech, telling: UtteranceTask, text: PendingText, piece: str) -> None:
        """The audio of one piece, as it comes."""
        codes = []
        async for chunk in speech:
            if not telling.begun:
                await self._send(telling.begin(speech.engine_name))
            codes.append(chunk.codes)
            if chunk.samples.size:
                await self._give(telling, telling.finishing(chunk.samples), heavy=chunk.samples.size > _SMALL)
        speaker = speaker_number(text.say.job.voice_id or "") or 0
        self._remember(SpeechSegment(piece, np.concatenate(codes or [_NO_CODES]), speaker))

    def _remember(self, said: SpeechSegment) -> None:
        """Only what was said to its end: of the rest nobody knows which words it was."""
        if said.codes.size:  # else the engine has no use for it
            self._said = (*self._said, said)
            while sum(len(each.codes) for each in self._said) > MOST_REMEMBERED:
                self._said = self._said[1:]

    async def _give(self, telling: UtteranceTask, finish: Callable[[], Samples], *, heavy: bool) -> None:
        """Give samples their finish, make messages of them, and send those."""

        def make() -> tuple[Samples, list[Message]]:
            samples = finish()
            return samples, telling.answer.chunk(samples) if samples.size else []

        samples, messages = await run_in_thread(make) if heavy or telling.effect is not None else make()
        telling.ready()
        await self._send(messages)
        telling.sent(samples.size)

    async def _send(self, messages: list[Message]) -> None:
        for message in messages:
            send = (
                self._websocket.send_bytes(message)
                if isinstance(message, bytes)
                else self._websocket.send_text(message)
            )
            await self._patience.send(send)

    async def _lose_patience(self) -> None:
        await self._patience.end()
        raise _ReaderStalledError


def _leaving() -> Unavailable:
    return Unavailable("the service is shutting down: connect again soon", code="draining")
