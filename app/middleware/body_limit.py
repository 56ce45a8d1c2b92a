"""Body size limits: check Content-Length before the body is read, and count the bytes while it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import Busy, ServiceError, TooLarge
from .early_response import refuse

LARGE_BODIES = 128 << 20  # bytes of all large bodies that a worker holds in memory


@dataclass(frozen=True)
class BodyLimit:
    """max_bytes: of one body.

    small: a larger body counts as long as its request lasts, and all of them together may have LARGE_BODIES, or one
    of them max_bytes. None: bodies are not kept in memory, or small.
    """

    max_bytes: int
    small: int | None = None


class _BodyRefusedError(Exception):
    """Raised into the reader of the body."""


class BodyLimitMiddleware:
    """Responds with 413 to a body over the limit of its path, and with 429 to one that finds no memory.

    limit: returns the limit of a path.
    """

    def __init__(self, app: ASGIApp, limit: Callable[[str], BodyLimit]) -> None:
        self._app = app
        self._limit = limit
        self._large = 0  # bytes of the large bodies of all requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit(scope["path"])
        error = TooLarge(f"the body is larger than {limit.max_bytes:,} bytes, the limit of this route")
        declared = dict(scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and int(declared) > limit.max_bytes:
            await refuse(error, scope, receive, send)
            return
        received, held, started = 0, 0, False
        refusal: ServiceError | None = None

        async def receive_counted() -> Message:
            nonlocal received, held, refusal
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit.max_bytes:
                refusal = error
            elif limit.small is not None and received > limit.small:
                self._large += received - held
                held = received
                if self._large > max(LARGE_BODIES, limit.max_bytes):
                    refusal = Busy("the recordings of other requests take all memory for them: try again soon")
            if refusal is not None:
                raise _BodyRefusedError
            return message

        async def send_unless_exceeded(message: Message) -> None:
            nonlocal started
            if refusal is not None and not started:
                return  # drop the route's response to the aborted read
            started = True
            await send(message)

        try:
            await self._app(scope, receive_counted, send_unless_exceeded)
        except _BodyRefusedError:
            if started:
                raise
        finally:
            self._large -= held
        if refusal is not None and not started:
            await refuse(refusal, scope, receive, send)
