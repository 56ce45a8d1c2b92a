"""One response: the language model's answer, spoken clause by clause while it is written."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any, Literal

from engine import FRAME_MILLISECONDS, AudioChunk

from ..audio.postprocessing import resolve_watermark_key
from ..errors import EngineBroke, ServiceError
from ..llm.language_model import ChatRequest, Finished, TextDelta, ToolCallDelta
from ..observability.request_log import RequestRecord
from . import server_events as events
from .answer_text import AnswerText
from .conversation import Conversation, Entry, chat_messages, speech_history
from .items import MessageItem
from .response_audio import ResponseAudio
from .response_output import ResponseOutput
from .response_plan import ResponsePlan
from .server_events import Send, new_id
from .service import RealtimeService
from .token_usage import TokenUsage

CancelReason = Literal["turn_detected", "client_cancelled"]

MAX_METADATA = 16  # pairs, as in the protocol


class Response:
    """Run it once, in a task of its own; `cancel` ends it early. It never raises a ServiceError: it fails instead."""

    def __init__(
        self,
        service: RealtimeService,
        conversation: Conversation,
        send: Send,
        plan: ResponsePlan,
        record: RequestRecord,
    ) -> None:
        self.id = new_id("resp")
        self.plan = plan
        self.status = "in_progress"
        self._service, self._conversation, self._send_event = service, conversation, send
        self._record = record
        self._task: asyncio.Task[None] | None = None
        self._cancelled: CancelReason | None = None
        self._error: ServiceError | None = None
        self._finish_reason = "stop"
        self._usage = TokenUsage()
        self._output = ResponseOutput(
            self.id, conversation if plan.in_conversation else None, send, plan.config.audio.output.speed
        )
        self.audio = ResponseAudio(self._output, plan, resolve_watermark_key(service.state.settings), record)
        record.voice = plan.job.voice_name
        record.format = "float32" if plan.config.speaks else None

    @property
    def active(self) -> bool:
        return self.status == "in_progress"

    @property
    def ended(self) -> bool:
        """Whether its last event has been sent, or its connection is gone."""
        return self._task is not None and self._task.done()

    @property
    def entry(self) -> Entry | None:
        """Its message, once there is one."""
        return self._output.message

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def cancel(self, reason: CancelReason) -> None:
        """End it: its slot is free before the next frame."""
        if self.active and self._cancelled is None and self._task is not None:
            self._cancelled = reason
            self._task.cancel()

    async def wait(self) -> None:
        """Wait until it has ended, its last event included."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def close(self) -> None:
        """End it without another event, for a connection that is gone."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # ---- the life of the response

    async def _run(self) -> None:
        try:
            await self._send_event(events.ResponseEvent(type="response.created", response=self._json()))
            try:
                await self._answer()
            except asyncio.CancelledError:
                if self._cancelled is None:
                    raise
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
            except ServiceError as error:
                self._error = error
            self.status = self._final_status()
            await self._output.end(completed=self.status == "completed")
            await self._send_event(events.ResponseEvent(type="response.done", response=self._json()))
        finally:
            self._end_record()

    async def _answer(self) -> None:
        """Let the language model write and the engine speak, at the same time."""
        entries = self.plan.entries
        await self._wait_for_transcripts(entries)
        if self.plan.turn is not None and not _words(self.plan.turn):
            return  # a noise that nobody understands needs no answer
        config = self.plan.config
        request = ChatRequest(
            chat_messages(config.instructions, entries),
            [_chat_tool(tool) for tool in config.tools if tool.get("type") == "function"],
            _chat_tool_choice(config.tool_choice),
            None if config.max_output_tokens == "inf" else config.max_output_tokens,
            config.temperature,
        )
        speech = self.plan.job.request
        text = AnswerText(
            speech.chunk_characters,
            self._service.state.settings.llm_timeout_seconds,
            normalizes=speech.normalize,
        )
        reader, complete = asyncio.create_task(self._read_answer(request, text)), True
        try:
            if (first := await text.begin()) is not None:
                await self._wait_for_user_audio(entries)
                complete = await self._speak(first, text)
            if complete:
                await reader  # raises what the language model failed with
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        if not complete:
            self._finish_reason = "length"
        await self._end_audio()

    async def _wait_for_transcripts(self, entries: list[Entry]) -> None:
        heard = [entry.transcript for entry in entries if entry.transcript is not None]
        if heard:
            await asyncio.wait(heard)  # not gathered: they belong to the items, and outlive this response
            heard[-1].result()  # raises why the newest turn was not understood; earlier ones have failed already
        self.plan.latency.transcribed = time.monotonic()

    async def _wait_for_user_audio(self, entries: list[Entry]) -> None:
        """The user's audio is encoded beside recognition and the language model; what fails is left out."""
        waiting = [entry.codes for entry in entries if entry.codes is not None and not entry.codes.done()]
        if waiting:
            await asyncio.wait(waiting)

    async def _read_answer(self, request: ChatRequest, text: AnswerText) -> None:
        """Pass the model's text on: as clauses to speak, or as text; and its function calls."""
        speaks = self.plan.config.speaks
        answer = self._service.language_model.stream(request)
        try:
            async for piece in answer:
                if isinstance(piece, TextDelta) and speaks:
                    self._note_clause(text.write(piece.text))
                elif isinstance(piece, TextDelta):
                    await self._output.add_text(piece.text)
                elif isinstance(piece, ToolCallDelta):
                    await self._output.add_to_call(piece)
                else:
                    self._finish(piece)
            self._note_clause(text.flush())
            await self._output.end_calls()
        finally:
            text.end()
            await answer.aclose()

    def _note_clause(self, ready: bool) -> None:
        if ready and self.plan.latency.clause_ready is None:
            self.plan.latency.clause_ready = time.monotonic()

    def _finish(self, end: Finished) -> None:
        self._finish_reason = end.reason
        self._usage.input_text, self._usage.output_text = end.input_tokens or 0, end.output_tokens or 0

    # ---- speech

    async def _speak(self, first: str, text: AnswerText) -> bool:
        """Speak the whole answer in one slot, clause by clause as they are written.

        Returns whether it is complete: it may have reached the longest duration of a request before.
        """
        job, entries = self.plan.job, self.plan.entries
        entry = await self._output.begin_message("output_audio")
        history = speech_history(
            entries, self.plan.assistant, self.plan.user, self._service.state.settings.realtime_user_audio
        )
        job = replace(job, request=replace(job.request, text=first, history=tuple(history), more=text.more))
        async with self._service.state.pool.dispatcher.dispatch(job, self._record) as speech:
            self._record.admit()
            self.audio.speech_begins(time.monotonic())
            feeding, parts = asyncio.create_task(text.feed()), 0
            try:
                async for chunk in speech:
                    await self._send_chunk(entry, chunk, text)
                    parts = chunk.text_part
                complete = text.more.ended and parts == len(text.clauses)  # the end of the text is a part without words
            finally:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)
        if not feeding.cancelled():
            feeding.result()
        return complete

    async def _send_chunk(self, entry: Entry, chunk: AudioChunk, text: AnswerText) -> None:
        """Send a piece of the answer's audio; the caption of a clause comes with its sound."""
        part = min(chunk.text_part, len(text.clauses) - 1)  # the end of the speech comes after the last one
        while len(entry.clauses) <= part:
            clause = text.clauses[len(entry.clauses)]
            self.audio.speech_begins(text.passed_on(len(entry.clauses)))
            entry.clauses.append(clause)
            await self._output.add_transcript(entry, clause.text)
        clause = entry.clauses[part]
        clause.codes.append(chunk.codes)
        await self.audio.send(entry, chunk.samples)
        if chunk.ends_text_part:
            clause.complete = True
            text.spoken(part)

    async def _end_audio(self) -> None:
        """Send what effects and encoder hold back."""
        if self.entry is not None and self.plan.config.speaks:
            await self.audio.flush(self.entry)

    # ---- the end

    def _final_status(self) -> str:
        if self._cancelled is not None:
            return "cancelled"
        if self._error is not None:
            return "failed"
        return "incomplete" if self._finish_reason in ("length", "content_filter") else "completed"

    def _status_details(self) -> dict[str, Any] | None:
        if self.status == "cancelled":
            return {"type": "cancelled", "reason": self._cancelled}
        if self.status == "failed" and self._error is not None:
            body = events.error_body(self._error)
            return {"type": "failed", "error": {"type": body.type, "code": body.code, "message": body.message}}
        if self.status == "incomplete":
            reason = "max_output_tokens" if self._finish_reason == "length" else "content_filter"
            return {"type": "incomplete", "reason": reason}
        return None

    def _json(self) -> dict[str, Any]:
        config, ended = self.plan.config, not self.active
        if ended:
            self._usage.output_audio = sum(clause.frames for clause in self.entry.clauses) if self.entry else 0
            heard = sum(entry.seconds for entry in self.plan.entries)
            self._usage.input_audio = round(1000 * heard / FRAME_MILLISECONDS)
        spans = {f"{name}_ms": f"{1000 * seconds:.1f}" for name, seconds in self.plan.latency.spans().items()}
        metadata = dict(self.plan.metadata)
        if ended:
            metadata.update(list(spans.items())[: MAX_METADATA - len(metadata)])
        return {
            "id": self.id,
            "object": "realtime.response",
            "status": self.status,
            "status_details": self._status_details(),
            "output": self._output.to_json(),
            "conversation_id": self._conversation.id if self.plan.in_conversation else None,
            "output_modalities": config.output_modalities,
            "max_output_tokens": config.max_output_tokens,
            "audio": {
                "output": {"format": config.audio.output.format.model_dump(), "voice": config.audio.output.voice_name}
            },
            "usage": self._usage.to_json() if ended else None,
            "metadata": metadata or None,
        }

    def _end_record(self) -> None:
        """Write the log record, and the metrics of a turn."""
        record = self._record
        record.latency = self.plan.latency.spans()
        if self._error is not None:
            record.code = self._error.code
        if record.outcome is None:
            spoke = record.audio_seconds is not None
            record.outcome = {
                "completed": "ok",
                "incomplete": "ok",
                "failed": "failed" if spoke or isinstance(self._error, EngineBroke) else "refused",
            }.get(self.status, "left")
        record.end()


def _words(entry: Entry) -> str:
    return entry.item.words if isinstance(entry.item, MessageItem) else ""


def _chat_tool(tool: dict[str, Any]) -> dict[str, Any]:
    """A function as chat completions describe it: under a key of its own."""
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _chat_tool_choice(choice: str | dict[str, Any]) -> str | dict[str, Any]:
    if isinstance(choice, dict) and "name" in choice:
        return {"type": "function", "function": {"name": choice["name"]}}
    return choice
