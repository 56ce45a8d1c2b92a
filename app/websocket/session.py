"""WebSocket session: receives the commands of one client and speaks its texts in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from starlette.websockets import WebSocket

from engine import AudioChunk, SpeechSegment, spoken_text

from ..audio.encoders.base import Samples
from ..audio.thread_pool import run_in_thread
from ..audio.timeline import Timeline
from ..errors import BadRequest, ServiceError, Unavailable, Unprocessable
from ..pool.dispatcher import DispatchedSpeech
from ..schemas.speech import SpeechJob
from ..state import AppState
from ..voices.speakers import speaker_number
from .connection import WebSocketConnection
from .messages import CancelCommand, CloseCommand, Command
from .protocol import Message, MessageProtocol
from .text_queue import PendingText, TextQueue
from .utterance_task import UtteranceTask

MAX_QUEUED_TEXTS = 64
MAX_HISTORY_FRAMES = 500  # 40 s: about what fits in the context beside a voice and a text
Codes = npt.NDArray[np.int64]  # (frames, codebooks)
_INLINE_SAMPLES = 48_000  # 2 s: serialising up to this many takes less time than a switch to a thread and back


class WebSocketSession:
    """Runs until the client disconnects, closes or is idle for too long, or the service shuts down.

    One task receives messages, so that the client can cancel and disconnect at any time; one speaks, and holds a slot
    only while it generates; one waits for the shutdown, and one for the write timeout. When the first of them ends,
    the others are cancelled once and awaited, so that their cleanup completes.
    """

    def __init__(self, websocket: WebSocket, state: AppState, protocol: MessageProtocol) -> None:
        self._connection = WebSocketConnection(websocket, is_busy=lambda: self._generating)
        self._state = state
        self._protocol = protocol
        self._record = self._connection.record
        self._queue = TextQueue(MAX_QUEUED_TEXTS, state.settings.max_text_length)
        self._current_task: asyncio.Task[None] | None = None  # speaks the current text
        self._generating = False  # a piece of text is being generated, or waits for a slot
        self._last_generated = time.monotonic()
        self._history: tuple[SpeechSegment, ...] = ()  # of the next text, oldest first

    async def run(self) -> None:
        """Accept the connection and serve it until it ends."""
        await self._connection.run(self._receive_messages, self._speak_texts, self._drain)

    # ---- receiving

    async def _receive_messages(self) -> None:
        idle_seconds = self._state.settings.websocket_idle_seconds
        last_received = time.monotonic()
        while True:
            deadline = max(last_received, self._last_generated) + idle_seconds
            message = await self._connection.receive(deadline - time.monotonic())
            if message is None:
                if self._generating:
                    last_received = time.monotonic()
                    continue
                self._connection.close_as_idle(idle_seconds)
                return
            last_received = time.monotonic()
            text = message.get("text")
            try:
                if text is None:
                    raise BadRequest("binary messages are not supported: send text messages", code="bad_message")
                self._execute(self._protocol.parse(text, continuing=self._queue.continuing))
            except ServiceError as error:
                await self._send(self._protocol.rejected(error))
                if self._close_after(error):
                    return

    def _execute(self, command: Command) -> None:
        if isinstance(command, CancelCommand):
            if command.include_queued:
                self._queue.clear()
            if self._queue.current is not None and self._current_task is not None:
                self._queue.current.close()
                self._current_task.cancel()
        elif isinstance(command, CloseCommand):
            self._queue.finish()
        elif self._connection.shutting_down:
            raise _shutting_down()
        else:
            self._queue.put(command)

    def _close_after(self, error: ServiceError) -> bool:
        """Whether the protocol closes the connection after an error; its close code is then set."""
        code = self._protocol.close_code(error)
        if code is None:
            return False
        self._record.outcome = self._record.outcome or "failed"
        self._connection.close_with(code, error.code)
        return True

    async def _drain(self) -> None:
        """On shutdown: let the current text finish, and fail the queued ones."""
        await self._connection.wait_for_shutdown()
        for text in self._queue.clear():
            await self._send(self._protocol.create_writer(text.command).failed(_shutting_down()))
        self._queue.finish()
        await asyncio.Event().wait()  # _speak_texts ends the session

    # ---- speaking

    async def _speak_texts(self) -> None:
        async for text in self._queue:
            writer = self._protocol.create_writer(text.command)
            await self._speak_text(text, UtteranceTask(text.command, writer, self._record.next_part()))
        if not self._connection.shutting_down:
            await self._send(self._protocol.closing())

    async def _speak_text(self, text: PendingText, utterance: UtteranceTask) -> None:
        """Speak one text, up to the message that it is complete, was cancelled, or failed."""
        self._current_task = task = asyncio.create_task(self._speak_pieces(text, utterance))
        try:
            await asyncio.wait({task})
            self._generating, self._last_generated = False, time.monotonic()
            if task.cancelled():
                await self._send(utterance.cancelled())
            elif isinstance(error := task.exception(), ServiceError):
                await self._send(utterance.failed(error))
                if error.code != "no_words" and self._close_after(error):
                    self._queue.clear()
                    self._queue.finish()
            else:
                task.result()  # raises any other error
                await self._send(await run_in_thread(utterance.completed))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            utterance.close()

    async def _speak_pieces(self, text: PendingText, utterance: UtteranceTask) -> None:
        if not self._protocol.keeps_history:
            self._history = ()
        utterance.job = await self._state.references.resolve(utterance.job)
        async for piece in text.pieces():
            job = utterance.next_job(piece, self._history, last=not text.open)
            if job is None:
                continue  # nothing to speak, or max_audio_length_ms is reached: drop the rest of this text
            self._generating = True
            utterance.begin_timeline(piece, text.piece_at)
            async with self._state.pool.dispatcher.dispatch(job) as speech:
                utterance.admitted()
                codes = await self._send_speech(speech, utterance)
            await self._add_to_history(job, codes, speaker_number(text.command.job.voice_id or "") or 0)
            self._generating, self._last_generated = False, time.monotonic()
        if utterance.effect is not None:
            await self._send_audio(utterance, utterance.effect.flush, in_thread=True)
        if not utterance.samples_sent:
            raise Unprocessable(
                "there is no audio: the text has no words, or the trims removed all of them",
                code=None if utterance.pieces else "no_words",
            )

    async def _send_speech(self, speech: DispatchedSpeech, utterance: UtteranceTask) -> list[Codes] | None:
        """Send the audio of one piece as it is generated. Returns its codes, unless a history cannot hold them."""
        codes: list[Codes] = []
        frames = 0
        async for chunk in speech:
            if not utterance.started:
                await self._send(utterance.start(speech.engine_name))
            frames += len(chunk.codes)
            if frames <= MAX_HISTORY_FRAMES:
                codes.append(chunk.codes)
            if chunk.samples.size:
                in_thread = utterance.is_processed or chunk.samples.size > _INLINE_SAMPLES
                await self._send_audio(utterance, utterance.postprocess(chunk.samples), in_thread=in_thread)
            if utterance.timeline is not None:
                await self._send(await self._marks(utterance, utterance.timeline, chunk))
        return codes if frames <= MAX_HISTORY_FRAMES else None

    async def _marks(self, utterance: UtteranceTask, timeline: Timeline, chunk: AudioChunk) -> list[Message]:
        """The messages of the text chunks that end with this audio."""

        def make_messages() -> list[Message]:
            return [message for mark in timeline.push(chunk) for message in utterance.writer.mark(mark)]

        return await run_in_thread(make_messages) if chunk.timings else make_messages()

    async def _add_to_history(self, job: SpeechJob, codes: list[Codes] | None, speaker: int) -> None:
        """Add a piece that was spoken to its end: how many words an incomplete one holds is unknown."""
        if codes is None:
            self._history = ()
            return
        if not any(each.size for each in codes):  # it is a pause, or the engine does not report codes
            return
        request = job.request
        spoken = await run_in_thread(
            lambda: spoken_text(request.text, normalizes=request.normalize, lexicon=request.lexicon)
        )
        self._history = (*self._history, SpeechSegment(spoken, np.concatenate(codes), speaker))
        while sum(len(each.codes) for each in self._history) > MAX_HISTORY_FRAMES:
            self._history = self._history[1:]

    async def _send_audio(self, utterance: UtteranceTask, process: Callable[[], Samples], *, in_thread: bool) -> None:
        """Send the samples that `process` returns; postprocessing and serialisation may run in a thread."""

        def make_messages() -> tuple[int, list[Message]]:
            samples = process()
            return samples.size, utterance.writer.chunk(samples) if samples.size else []

        size, messages = await run_in_thread(make_messages) if in_thread else make_messages()
        utterance.before_send()
        await self._send(messages)
        utterance.after_send(size)

    async def _send(self, messages: list[Message]) -> None:
        for message in messages:
            await self._connection.send(message)


def _shutting_down() -> Unavailable:
    return Unavailable("the service is shutting down: connect again soon", code="draining")
