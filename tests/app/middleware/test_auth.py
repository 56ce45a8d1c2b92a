from __future__ import annotations

from typing import Any

import pytest

from app.access.key_ring import KeyRing
from app.middleware.auth import ApiKeyMiddleware

pytestmark = pytest.mark.anyio

KEYS = ("first-key", "zweiter-schlüssel")


class Inside:
    """The protected application: records the requests that reach it."""

    def __init__(self) -> None:
        self.queries: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.queries.append(scope["query_string"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        (((b"x-api-key", b"first-key"),), b""),
        (((b"xi-api-key", b"first-key"),), b""),
        (((b"x-api-key", "zweiter-schlüssel".encode()),), b""),
        (((b"authorization", b"Bearer first-key"),), b""),
        (((b"authorization", b"bearer  first-key"),), b""),
        ((), b"api_key=first-key"),
        ((), b"api%5Fkey=first-key"),
        ((), b"text=a&api_key=zweiter-schl%C3%BCssel"),
        (((b"x-api-key", b"wrong"),), b"api_key=first-key"),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_any_key_in_any_of_three_places_is_accepted(call: Any, headers: Any, query: bytes, kind: str) -> None:
    inside = Inside()
    await call(ApiKeyMiddleware(inside, KeyRing(KEYS)), "/voices", headers=headers, query=query, kind=kind).done()
    assert len(inside.queries) == 1
    assert b"key" not in inside.queries[0]


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ((), b""),
        (((b"x-api-key", b""),), b""),
        (((b"x-api-key", b"first-ke"),), b""),
        (((b"x-api-key", b"first-key,zweiter"),), b""),
        (((b"x-api-key", b"\xff\xfe"),), b""),
        (((b"authorization", b"Basic first-key"),), b""),
        (((b"authorization", b"first-key"),), b""),
        ((), b"api_key="),
        ((), b"api_key=%ff%fe&%ff=\xff"),
        ((), b"API_KEY=first-key"),
        ((), b"text=api_key%3Dfirst-key"),
    ],
)
async def test_requests_without_a_key_are_refused_before_the_body_is_read(
    call: Any, headers: Any, query: bytes
) -> None:
    inside = Inside()
    client = await call(
        ApiKeyMiddleware(inside, KeyRing(KEYS)), "/voices", headers=headers, query=query, method="POST"
    ).done()
    assert inside.queries == []
    assert client.status == 401
    assert client.content == b'{"detail": "Invalid or missing API Key", "code": "unauthorized"}'
    assert client.headers["connection"] == "close"
    assert client.received == 0


@pytest.mark.parametrize(
    "path", ["/", "/health", "/livez", "/readyz", "/ping", "/static/app.js", "/static/a/b.min.css"]
)
async def test_open_paths_need_no_key(call: Any, path: str) -> None:
    inside = Inside()
    await call(ApiKeyMiddleware(inside, KeyRing(KEYS)), path, headers=()).done()
    assert len(inside.queries) == 1


@pytest.mark.parametrize(
    "path",
    [
        "",
        "//",
        "/.",
        "/health/",
        "/Health",
        "//health",
        "/health//",
        "/health;x",
        "/health%2f..%2fvoices",
        "/health\0",
        "/health/../voices",
        "/./health",
        "/static",
        "/Static/app.js",
        "/staticx",
        "/static/../voices",
        "/static/x/../../voices",
        "/static/..",
        "/static/%2e%2e/voices",
        "/unknown",
        "/metrics",
        "/system-status",
        "/openapi.json",
        "/docs",
        "http://service/health",
        "*",
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_every_other_path_needs_a_key(call: Any, path: str, kind: str) -> None:
    """New paths too: only listed ones are open."""
    inside = Inside()
    await call(ApiKeyMiddleware(inside, KeyRing(KEYS)), path, headers=(), kind=kind).done()
    assert inside.queries == []


async def test_every_websocket_needs_a_key(call: Any) -> None:
    inside = Inside()
    for path in ("/", "/health", "/static/app.js"):
        await call(ApiKeyMiddleware(inside, KeyRing(KEYS)), path, headers=(), kind="websocket").done()
    assert inside.queries == []


async def test_only_the_decoded_path_counts(call: Any) -> None:
    """Neither the raw path nor a root path opens anything."""
    for path, changed in (
        ("/voices", {"raw_path": b"/health"}),
        ("/voices", {"root_path": "/health"}),
        ("/static/x/voices", {"root_path": "/static/x"}),
    ):
        inside = Inside()

        async def mounted(scope: Any, receive: Any, send: Any, changed: Any = changed, inside: Any = inside) -> None:
            await ApiKeyMiddleware(inside, KeyRing(KEYS))({**scope, **changed}, receive, send)

        assert (await call(mounted, path, headers=()).done()).status == 401
        assert inside.queries == []


async def test_the_response_is_sent_before_the_rest_of_the_body_is_dropped(call: Any) -> None:
    body = (b"x" * 1000,) * 5
    headers = ((b"content-length", b"5000"),)
    client = await call(
        ApiKeyMiddleware(Inside(), KeyRing(KEYS)), "/voices", headers=headers, body=body, method="POST"
    ).done()
    assert client.status == 401
    assert client.received == 5
    assert [message.get("more_body") for message in client.sent] == [None, True, False]


async def test_a_websocket_is_denied_with_a_status_if_the_server_supports_it(call: Any) -> None:
    plain = await call(ApiKeyMiddleware(Inside(), KeyRing(KEYS)), "/ws", headers=(), kind="websocket").done()
    assert plain.sent == [{"type": "websocket.close", "code": 1008, "reason": "Invalid or missing API Key"}]
    extensions: dict[str, Any] = {"websocket.http.response": {}}
    denied = await call(
        ApiKeyMiddleware(Inside(), KeyRing(KEYS)), "/ws", headers=(), kind="websocket", extensions=extensions
    ).done()
    assert denied.status == 401
    assert b"unauthorized" in denied.content
