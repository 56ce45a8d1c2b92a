"""WebSocket session: receives the commands of one client and speaks its texts in order."""

from __future__ import annotations

import asyncio
import time

from starlette.websockets import WebSocket

from ..errors import BadRequest, ServiceError, Unavailable
from ..state import AppState
from .connection import WebSocketConnection
from .messages import CancelCommand, CloseCommand, Command
from .protocol import Message, MessageProtocol
from .text_queue import TextQueue
from .text_speaker import TextSpeaker

MAX_QUEUED_TEXTS = 64


class WebSocketSession:
    """Runs until the client disconnects, closes or is idle for too long, or the service shuts down.

    One task receives messages, so that the client can cancel and disconnect at any time; one speaks; one waits for the
    shutdown, and one for the write timeout. When the first of them ends, the others are cancelled once and awaited, so
    that their cleanup completes.
    """

    def __init__(self, websocket: WebSocket, state: AppState, protocol: MessageProtocol) -> None:
        self._connection = WebSocketConnection(websocket, is_busy=lambda: self._speaker.generating)
        self._speaker = TextSpeaker(state, self._connection.send_all, keeps_history=protocol.keeps_history)
        self._idle_seconds = state.settings.websocket_idle_seconds
        self._protocol = protocol
        self._queue = TextQueue(MAX_QUEUED_TEXTS, state.settings.max_text_length)

    async def run(self) -> None:
        """Accept the connection and serve it until it ends."""
        await self._connection.run(self._receive_messages, self._speak_texts, self._drain)

    async def _receive_messages(self) -> None:
        last_received = time.monotonic()
        while True:
            deadline = max(last_received, self._speaker.last_generated) + self._idle_seconds
            message = await self._connection.receive(deadline - time.monotonic())
            if message is None:
                if self._speaker.generating:
                    last_received = time.monotonic()
                    continue
                self._connection.close_as_idle(self._idle_seconds)
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
            if self._queue.current is not None:
                self._queue.current.close()
                self._speaker.stop()
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
        self._connection.close_as_failed(code, error.code)
        return True

    async def _drain(self) -> None:
        """On shutdown: let the current text finish, and fail the queued ones."""
        await self._connection.wait_for_shutdown()
        for text in self._queue.clear():
            await self._send(self._protocol.create_writer(text.command).failed(_shutting_down()))
        self._queue.finish()
        await asyncio.Event().wait()  # _speak_texts ends the session

    async def _speak_texts(self) -> None:
        async for text in self._queue:
            writer = self._protocol.create_writer(text.command)
            error = await self._speaker.speak(text, writer, self._connection.record.next_part())
            if error is not None and error.code != "no_words" and self._close_after(error):
                self._queue.clear()
                self._queue.finish()
        if not self._connection.shutting_down:
            await self._send(self._protocol.closing())

    async def _send(self, messages: list[Message]) -> None:
        await self._connection.send_all(messages)


def _shutting_down() -> Unavailable:
    return Unavailable("the service is shutting down: connect again soon", code="draining")
