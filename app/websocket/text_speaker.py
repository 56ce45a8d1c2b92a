"""Speaks one text at a time, in the pieces that are complete, and sends the messages of its protocol."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import numpy as np
import numpy.typing as npt

from engine import AudioChunk, SpeechSegment, spoken_text

from ..audio.encoders.base import Samples
from ..audio.thread_pool import run_in_thread
from ..audio.timeline import Timeline
from ..errors import ServiceError, Unprocessable
from ..observability.request_log import RequestRecord
from ..pool.dispatcher import DispatchedSpeech
from ..schemas.speech import SpeechJob
from ..state import AppState
from ..voices.speakers import speaker_number
from .protocol import Message, ResponseWriter
from .text_queue import PendingText
from .utterance_task import UtteranceTask

MAX_HISTORY_FRAMES = 500  # 40 s: about what fits in the context beside a voice and a text
Codes = npt.NDArray[np.int64]  # (frames, codebooks)
_INLINE_SAMPLES = 48_000  # 2 s: serialising up to this many takes less time than a switch to a thread and back


class TextSpeaker:
    """Speaks texts one after another, and holds a slot only while it generates.

    send: sends messages to the client. keeps_history: each text continues the previous one; the pieces of one text
    always do.
    generating: a piece of text is being generated, or waits for a slot. last_generated: when that last ended.
    """

    def __init__(
        self, state: AppState, send: Callable[[list[Message]], Awaitable[None]], *, keeps_history: bool = False
    ) -> None:
        self.generating = False
        self.last_generated = time.monotonic()
        self._state = state
        self._send = send
        self._keeps_history = keeps_history
        self._history: tuple[SpeechSegment, ...] = ()  # of the next text, oldest first
        self._task: asyncio.Task[None] | None = None  # speaks the current text

    def stop(self) -> None:
        """Stop the current text, if there is one; its last messages are sent."""
        if self._task is not None:
            self._task.cancel()

    async def speak(self, text: PendingText, writer: ResponseWriter, record: RequestRecord) -> ServiceError | None:
        """Speak one text, up to the message that it is complete, was stopped, or failed. Returns why it failed.

        record: of this text, which this ends.
        """
        utterance = UtteranceTask(text.command, writer, record)
        self._task = task = asyncio.create_task(self._speak_pieces(text, utterance))
        try:
            await asyncio.wait({task})
            self.generating, self.last_generated = False, time.monotonic()
            if task.cancelled():
                await self._send(utterance.cancelled())
            elif isinstance(error := task.exception(), ServiceError):
                await self._send(utterance.failed(error))
                return error
            else:
                task.result()  # raises any other error
                await self._send(await run_in_thread(utterance.completed))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            utterance.close()
        return None

    async def _speak_pieces(self, text: PendingText, utterance: UtteranceTask) -> None:
        if not self._keeps_history:
            self._history = ()
        utterance.job = await self._state.references.resolve(utterance.job)
        async for piece in text.pieces():
            last = not text.open
            job = utterance.next_job(piece, self._history, last=last)
            if job is None:
                continue  # nothing to speak, or max_audio_length_ms is reached: drop the rest of this text
            self.generating = True
            utterance.begin_timeline(piece, text.piece_at)
            async with self._state.pool.dispatcher.dispatch(job, utterance.record) as speech:
                utterance.admitted()
                codes = await self._send_speech(speech, utterance)
            if self._keeps_history or not last:
                await self._add_to_history(job, codes, speaker_number(text.command.job.voice_id or "") or 0)
            self.generating, self.last_generated = False, time.monotonic()
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

        with utterance.record.stage("encode"):
            size, messages = await run_in_thread(make_messages) if in_thread else make_messages()
        utterance.before_send()
        with utterance.record.stage("send"):
            await self._send(messages)
        utterance.after_send(size)
