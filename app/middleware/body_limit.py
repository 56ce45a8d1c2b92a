"""How large a body may be: refused by its declared length before it is read, else counted while it comes."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import TooLarge
from .early_response import refuse


class _BodyTooLargeError(Exception):
    """Ends whoever is reading the body."""


class BodyLimitMiddleware:
    """Answers 413 to a body over the limit of its path.

    limit: gives the most bytes for a path.
    """

    def __init__(self, app: ASGIApp, limit: Callable[[str], int]) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit(scope["path"])
        error = TooLarge(f"the body is larger than {limit:,} bytes, the most that this route takes")
        declared = dict(scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and int(declared) > limit:
            await refuse(error, scope, receive, send)
            return
        got, started, over = 0, False, False

        async def counted() -> Message:
            nonlocal got, over
            message = await receive()
            got += len(message.get("body", b""))
            if got > limit:
                over = True
                raise _BodyTooLargeError
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            if over and not started:
                return  # what a route makes of the broken read is not the answer
            started = True
            await send(message)

        try:
            await self._app(scope, counted, watched)
        except _BodyTooLargeError:
            if started:
                raise
        if over and not started:
            await refuse(error, scope, receive, send)
