"""One WebSocket connection: runs the tasks of a session until it ends, and closes in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

from anyio import CancelScope, move_on_after
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from ..observability.request_log import record_of
from ..responses.streaming import STALL_SECONDS
from ..responses.write_timeout import WriteTimeout
from .socket_control import socket_control

_log = logging.getLogger(__name__)

NORMAL, GOING_AWAY, POLICY_VIOLATION, INTERNAL_ERROR, SERVICE_RESTART = 1000, 1001, 1008, 1011, 1012  # RFC 6455, 7.4.1

_ABORTED = 1006  # no close frame came

Task = Callable[[], Awaitable[None]]


class _WriteTimeoutError(Exception):
    """The client has stopped reading."""


class WebSocketConnection:
    """Sends with a write timeout, receives, and records why the connection ended.

    is_busy: whether a client that disconnects now leaves something unfinished.
    """

    def __init__(self, websocket: WebSocket, is_busy: Callable[[], bool]) -> None:
        self.record = record_of(websocket.scope)
        self._websocket = websocket
        self._is_busy = is_busy
        self._control = socket_control(websocket.scope)
        self._write_timeout = WriteTimeout(STALL_SECONDS)
        self._close_code, self._close_reason = NORMAL, ""

    @property
    def shutting_down(self) -> bool:
        return self._control.shutting_down.is_set()

    async def run(self, *tasks: Task, subprotocol: str | None = None, clean_up: Task | None = None) -> None:
        """Accept the connection and run the tasks. When the first ends, the others are cancelled once and awaited.

        clean_up: called then, before the connection is closed.
        """
        await self._websocket.accept(subprotocol)
        running = [asyncio.create_task(self._guard(task)) for task in (*tasks, self._watch_write_timeout)]
        try:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.record.outcome, self._close_code = "drained", SERVICE_RESTART
            raise
        finally:
            for task in running:
                task.cancel()
            with CancelScope(shield=True):
                await asyncio.gather(*running, return_exceptions=True)
                if clean_up is not None:
                    await clean_up()
                with move_on_after(1), suppress(RuntimeError, WebSocketDisconnect):  # the client closed it first
                    await self._websocket.close(self._close_code, self._close_reason)

    def close_with(self, code: int, reason: str) -> None:
        """Set what the connection is closed with once it ends."""
        self._close_code, self._close_reason = code, reason

    def close_as_failed(self, code: int, reason: str) -> None:
        """The same for an error."""
        self.record.outcome = self.record.outcome or "failed"
        self.close_with(code, reason)

    async def wait_for_shutdown(self) -> None:
        """Wait until the service shuts down; the connection then ends for that reason."""
        await self._control.shutting_down.wait()
        self.close_with(SERVICE_RESTART, "the service is shutting down")
        self.record.outcome = "drained"

    async def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message; None after that time without one. Raises WebSocketDisconnect."""
        with move_on_after(seconds) as scope:
            message = await self._websocket.receive()
        if scope.cancelled_caught:
            return None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code") or 1005)
        return dict(message)

    def close_as_idle(self, seconds: float) -> None:
        self.close_with(GOING_AWAY, f"idle for {seconds:g} seconds")

    async def send(self, message: str | bytes) -> None:
        """Raises WebSocketDisconnect, also where another task's message has found out before that the client left."""
        await self._write_timeout.send(self._transmit(message))

    async def send_all(self, messages: Iterable[str | bytes]) -> None:
        for message in messages:
            await self.send(message)

    async def _transmit(self, message: str | bytes) -> None:
        if self._websocket.application_state is WebSocketState.DISCONNECTED:
            raise WebSocketDisconnect(_ABORTED)
        if isinstance(message, bytes):
            await self._websocket.send_bytes(message)
        else:
            await self._websocket.send_text(message)

    async def _guard(self, task: Task) -> None:
        """Run a task and record why the connection ends."""
        try:
            await task()
        except WebSocketDisconnect:
            self.record.outcome = self.record.outcome or ("left" if self._is_busy() else "ok")
        except _WriteTimeoutError:
            self.record.outcome = "stalled"
            self._control.abort()
        except Exception:
            _log.exception("unexpected error on connection %s", self.record.request_id)
            self.record.outcome, self._close_code = "failed", INTERNAL_ERROR

    async def _watch_write_timeout(self) -> None:
        await self._write_timeout.wait()
        raise _WriteTimeoutError
