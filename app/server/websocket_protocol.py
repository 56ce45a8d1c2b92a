"""uvicorn's WebSocket protocol, with the manners that long-lived speech needs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import Scope
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

_STATE = "live_link"


@dataclass(eq=False)
class SocketControl:
    """What a connection has to know of the server below it.

    shutting_down: set when the service shuts down; the connection then ends what it is saying, and closes.
    abort: cuts the connection without a word, for a reader that takes not even a farewell.
    """

    shutting_down: asyncio.Event = field(default_factory=asyncio.Event)
    abort: Callable[[], None] = lambda: None


def socket_control(scope: Scope) -> SocketControl:
    """The link of a connection; one that never speaks up under a server that has none."""
    link = scope.get("state", {}).get(_STATE)
    return link if isinstance(link, SocketControl) else SocketControl()


class SpeechWebSocketProtocol(WebSocketsSansIOProtocol):
    """Three things are done in another way than uvicorn does them.

    A shutdown lets the text that is being spoken come to its end: uvicorn closes every WebSocket at once.
    A peer that answers no ping is cut: uvicorn closes politely, and waits for ever for what it does not read.
    Nothing is logged about the handshake: uvicorn would write the query, and the key may stand in it.
    """

    _link: SocketControl | None = None

    def handle_connect(self, event: Request) -> None:
        self.logger = logging.getLogger("uvicorn.error.quiet")
        self.logger.setLevel(logging.WARNING)
        super().handle_connect(event)
        if not self.close_sent:  # the handshake itself was in order
            self._link = SocketControl(abort=self.transport.abort)
            self.scope["state"][_STATE] = self._link

    def leave(self) -> None:
        """The service is about to shut down: close in an orderly way, behind what is being spoken."""
        if self._link is not None:
            self._link.shutting_down.set()

    def shutdown(self) -> None:
        if self._link is None or self.close_sent or not self.handshake_complete or self.transport.is_closing():
            super().shutdown()
        else:
            self.leave()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()
