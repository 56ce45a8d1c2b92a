"""uvicorn's WebSocket protocol with graceful shutdown and ping timeouts that abort."""

from __future__ import annotations

import logging

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from ..websocket.socket_control import SocketControl, attach


class SpeechWebSocketProtocol(WebSocketsSansIOProtocol):
    """Differs from uvicorn's in three ways.

    At shutdown the current text is spoken to its end; uvicorn closes every WebSocket at once.
    A client that answers no ping is aborted; uvicorn waits for ever for its closing handshake.
    The handshake is not logged; uvicorn would log the query string, which may hold the key.
    """

    _control: SocketControl | None = None

    def handle_connect(self, event: Request) -> None:
        self.logger = logging.getLogger("uvicorn.error.quiet")
        self.logger.setLevel(logging.WARNING)
        super().handle_connect(event)
        if not self.close_sent:  # the handshake was accepted
            self._control = SocketControl(abort=self.transport.abort)
            attach(self.scope["state"], self._control)

    def start_shutdown(self) -> None:
        """Tell the session to close the connection after the current text."""
        if self._control is not None:
            self._control.shutting_down.set()

    def shutdown(self) -> None:
        if self._control is None or self.close_sent or not self.handshake_complete or self.transport.is_closing():
            super().shutdown()
        else:
            self.start_shutdown()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()
