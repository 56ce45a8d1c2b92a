"""HTTP on which nobody can sit for ever: uvicorn's protocol, with deadlines that it does not have."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADERS_SECONDS = 20.0  # from the first byte of a request, or from the connection, to the end of its headers
BODY_SECONDS = 20.0  # for a body, and one second more for each of these bytes that has come
BODY_BYTES_A_SECOND = 4096
STALL_SECONDS = 65.0  # in which a reader must make room; the response itself gives up a little earlier, and says so
LOOK_SECONDS = 1.0

_TOO_SLOW = json.dumps({"detail": "the request did not come in time: send it faster", "code": "request_timeout"})
_TIMEOUT = (
    "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\n"
    f"content-length: {len(_TOO_SLOW)}\r\nconnection: close\r\n\r\n{_TOO_SLOW}"
).encode()


class TimeoutHttpProtocol(HttpToolsProtocol):
    """Ends a connection whose client sends its headers or its body too slowly, or no longer reads.

    Too slow a request is answered with 408 where no answer has begun. A reader that makes no room is aborted: a
    connection that is merely closed waits for its last bytes to be taken. Idle connections are uvicorn's own affair
    (`keepalive`), once they have had a request. A WebSocket is out of here as soon as it is one: there the pings
    of its protocol find out who is gone.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._headers_since: float | None = None  # a request is wanted, or its headers are coming
        self._body_since: float | None = None  # its body is coming
        self._body_bytes = 0
        self._full_since: float | None = None  # the reader has to make room, or to take what is left
        self._look_again: asyncio.TimerHandle | None = None

    # ---- what uvicorn tells

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._headers_since = self.loop.time()
        self._look_again = self.loop.call_later(LOOK_SECONDS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_looking()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._headers_since is None and self._body_since is None:
            self._headers_since = self.loop.time()
        super().data_received(data)

    def on_headers_complete(self) -> None:
        self._headers_since = None
        self._body_since, self._body_bytes = self.loop.time(), 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._body_since = None
        super().on_message_complete()

    def pause_writing(self) -> None:
        self._full_since = self._full_since or self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._full_since = None
        super().resume_writing()

    def handle_websocket_upgrade(self) -> None:
        self._stop_looking()
        super().handle_websocket_upgrade()

    # ---- deadlines

    def _stop_looking(self) -> None:
        if self._look_again is not None:
            self._look_again.cancel()
            self._look_again = None

    def _look(self) -> None:
        now = self.loop.time()
        self._look_again = self.loop.call_later(LOOK_SECONDS, self._look)
        if self.transport.is_closing():
            self._full_since = self._full_since or now  # all that is left is for the client to take the rest
        if self._body_since is not None and self.flow.read_paused:
            self._body_since += LOOK_SECONDS  # it is us who do not take it
        if self._full_since is not None and now - self._full_since > STALL_SECONDS:
            self.transport.abort()
        elif self._too_slow(now) and not self.transport.is_closing():
            self._end_request()

    def _too_slow(self, now: float) -> bool:
        if self._headers_since is not None:
            return now - self._headers_since > HEADERS_SECONDS
        if self._body_since is not None:
            return now - self._body_since > BODY_SECONDS + self._body_bytes / BODY_BYTES_A_SECOND
        return False

    def _end_request(self) -> None:
        cycle = self.cycle
        under_way = cycle is not None and not cycle.response_complete
        if under_way and cycle.response_started:
            self.transport.abort()
            return
        if under_way:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.write(_TIMEOUT)
        self.transport.close()
