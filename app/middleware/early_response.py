"""Error responses sent by middleware before the body is read."""

from __future__ import annotations

import json

import anyio
from starlette.types import Receive, Scope, Send

from ..errors import ServiceError

LINGER_SECONDS = 2.0


async def refuse(error: ServiceError, scope: Scope, receive: Receive, send: Send) -> None:
    """Respond with an error and close the connection.

    If the connection were closed at once, a client that is still sending its body would get a reset instead of the
    response. So the whole response is sent first, then the body is read and dropped for LINGER_SECONDS at most.
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
