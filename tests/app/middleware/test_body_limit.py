from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app.middleware import body_limit
from app.middleware.body_limit import BodyLimit, BodyLimitMiddleware

pytestmark = pytest.mark.anyio


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def echo_whatever_happens(scope: Any, receive: Any, send: Any) -> None:
    """As frameworks do: an error while reading becomes a response of their own."""
    try:
        await echo(scope, receive, send)
    except Exception:
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body", "body": b"bad body"})


def limit(path: str) -> BodyLimit:
    return BodyLimit(100 if path == "/large" else 10)


async def test_a_declared_length_over_the_limit_is_refused_unread(call: Any) -> None:
    headers = ((b"content-length", b"11"),)
    client = await call(BodyLimitMiddleware(echo, limit), "/", method="POST", headers=headers, body=(b"x" * 11,)).done()
    assert client.status == 413
    assert client.received <= 1  # what was on its way is dropped, behind the answer
    assert b"larger than 10 bytes" in client.content


@pytest.mark.parametrize("app", [echo, echo_whatever_happens])
async def test_a_body_without_a_length_is_counted_while_it_is_read(call: Any, app: Any) -> None:
    client = await call(BodyLimitMiddleware(app, limit), "/", method="POST", body=(b"x" * 6, b"x" * 6, b"x" * 6)).done()
    assert client.status == 413
    assert client.received == 2


async def test_a_body_up_to_the_limit_of_its_path_passes(call: Any) -> None:
    for path, size in (("/", 10), ("/large", 100)):
        client = await call(BodyLimitMiddleware(echo, limit), path, method="POST", body=(b"x" * size,)).done()
        assert client.content == b"x" * size


async def test_large_bodies_share_memory_until_their_requests_end(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "LARGE_BODIES", 100)
    done = asyncio.Event()

    async def hold(scope: Any, receive: Any, send: Any) -> None:
        await echo(scope, receive, send)
        if scope["path"] == "/held":
            await done.wait()

    app = BodyLimitMiddleware(hold, lambda path: BodyLimit(90, 10))
    held = call(app, "/held", method="POST", body=(b"x" * 30, b"x" * 30))
    await held.until(lambda: held.ended)
    refused = await call(app, "/", method="POST", body=(b"x" * 9, b"x" * 32)).done()
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    for size in (10, 40):  # a small body needs none of it; what was refused has given its share back
        assert (await call(app, "/", method="POST", body=(b"x" * size,)).done()).status == 200
    done.set()
    await held.done()
    assert (await call(app, "/", method="POST", body=(b"x" * 90,)).done()).status == 200


async def test_one_large_body_may_be_as_large_as_its_path_allows(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "LARGE_BODIES", 50)
    app = BodyLimitMiddleware(echo, lambda path: BodyLimit(90, 10))
    assert (await call(app, "/", method="POST", body=(b"x" * 90,)).done()).status == 200
