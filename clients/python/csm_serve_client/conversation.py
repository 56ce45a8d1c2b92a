"""A voice conversation with the service over the Realtime protocol: Conversation, and AsyncConversation for asyncio."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, Unpack

from . import conversation_requests as requests
from .conversation_events import ConversationEvent, ErrorReceived, SessionChanged, read_event
from .conversation_requests import ConversationOptions, Request
from .conversation_socket import connect, connect_async, translate_errors
from .errors import StreamCut, Unavailable
from .transport import Server

if TYPE_CHECKING:
    from typing import Self

    from websockets.asyncio.client import ClientConnection as AsyncSocket
    from websockets.sync.client import ClientConnection as Socket


class _ConversationState:
    """What both conversations know from the events that were read.

    session: the settings that apply, the `session` object of the protocol; `csm` in it says who answers.
    """

    def __init__(self, server: Server) -> None:
        self.session: Mapping[str, Any] = {}
        self._server = server
        self._numbers = count(1)
        self._interrupts: set[str] = set()  # ids of their events
        self._closed = False

    def _write(self, request: Request) -> tuple[str, str]:
        """The id of an event to be sent, and its text."""
        event_id = request.get("event_id") or f"client_{next(self._numbers)}"
        if request["type"] == "response.cancel":
            self._interrupts.add(event_id)
        return event_id, json.dumps({**request, "event_id": event_id})

    def _read(self, message: str | bytes) -> ConversationEvent | None:
        """The event of a message; None if it only says that there was nothing to interrupt any more."""
        event = read_event(message)
        if isinstance(event, SessionChanged):
            self.session = event.session
        if isinstance(event, ErrorReceived) and event.error.event_id in self._interrupts:
            self._interrupts.discard(event.error.event_id)
            return None if event.error.code == "response_cancel_not_active" else event
        return event

    @staticmethod
    def _settled(event: ConversationEvent) -> bool:
        """Whether the settings have been applied. Raises ConversationError if they were rejected."""
        if isinstance(event, ErrorReceived):
            raise event.error
        return isinstance(event, SessionChanged)


class Conversation(_ConversationState):
    """Iterator of received events, until it is closed. Every method that sends returns its event's id.

    One thread may read while others send. Events wait in memory until they are read. A method raises CsmError: a
    connection that was aborted StreamCut, a service that shuts down Unavailable. What the service rejects is an
    `ErrorReceived` event with that event's id, and the conversation goes on.
    """

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._socket: Socket = connect(server)

    def begin(self, options: ConversationOptions) -> None:
        """Wait for the service's greeting, and apply the settings. Raises ConversationError if they are rejected."""
        self._settle()
        if options:
            self.update(**options)
            self._settle()

    def _settle(self) -> None:
        if not any(self._settled(event) for event in self):
            raise StreamCut("the service ended the conversation before it began")

    def send_audio(self, audio: bytes) -> str:
        """Append a piece of the user's audio, of at most 500 kB, in the conversation's format."""
        return self.send(requests.append_audio(audio))

    def commit_audio(self) -> str:
        """End the user's turn, with push_to_talk. `respond` answers it."""
        return self.send({"type": "input_audio_buffer.commit"})

    def clear_audio(self) -> str:
        """Drop the audio of the current turn."""
        return self.send({"type": "input_audio_buffer.clear"})

    def send_text(self, text: str, *, respond: bool = True) -> str:
        """Add a typed message of the user, and answer it. Returns the id of the message's event."""
        event_id = self.send(requests.user_text(text))
        if respond:
            self.respond()
        return event_id

    def send_function_output(self, call_id: str, output: str, *, respond: bool = True) -> str:
        """Add what a function returned, and answer it. Returns the id of its event."""
        event_id = self.send(requests.function_output(call_id, output))
        if respond:
            self.respond()
        return event_id

    def respond(self) -> str:
        """Let the assistant answer. A turn that the service ends itself is answered without it."""
        return self.send({"type": "response.create"})

    def interrupt(self) -> str:
        """End the answer that is being given; its `ResponseDone` follows. Nothing happens if there is none."""
        return self.send({"type": "response.cancel"})

    def truncate(self, item_id: str, heard_ms: int) -> str:
        """Keep of an answer only what was heard of its audio, and the words up to there."""
        return self.send(requests.truncate(item_id, heard_ms))

    def update(self, **options: Unpack[ConversationOptions]) -> str:
        """Change settings, from the next turn and answer on; `SessionChanged` follows."""
        return self.send(requests.session_update(options))

    def send(self, request: Mapping[str, Any]) -> str:
        """Send any event of the Realtime protocol."""
        event_id, text = self._write(dict(request))
        with translate_errors(self._server):
            self._socket.send(text)
        return event_id

    def close(self) -> None:
        """End the conversation, from any thread. The iteration ends."""
        self._closed = True
        self._socket.close()

    def __iter__(self) -> Iterator[ConversationEvent]:
        return self

    def __next__(self) -> ConversationEvent:
        event = None
        while event is None:
            try:
                with translate_errors(self._server):
                    message = self._socket.recv()
            except (StreamCut, Unavailable):
                if self._closed:
                    raise StopIteration from None
                raise
            event = self._read(message)
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class AsyncConversation(_ConversationState):
    """The same for asyncio: an async iterator, whose methods are awaited. One task may read while others send."""

    def __init__(self, server: Server, socket: AsyncSocket) -> None:
        super().__init__(server)
        self._socket = socket

    @classmethod
    async def connect(cls, server: Server) -> Self:
        return cls(server, await connect_async(server))

    async def begin(self, options: ConversationOptions) -> None:
        """Wait for the service's greeting, and apply the settings. Raises ConversationError if they are rejected."""
        await self._settle()
        if options:
            await self.update(**options)
            await self._settle()

    async def _settle(self) -> None:
        async for event in self:
            if self._settled(event):
                break
        else:
            raise StreamCut("the service ended the conversation before it began")

    async def send_audio(self, audio: bytes) -> str:
        """Append a piece of the user's audio, of at most 500 kB, in the conversation's format."""
        return await self.send(requests.append_audio(audio))

    async def commit_audio(self) -> str:
        """End the user's turn, with push_to_talk. `respond` answers it."""
        return await self.send({"type": "input_audio_buffer.commit"})

    async def clear_audio(self) -> str:
        """Drop the audio of the current turn."""
        return await self.send({"type": "input_audio_buffer.clear"})

    async def send_text(self, text: str, *, respond: bool = True) -> str:
        """Add a typed message of the user, and answer it. Returns the id of the message's event."""
        event_id = await self.send(requests.user_text(text))
        if respond:
            await self.respond()
        return event_id

    async def send_function_output(self, call_id: str, output: str, *, respond: bool = True) -> str:
        """Add what a function returned, and answer it. Returns the id of its event."""
        event_id = await self.send(requests.function_output(call_id, output))
        if respond:
            await self.respond()
        return event_id

    async def respond(self) -> str:
        """Let the assistant answer. A turn that the service ends itself is answered without it."""
        return await self.send({"type": "response.create"})

    async def interrupt(self) -> str:
        """End the answer that is being given; its `ResponseDone` follows. Nothing happens if there is none."""
        return await self.send({"type": "response.cancel"})

    async def truncate(self, item_id: str, heard_ms: int) -> str:
        """Keep of an answer only what was heard of its audio, and the words up to there."""
        return await self.send(requests.truncate(item_id, heard_ms))

    async def update(self, **options: Unpack[ConversationOptions]) -> str:
        """Change settings, from the next turn and answer on; `SessionChanged` follows."""
        return await self.send(requests.session_update(options))

    async def send(self, request: Mapping[str, Any]) -> str:
        """Send any event of the Realtime protocol."""
        event_id, text = self._write(dict(request))
        with translate_errors(self._server):
            await self._socket.send(text)
        return event_id

    async def close(self) -> None:
        """End the conversation. The iteration ends."""
        self._closed = True
        await self._socket.close()

    def __aiter__(self) -> AsyncIterator[ConversationEvent]:
        return self

    async def __anext__(self) -> ConversationEvent:
        event = None
        while event is None:
            try:
                with translate_errors(self._server):
                    message = await self._socket.recv()
            except (StreamCut, Unavailable):
                if self._closed:
                    raise StopAsyncIteration from None
                raise
            event = self._read(message)
        return event

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()
