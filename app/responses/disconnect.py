"""Client disconnects: wait for one, and cancel the work of a request whose client has disconnected."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from ..errors import ServiceError
from ..observability.request_log import RequestRecord

_T = TypeVar("_T")


class ClientDisconnected(ServiceError):
    """There is no client to respond to."""

    status = 499  # nginx's "client closed request"
    code = "client_left"


async def wait_for_disconnect(receive: Receive) -> None:
    """Return when the client has disconnected; messages before that are dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def cancel_on_disconnect(receive: Receive, record: RequestRecord, work: Coroutine[Any, Any, _T]) -> _T:
    """Run work, and cancel it when the client disconnects. Raises ClientDisconnected then."""
    working = asyncio.create_task(work)
    disconnect = asyncio.create_task(wait_for_disconnect(receive))
    try:
        await asyncio.wait({working, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            record.outcome = "left"
            raise ClientDisconnected("the client disconnected")
    finally:
        working.cancel()
        disconnect.cancel()
        await asyncio.gather(working, disconnect, return_exceptions=True)
    return working.result()
