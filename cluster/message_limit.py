"""Size limit of WebSocket messages behind Serve's proxy, whose own limit is 16 MiB and cannot be set."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_TOO_BIG = 1009  # RFC 6455, 7.4.1


class MessageLimit:
    """Closes a connection that sends more than `limit` bytes in a message, as the server of one machine does."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return

        async def receive_limited() -> Message:
            message = await receive()
            text, data = message.get("text"), message.get("bytes")
            size = len(data or b"") + len((text or "").encode())
            if message["type"] != "websocket.receive" or size <= self._limit:
                return message
            reason = f"a message has {size} bytes, and the limit is {self._limit}"
            await send({"type": "websocket.close", "code": _TOO_BIG, "reason": reason})
            return {"type": "websocket.disconnect", "code": _TOO_BIG}

        await self._app(scope, receive_limited, send)
