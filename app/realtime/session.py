"""One connection of the Realtime protocol: receives events, sends events, and ends in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from anyio import CancelScope, move_on_after
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..errors import BadRequest, ServiceError, Unavailable
from ..observability.request_log import RequestRecord, record_of
from ..responses.streaming import STALL_SECONDS
from ..responses.write_timeout import WriteTimeout
from ..websocket.socket_control import socket_control
from .client_events import event_id_of, parse_event
from .server_events import ServerEvent, error_event
from .service import RealtimeService
from .turn_taking import TurnTaking

_log = logging.getLogger(__name__)

SUBPROTOCOL = "realtime"
_NORMAL, _GOING_AWAY, _INTERNAL_ERROR, _SERVICE_RESTART = 1000, 1001, 1011, 1012  # RFC 6455, 7.4.1


class _WriteTimeoutError(Exception):
    """The client has stopped reading."""


class RealtimeSession:
    """Runs until the client disconnects or is idle for too long, or the service shuts down.

    One task receives events; one waits for the shutdown, and one for the write timeout; the conversation has its own.
    When the first of them ends, the others are cancelled once and awaited.
    """

    def __init__(self, websocket: WebSocket, service: RealtimeService) -> None:
        self._websocket = websocket
        self._service = service
        self._control = socket_control(websocket.scope)
        self._record = record_of(websocket.scope)
        self._write_timeout = WriteTimeout(STALL_SECONDS)
        self._responses = 0
        self._turns = TurnTaking(service, self._send, self._new_record)
        self._close_code, self._close_reason = _NORMAL, ""

    async def run(self) -> None:
        """Accept the connection and serve it until it ends."""
        offered = self._websocket.scope.get("subprotocols", ())
        await self._websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        tasks = [
            asyncio.create_task(self._guard(task))
            for task in (self._receive_events, self._drain, self._watch_write_timeout)
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
                await self._turns.close()
                with move_on_after(1), suppress(RuntimeError, WebSocketDisconnect):  # the client closed it first
                    await self._websocket.close(self._close_code, self._close_reason)

    async def _guard(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run a task and record why the connection ends."""
        try:
            await task()
        except WebSocketDisconnect:
            self._record.outcome = self._record.outcome or ("left" if self._turns.responding else "ok")
        except _WriteTimeoutError:
            self._record.outcome = "stalled"
            self._control.abort()
        except Exception:
            _log.exception("unexpected error on connection %s", self._record.request_id)
            self._record.outcome, self._close_code = "failed", _INTERNAL_ERROR

    async def _receive_events(self) -> None:
        try:
            await self._turns.start()
        except ServiceError as error:
            await self._send(error_event(error))
            self._close_code, self._close_reason = _INTERNAL_ERROR, error.code
            return
        idle_seconds = self._service.state.settings.websocket_idle_seconds
        while True:
            with move_on_after(idle_seconds) as scope:
                message = await self._websocket.receive()
            if scope.cancelled_caught:
                if self._turns.responding:
                    continue
                self._close_code, self._close_reason = _GOING_AWAY, f"idle for {idle_seconds:g} seconds"
                return
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code") or 1005)
            await self._handle(message.get("text"))

    async def _handle(self, message: str | None) -> None:
        """Carry out an event. What is wrong with it is told, and the session goes on."""
        try:
            if message is None:
                raise BadRequest("binary messages are not supported: send JSON as text", code="invalid_json")
            if self._control.shutting_down.is_set():
                raise Unavailable("the service is shutting down: connect again soon", code="draining")
            await self._turns.handle(parse_event(message))
        except ServiceError as error:
            await self._send(error_event(error, event_id_of(message or "")))

    async def _drain(self) -> None:
        """On shutdown: let the current response finish, then close."""
        await self._control.shutting_down.wait()
        self._close_code, self._close_reason = _SERVICE_RESTART, "the service is shutting down"
        self._record.outcome = "drained"
        await self._turns.drain()

    def _new_record(self) -> RequestRecord:
        self._responses += 1
        return self._record.part(self._responses)

    async def _send(self, event: ServerEvent) -> None:
        await self._write_timeout.send(self._websocket.send_text(event.to_json()))

    async def _watch_write_timeout(self) -> None:
        await self._write_timeout.wait()
        raise _WriteTimeoutError
