"""uvicorn's WebSocket protocol, with the manners that long-lived speech needs."""

from __future__ import annotations

import logging

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from ..websocket.socket_control import SocketControl, attach


class SpeechWebSocketProtocol(WebSocketsSansIOProtocol):
    """Three things are done in another way than uvicorn does them.

    A shutdown lets the text that is being spoken come to its end: uvicorn closes every WebSocket at once.
    A peer that answers no ping is cut: uvicorn closes politely, and waits for ever for what it does not read.
    Nothing is logged about the handshake: uvicorn would write the query, and the key may stand in it.
    """

    _control: SocketControl | None = None

    def handle_connect(self, event: Request) -> None:
        self.logger = logging.getLogger("uvicorn.error.quiet")
        self.logger.setLevel(logging.WARNING)
        super().handle_connect(event)
        if not self.close_sent:  # the handshake itself was in order
            self._control = SocketControl(abort=self.transport.abort)
            attach(self.scope["state"], self._control)

    def leave(self) -> None:
        """The service is about to shut down: close in an orderly way, behind what is being spoken."""
        if self._control is not None:
            self._control.shutting_down.set()

    def shutdown(self) -> None:
        if self._control is None or self.close_sent or not self.handshake_complete or self.transport.is_closing():
            super().shutdown()
        else:
            self.leave()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()
