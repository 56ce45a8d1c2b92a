"""A refusal sent from ASGI itself, before anybody has read the body."""

from __future__ import annotations

import json

import anyio
from starlette.types import Receive, Scope, Send

from ..errors import ServiceError

LINGER_SECONDS = 2.0


async def refuse(error: ServiceError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an error and close the connection.

    A client that is in the middle of its body would meet a reset instead of the answer if the connection were
    closed at once. So the whole answer is sent first, then what still comes is read and dropped for a moment.
    """
    body = json.dumps(error.body_at(scope["path"])).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *((name.lower().encode(), value.encode()) for name, value in error.headers.items()),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if has_body(scope):
        with anyio.move_on_after(LINGER_SECONDS):
            await _drop_body(receive)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def has_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


async def _drop_body(receive: Receive) -> None:
    while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
        pass
