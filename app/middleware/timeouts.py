"""uvicorn's HTTP protocol with timeouts for slow headers, slow bodies and clients that do not read."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADERS_SECONDS = 20.0  # from the connection, or a request's first byte, to the end of its headers
BODY_SECONDS = 20.0  # for a body, plus one second for each 4096 bytes received
BODY_BYTES_PER_SECOND = 4096
STALL_SECONDS = 65.0  # a client may read nothing for so long; responses give up a little earlier, with a log line
CHECK_SECONDS = 1.0

_TOO_SLOW = json.dumps({"detail": "the request was not received in time: send it faster", "code": "request_timeout"})
_TIMEOUT = (
    "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\n"
    f"content-length: {len(_TOO_SLOW)}\r\nconnection: close\r\n\r\n{_TOO_SLOW}"
).encode()


class TimeoutHttpProtocol(HttpToolsProtocol):
    """Ends a connection whose client sends its headers or its body too slowly, or does not read.

    A slow request gets 408 if its response has not started. A client that does not read is aborted, since a closed
    connection waits until its last bytes are read. uvicorn closes connections that are idle after a request
    (`keepalive`). A WebSocket is exempt once it is upgraded: its protocol's pings detect dead clients.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._headers_since: float | None = None  # waiting for a request, or receiving its headers
        self._body_since: float | None = None  # receiving its body
        self._body_bytes = 0
        self._full_since: float | None = None  # the write buffer is full, or closing with data left
        self._next_check: asyncio.TimerHandle | None = None

    # ---- called by uvicorn

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._headers_since = self.loop.time()
        self._next_check = self.loop.call_later(CHECK_SECONDS, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_checking()
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
        self._stop_checking()
        super().handle_websocket_upgrade()

    # ---- timeouts

    def _stop_checking(self) -> None:
        if self._next_check is not None:
            self._next_check.cancel()
            self._next_check = None

    def _check(self) -> None:
        now = self.loop.time()
        self._next_check = self.loop.call_later(CHECK_SECONDS, self._check)
        if self.transport.is_closing():
            self._full_since = self._full_since or now  # only the rest of the data is left to be read
        if self._body_since is not None and self.flow.read_paused:
            self._body_since += CHECK_SECONDS  # the application does not read: not the client's fault
        if self._full_since is not None and now - self._full_since > STALL_SECONDS:
            self.transport.abort()
        elif self._too_slow(now) and not self.transport.is_closing():
            self._end_request()

    def _too_slow(self, now: float) -> bool:
        if self._headers_since is not None:
            return now - self._headers_since > HEADERS_SECONDS
        if self._body_since is not None:
            return now - self._body_since > BODY_SECONDS + self._body_bytes / BODY_BYTES_PER_SECOND
        return False

    def _end_request(self) -> None:
        cycle = self.cycle
        in_progress = cycle is not None and not cycle.response_complete
        if in_progress and cycle.response_started:
            self.transport.abort()
            return
        if in_progress:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.write(_TIMEOUT)
        self.transport.close()
