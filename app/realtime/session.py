"""One connection of the Realtime protocol: receives events, sends events, and ends in order."""

from __future__ import annotations

from starlette.websockets import WebSocket

from ..errors import BadRequest, ServiceError, Unavailable
from ..websocket.connection import INTERNAL_ERROR, WebSocketConnection
from .client_events import event_id_of, parse_event
from .server_events import ServerEvent, error_event
from .service import RealtimeService
from .turn_taking import TurnTaking

SUBPROTOCOL = "realtime"


class RealtimeSession:
    """Runs until the client disconnects or is idle for too long, or the service shuts down.

    One task receives events; one waits for the shutdown, and one for the write timeout; the conversation has its own.
    When the first of them ends, the others are cancelled once and awaited.
    """

    def __init__(self, websocket: WebSocket, service: RealtimeService) -> None:
        self._websocket = websocket
        self._service = service
        self._connection = WebSocketConnection(websocket, is_busy=lambda: self._turns.responding)
        self._turns = TurnTaking(service, self._send, self._connection.record.next_part)

    async def run(self) -> None:
        """Accept the connection and serve it until it ends."""
        offered = self._websocket.scope.get("subprotocols", ())
        await self._connection.run(
            self._receive_events,
            self._drain,
            subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None,
            clean_up=self._turns.close,
        )

    async def _receive_events(self) -> None:
        try:
            await self._turns.start()
        except ServiceError as error:
            await self._send(error_event(error))
            self._connection.close_with(INTERNAL_ERROR, error.code)
            return
        idle_seconds = self._service.state.settings.websocket_idle_seconds
        while True:
            message = await self._connection.receive(idle_seconds)
            if message is None:
                if self._turns.responding:
                    continue
                self._connection.close_as_idle(idle_seconds)
                return
            await self._handle(message.get("text"))

    async def _handle(self, message: str | None) -> None:
        """Carry out an event. What is wrong with it is told, and the session goes on."""
        try:
            if message is None:
                raise BadRequest("binary messages are not supported: send JSON as text", code="invalid_json")
            if self._connection.shutting_down:
                raise Unavailable("the service is shutting down: connect again soon", code="draining")
            await self._turns.handle(parse_event(message))
        except ServiceError as error:
            await self._send(error_event(error, event_id_of(message or "")))

    async def _drain(self) -> None:
        """On shutdown: let the current response finish, then close."""
        await self._connection.wait_for_shutdown()
        await self._turns.drain()

    async def _send(self, event: ServerEvent) -> None:
        await self._connection.send(event.to_json())
