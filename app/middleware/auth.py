"""API key authentication (API.md section 6), by path and key alone, before any of the body is read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Receive, Scope, Send

from ..access.key_ring import KeyRing
from ..errors import Unauthorized
from ..observability.request_log import RequestRecord
from .early_response import refuse

OPEN_PATHS = frozenset({"/", "/health", "/livez", "/readyz", "/ping"})  # all other paths need a key
OPEN_FILES = re.compile(r"/static(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+")  # no ".." and no escapes

_KEY_HEADERS = (b"x-api-key", b"xi-api-key")  # ElevenLabs' clients send the second
_QUERY_NAME = b"api_key"
_KEY_PROTOCOL = "openai-insecure-api-key."
_POLICY_VIOLATION = 1008  # RFC 6455, 7.4.1


class ApiKeyMiddleware:
    """Passes requests and WebSockets with one of the keys, and requests to an open path; refuses others with 401.

    The key is sent as `X-API-Key` (or `xi-api-key`), as `Authorization: Bearer`, or as `api_key` in the query string.
    It is removed from the query string, so that no later layer can log it. A WebSocket may also send it as the
    subprotocol `openai-insecure-api-key.KEY`, as OpenAI's clients in browsers do.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif self._has_key(scope) or _is_open(scope):
            await self._app({**scope, "query_string": _without_key(scope["query_string"])}, receive, send)
        elif scope["type"] == "http":
            await refuse(Unauthorized("Invalid or missing API Key"), scope, receive, send)
        else:
            await _deny(scope, send)

    def _has_key(self, scope: Scope) -> bool:
        """Whether a valid key was sent. The record of the request then names it."""
        key = self._keys.find(_sent_keys(scope))
        record = scope.get("state", {}).get("record")
        if isinstance(record, RequestRecord):
            record.key = key
        return key is not None


def _is_open(scope: Scope) -> bool:
    """No path is open under a root path, where routes see a different path."""
    if scope["type"] != "http" or scope.get("root_path"):
        return False
    return scope["path"] in OPEN_PATHS or OPEN_FILES.fullmatch(scope["path"]) is not None


def _sent_keys(scope: Scope) -> Iterator[bytes]:
    for name, value in scope["headers"]:
        if name in _KEY_HEADERS:
            yield value.strip()
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            yield value[7:].strip()
    for name, value in map(_pair, scope["query_string"].split(b"&")):
        if name == _QUERY_NAME:
            yield value
    for protocol in scope.get("subprotocols", ()):
        if protocol.startswith(_KEY_PROTOCOL):
            yield protocol.removeprefix(_KEY_PROTOCOL).encode()


def _without_key(query: bytes) -> bytes:
    return b"&".join(part for part in query.split(b"&") if _pair(part)[0] != _QUERY_NAME)


def _pair(part: bytes) -> tuple[bytes, bytes]:
    """Split one `name=value` of a query string, as bytes: any bytes are valid in a key."""
    name, _, value = part.replace(b"+", b" ").partition(b"=")
    return unquote_to_bytes(name), unquote_to_bytes(value)


async def _deny(scope: Scope, send: Send) -> None:
    error = Unauthorized("Invalid or missing API Key")
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": error.detail})
        return
    await send(
        {
            "type": "websocket.http.response.start",
            "status": error.status,
            "headers": [(b"content-type", b"application/json")],
        }
    )
    await send({"type": "websocket.http.response.body", "body": json.dumps(error.body_at(scope["path"])).encode()})
