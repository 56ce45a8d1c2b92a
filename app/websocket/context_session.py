"""WS /v1/text-to-speech/{voice_id}/multi-stream-input: several texts of one connection, spoken at the same time.

    {"text": " ", "context_id": "a", "voice_settings": {…}}      begins a context, the id of one text
    {"text": "Once upon a ti", "context_id": "a"}                more of its text
    {"context_id": "a", "flush": true}                           speak all that has been written
    {"text": "", "context_id": "a"}                              keeps it open for longer
    {"context_id": "a", "close_context": true}                   its flushed text is still spoken
    {"close_socket": true}                                       closes all contexts, then the connection
    {"audio": "base64", "isFinal": null, "contextId": "a", …}    answers, as of stream-input
    {"audio": null, "isFinal": true, "contextId": "a", …}        last of a context

Each context is a request of its own: it has a slot while one of its pieces is generated.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from pydantic import Field
from starlette.websockets import WebSocket

from ..errors import BadRequest, Busy, ServiceError
from ..state import AppState
from .connection import WebSocketConnection
from .elevenlabs_protocol import (
    ElevenLabsResponseWriter,
    SettingsMessage,
    StreamSettings,
    elevenlabs_close_code,
    elevenlabs_error,
)
from .messages import parse_object, validate
from .text_queue import PendingText
from .text_speaker import TextSpeaker

MAX_CONTEXTS = 5  # ElevenLabs' own limit of open ones
_MAX_SPOKEN = 4 * MAX_CONTEXTS  # with those that are closed, and still spoken
_DEFAULT_CONTEXT = "default"  # of messages that name none


class ContextMessage(SettingsMessage):
    text: str | None = None
    context_id: str | None = Field(None, min_length=1, max_length=256)
    flush: bool | None = None
    close_context: bool | None = None
    close_socket: bool | None = None


@dataclass(eq=False)
class SpeechContext:
    """One text, which accepts more until it is closed."""

    context_id: str
    text: PendingText
    speaker: TextSpeaker
    last_received: float

    def expires_at(self, seconds: float) -> float:
        """When it has been inactive for so long."""
        now = time.monotonic()
        return seconds + (now if self.speaker.generating else max(self.last_received, self.speaker.last_generated))

    def close(self) -> None:
        """Accept no more. Flushed text is still spoken; where the current piece is not, it ends at once."""
        if not self.text.close_at_flush() and self.speaker.generating:
            self.speaker.stop()


class ContextSession:
    """Runs until the client disconnects, closes or is idle for too long, or the service shuts down.

    One task receives messages; each context has one that speaks it, and another supervises them. When the receiver, the
    supervisor or the write timeout ends, the others are cancelled once and awaited.

    A context that neither gets a message nor is spoken for the query's inactivity_timeout is closed.
    """

    def __init__(self, websocket: WebSocket, state: AppState, stream: StreamSettings) -> None:
        self._connection = WebSocketConnection(websocket, is_busy=lambda: self._generating)
        self._state = state
        self._stream = stream
        self._first: SettingsMessage | None = None  # of the connection: contexts without settings take its own
        self._open: dict[str, SpeechContext] = {}
        self._spoken: dict[asyncio.Task[None], SpeechContext] = {}  # open ones, and closed ones until they are complete
        self._closing = False  # what is received is ignored
        self._changed = asyncio.Event()

    @property
    def _generating(self) -> bool:
        return any(context.speaker.generating for context in self._spoken.values())

    async def run(self) -> None:
        """Accept the connection and serve it until it ends."""
        await self._connection.run(self._receive_messages, self._supervise, self._drain)

    # ---- receiving

    async def _receive_messages(self) -> None:
        idle_seconds = self._state.settings.websocket_idle_seconds
        while True:
            message = await self._connection.receive(idle_seconds)
            if message is None:
                if self._spoken:
                    continue
                self._connection.close_as_idle(idle_seconds)
                return
            context_id = _DEFAULT_CONTEXT
            try:
                if message.get("text") is None:
                    raise BadRequest("binary messages are not supported: send text messages", code="bad_message")
                body = validate(ContextMessage, parse_object(message["text"]))
                context_id = body.context_id or context_id
                if not self._closing:
                    self._handle(context_id, body)
            except ServiceError as error:
                await self._connection.send(elevenlabs_error(error, contextId=context_id))
                self._connection.close_as_failed(elevenlabs_close_code(error), error.code)
                return

    def _handle(self, context_id: str, body: ContextMessage) -> None:
        if body.close_socket:
            for context in self._open.values():
                context.close()
            self._end()
        elif body.close_context:
            self._close(context_id)
        elif context_id not in self._open:
            if body.text:
                self._begin(context_id, body.text, body)
        else:
            context = self._open[context_id]
            context.last_received = time.monotonic()
            if body.text or body.flush:
                context.text.append(body.text or "", True, self._stream.flushes(body.flush))

    def _begin(self, context_id: str, text: str, body: ContextMessage) -> None:
        if len(self._open) >= MAX_CONTEXTS or len(self._spoken) >= _MAX_SPOKEN:
            closed = len(self._spoken) - len(self._open)
            raise Busy(
                f"this connection has {len(self._open)} open contexts and {closed} closed ones that are still spoken; "
                f"the limits are {MAX_CONTEXTS}, and {_MAX_SPOKEN} in all: close one before you open the next",
                code="max_active_conversations",
            )
        self._first = self._first or body
        settings = SettingsMessage.model_construct(
            voice_settings=body.voice_settings or self._first.voice_settings,
            generation_config=body.generation_config or self._first.generation_config,
        )
        command = self._stream.first_command(text, settings, flush=body.flush)
        pending = PendingText(command, self._state.settings.max_text_length)
        speaker = TextSpeaker(self._state, self._connection.send_all)
        context = SpeechContext(context_id, pending, speaker, time.monotonic())
        self._open[context_id] = context
        self._spoken[asyncio.create_task(self._speak(context))] = context
        self._changed.set()

    def _close(self, context_id: str) -> None:
        """Close a context. One that is closed again is not listened to any more: it ends at once."""
        if context_id in self._open:
            self._open.pop(context_id).close()
            return
        for context in self._spoken.values():
            if context.context_id == context_id:
                context.speaker.stop()

    def _end(self) -> None:
        """End the connection once all contexts are complete."""
        self._open.clear()
        self._closing = True
        self._changed.set()

    # ---- speaking

    async def _speak(self, context: SpeechContext) -> None:
        audio_format = context.text.command.audio_format
        assert audio_format is not None
        writer = ElevenLabsResponseWriter(audio_format, self._state.pool.host.components, context.context_id)
        await context.speaker.speak(context.text, writer, self._connection.record.next_part())

    async def _supervise(self) -> None:
        """Close inactive contexts, and forget complete ones, until no more follow. Raises what speaking one raises."""
        try:
            while self._spoken or not self._closing:
                self._changed.clear()
                changed = asyncio.create_task(self._changed.wait())
                try:
                    await asyncio.wait(
                        {changed, *self._spoken}, timeout=self._close_inactive(), return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    changed.cancel()
                for task in [task for task in self._spoken if task.done()]:
                    context = self._spoken.pop(task)
                    if self._open.get(context.context_id) is context:  # it has failed
                        del self._open[context.context_id]
                    task.result()
        finally:
            for task in self._spoken:
                task.cancel()
            await asyncio.gather(*self._spoken, return_exceptions=True)

    def _close_inactive(self) -> float | None:
        """Close contexts that have been inactive for too long. Returns the seconds until the next one may be."""
        now = time.monotonic()
        expiries = {
            each: context.expires_at(self._stream.options.inactivity_seconds) for each, context in self._open.items()
        }
        for context_id, expiry in expiries.items():
            if expiry <= now:
                self._close(context_id)
        return min((expiry - now for expiry in expiries.values() if expiry > now), default=None)

    async def _drain(self) -> None:
        """On shutdown: let the contexts finish."""
        await self._connection.wait_for_shutdown()
        for context in self._open.values():
            context.text.close()
        self._end()
        await asyncio.Event().wait()  # the supervisor ends the session
