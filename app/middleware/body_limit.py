"""Body size limit: checks Content-Length before the body is read, and counts the bytes while it is read."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import TooLarge
from .early_response import refuse


class _BodyTooLargeError(Exception):
    """Raised into the reader of the body."""


class BodyLimitMiddleware:
    """Responds with 413 to a body over the limit of its path.

    limit: returns the maximum number of bytes for a path.
    """

    def __init__(self, app: ASGIApp, limit: Callable[[str], int]) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit(scope["path"])
        error = TooLarge(f"the body is larger than {limit:,} bytes, the limit of this route")
        declared = dict(scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and int(declared) > limit:
            await refuse(error, scope, receive, send)
            return
        received, started, exceeded = 0, False, False

        async def receive_counted() -> Message:
            nonlocal received, exceeded
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                exceeded = True
                raise _BodyTooLargeError
            return message

        async def send_unless_exceeded(message: Message) -> None:
            nonlocal started
            if exceeded and not started:
                return  # drop the route's response to the aborted read
            started = True
            await send(message)

        try:
            await self._app(scope, receive_counted, send_unless_exceeded)
        except _BodyTooLargeError:
            if started:
                raise
        if exceeded and not started:
            await refuse(error, scope, receive, send)
