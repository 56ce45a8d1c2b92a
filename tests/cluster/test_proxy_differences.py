"""What a replica puts around the application, since Serve's proxy is not the service's own server."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from cluster.message_limit import MessageLimit
from cluster.request_id import WithoutRequestId

pytestmark = pytest.mark.anyio


async def messages_of(application: Any, scope: Scope, *received: Message) -> list[Message]:
    sent: list[Message] = []
    waiting = list(received)

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await application(scope, receive, send)
    return sent


@pytest.mark.parametrize("kind", ["http.response.start", "websocket.http.response.start"])
async def test_the_id_of_a_response_is_left_to_the_proxy(kind: str) -> None:
    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": kind, "headers": [(b"x-request-id", b"1"), (b"x-worker-id", b"2")]})
        await send({"type": "http.response.body", "body": b"hi"})

    first, second = await messages_of(WithoutRequestId(respond), {"type": "http"})
    assert first["headers"] == [(b"x-worker-id", b"2")]
    assert second["body"] == b"hi"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message.get("text"), "bytes": message.get("bytes")})


@pytest.mark.parametrize("message", [{"text": "ä" * 6}, {"bytes": b"x" * 11}])
async def test_a_message_above_the_limit_closes_the_connection(message: dict[str, Any]) -> None:
    limited = MessageLimit(echo, limit=10)
    received = ({"type": "websocket.receive", "text": "x" * 10}, {"type": "websocket.receive", **message})
    echoed, closed = await messages_of(limited, {"type": "websocket"}, *received)
    assert echoed["text"] == "x" * 10
    assert (closed["type"], closed["code"]) == ("websocket.close", 1009)
    assert "the limit is 10" in closed["reason"]


async def test_requests_have_no_limit_here() -> None:
    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        await send(await receive())

    body = {"type": "http.request", "body": b"x" * 100}
    assert await messages_of(MessageLimit(respond, limit=10), {"type": "http"}, body) == [body]
