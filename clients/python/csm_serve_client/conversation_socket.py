"""Connects a conversation's WebSocket, and translates the errors of `websockets` to the client's.

`websockets` is imported when a conversation begins, so that speech over HTTP needs httpx alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx

from .errors import CsmError, Misconfigured, StreamCut, Unavailable, Unreachable
from .responses import error_of
from .transport import CONNECT_SECONDS, Server

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection as AsyncSocket
    from websockets.exceptions import ConnectionClosed, InvalidStatus
    from websockets.sync.client import ClientConnection as Socket

PATH = "/v1/realtime"
_RESTART = 1012  # RFC 6455's registry: the service is stopping
_NO_CODE, _ABORTED = 1005, 1006


def connect(server: Server) -> Socket:
    """Raises CsmError. The connection's errors are raised within `translate_errors`."""
    try:
        from websockets.exceptions import InvalidStatus
        from websockets.sync.client import ClientConnection
        from websockets.sync.client import connect as open_socket
    except ImportError:
        raise _missing() from None

    class Connection(ClientConnection):
        """Raises the service's refusal as CsmError, before a redirect could take the key to another server."""

        def handshake(self, *arguments: Any, **options: Any) -> None:
            try:
                super().handshake(*arguments, **options)
            except InvalidStatus as error:
                raise _refusal(server, error) from None

    with translate_errors(server, connecting=True):
        opened: Socket = open_socket(_url(server), create_connection=Connection, **_options(server))
        return opened.__enter__()  # newer versions warn about a connection that was not opened by a `with`


async def connect_async(server: Server) -> AsyncSocket:
    """The same for asyncio."""
    try:
        from websockets.asyncio.client import ClientConnection
        from websockets.asyncio.client import connect as open_socket
        from websockets.exceptions import InvalidStatus
    except ImportError:
        raise _missing() from None

    class Connection(ClientConnection):
        async def handshake(self, *arguments: Any, **options: Any) -> None:
            try:
                await super().handshake(*arguments, **options)
            except InvalidStatus as error:
                raise _refusal(server, error) from None

    with translate_errors(server, connecting=True):
        return await open_socket(_url(server), create_connection=Connection, **_options(server))


@contextmanager
def translate_errors(server: Server, *, connecting: bool = False) -> Iterator[None]:
    """Raise errors of `websockets` and of the network as CsmError. A connection that this side closed is no error."""
    from websockets.exceptions import ConnectionClosed, WebSocketException

    try:
        yield
    except ConnectionClosed as error:
        raise _closed(error) from error
    except (WebSocketException, OSError) as error:  # TimeoutError is an OSError
        reason = str(error) or type(error).__name__
        if connecting:
            raise Unreachable(
                f"cannot connect to {server.redacted_url} ({reason}): check that csm-serve is running, and CSM_URL"
            ) from error
        raise StreamCut(f"the conversation was aborted ({reason})") from error


def _closed(error: ConnectionClosed) -> CsmError:
    code = _ABORTED if error.rcvd is None else error.rcvd.code
    reason = "" if error.rcvd is None else error.rcvd.reason
    if code == _RESTART:
        return Unavailable(reason or "the service is shutting down: connect again soon", status=503, code="draining")
    if code in (_NO_CODE, _ABORTED) and not reason:
        return StreamCut("the conversation was aborted: the connection is gone")
    return StreamCut(f"the service ended the conversation ({code}): {reason or 'it gave no reason'}")


def _refusal(server: Server, error: InvalidStatus) -> CsmError:
    response = error.response
    return error_of(
        httpx.Response(
            response.status_code,
            headers=list(response.headers.raw_items()),
            content=bytes(response.body or b""),
            request=httpx.Request("GET", f"{server.base_url.rstrip('/')}{PATH}"),
        )
    )


def _url(server: Server) -> str:
    return f"{server.base_url.rstrip('/').replace('http', 'ws', 1)}{PATH}"


def _options(server: Server) -> dict[str, Any]:
    return {
        "additional_headers": {} if server.api_key is None else {"X-API-Key": server.api_key},
        "user_agent_header": "csm-serve-client",
        "proxy": None if server.is_loopback else True,
        "open_timeout": CONNECT_SECONDS,
        "max_queue": None,  # a slow reader must not hold up the service, which would end the conversation
    }


def _missing() -> CsmError:
    return Misconfigured("conversations need the package websockets: python -m pip install websockets")
