"""Who may call (API.md section 6): decided on the path and the key alone, before anything is read."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Sequence
from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import Unauthorized
from .early_response import refuse

OPEN_PATHS = frozenset({"/", "/health", "/livez", "/readyz"})  # everything else is closed
OPEN_FILES = re.compile(r"/static(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+")  # no dots to climb on, nothing left to decode

_QUERY_NAME = b"api_key"
_POLICY_VIOLATION = 1008  # RFC 6455, 7.4.1


class ApiKeyMiddleware:
    """Lets requests and WebSockets through that carry one of the keys, and requests to an open path.

    The key may stand in `X-API-Key`, in `Authorization: Bearer`, or in the query as `api_key`; from the query
    it is taken out, so that nothing behind the guard can write it anywhere.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif _is_open(scope) or self._knows(scope):
            await self._app({**scope, "query_string": _without_key(scope["query_string"])}, receive, send)
        elif scope["type"] == "http":
            await refuse(Unauthorized("Invalid or missing API Key"), scope, receive, send)
        else:
            await _deny(scope, send)

    def _knows(self, scope: Scope) -> bool:
        """Compares every key offered with every key there is, whatever it finds on the way."""
        found = False
        for offered in _offered(scope):
            digest = _digest(offered)
            for known in self._digests:
                found |= hmac.compare_digest(digest, known)
        return found


def _digest(key: bytes) -> bytes:
    """Of one length for every key, so that comparing tells nothing about a key's length."""
    return hashlib.sha256(key).digest()


def _is_open(scope: Scope) -> bool:
    """Under a root path routes see another path than this one: then nothing is open."""
    if scope["type"] != "http" or scope.get("root_path"):
        return False
    return scope["path"] in OPEN_PATHS or OPEN_FILES.fullmatch(scope["path"]) is not None


def _offered(scope: Scope) -> Iterator[bytes]:
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            yield value.strip()
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            yield value[7:].strip()
    for name, value in map(_pair, scope["query_string"].split(b"&")):
        if name == _QUERY_NAME:
            yield value


def _without_key(query: bytes) -> bytes:
    return b"&".join(part for part in query.split(b"&") if _pair(part)[0] != _QUERY_NAME)


def _pair(part: bytes) -> tuple[bytes, bytes]:
    """One `name=value` of a query, as bytes: a key is whatever bytes it is, and nothing here can fail on them."""
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
    await send({"type": "websocket.http.response.body", "body": json.dumps(error.body).encode()})
