"""X-Request-ID behind Serve's proxy, which sends it itself."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_STARTS = ("http.response.start", "websocket.http.response.start")


class WithoutRequestId:
    """Removes the header from responses. The id is the same: the proxy gives one to each request that has none, and
    the application takes that."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without_id(message: Message) -> None:
            if message["type"] in _STARTS:
                headers = [each for each in message.get("headers", ()) if each[0].lower() != b"x-request-id"]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, send_without_id)
