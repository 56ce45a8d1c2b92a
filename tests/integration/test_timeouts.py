"""Timeouts of connections, over real sockets and with short limits."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from app.main import create_app
from app.middleware import timeouts
from app.middleware.timeouts import TimeoutHttpProtocol
from app.responses import streaming
from app.settings import Settings

HEAD = b"POST /tts/generate HTTP/1.1\r\nHost: service\r\nX-API-Key: first-key\r\nContent-Type: application/json\r\n"


class Served:
    """The application under uvicorn, in a thread of this process."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        config = uvicorn.Config(app, http=TimeoutHttpProtocol, log_config=None, timeout_keep_alive=1)
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with contextlib.closing(self._socket):
            asyncio.run(self.server.serve(sockets=[self._socket]))

    def __enter__(self) -> Served:
        self._thread.start()
        self.wait_until(lambda: self.app.state.service.host.status().state == "ready")
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.should_exit = True
        self._thread.join(60)

    def wait_until(self, holds: Any) -> None:
        pause = threading.Event()
        while not holds():
            pause.wait(0.01)

    def connect(self, sent: bytes = b"", receive_buffer: int | None = None) -> socket.socket:
        connection = socket.socket()
        connection.settimeout(30)
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.connect(("127.0.0.1", self.port))
        connection.sendall(sent)
        return connection

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)


@pytest.fixture
def served(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(timeouts, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(timeouts, "HEADERS_SECONDS", 0.3)
    monkeypatch.setattr(timeouts, "BODY_SECONDS", 0.3)
    monkeypatch.setattr(timeouts, "STALL_SECONDS", 0.5)
    with Served(create_app(settings)) as served:
        yield served


def read_all(connection: socket.socket) -> bytes:
    got = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            got += part
    return got


def drip(connection: socket.socket) -> bytes:
    """Send single bytes slowly until there is a response."""
    connection.settimeout(0.05)
    while True:
        with contextlib.suppress(TimeoutError, BrokenPipeError):
            return connection.recv(65536) + read_all(connection)
        with contextlib.suppress(ConnectionError):
            connection.send(b"x")


def test_a_connection_without_a_request_is_closed(served: Served) -> None:
    with served.connect() as silent:
        assert b" 408 " in read_all(silent)


def test_incomplete_headers_time_out(served: Served) -> None:
    with served.connect(HEAD) as half:
        assert b" 408 " in read_all(half)
    with served.connect(HEAD + b"X-Slow: ") as dripping:
        answer = drip(dripping)
        assert b" 408 " in answer
        assert b'"code": "request_timeout"' in answer
    served.wait_until(lambda: served.connections == 0)


def test_a_missing_body_times_out(served: Served) -> None:
    with served.connect(HEAD + b"Content-Length: 1000\r\n\r\n{") as half:
        assert b" 408 " in read_all(half)
    with served.connect(HEAD + b"Content-Length: 1000\r\n\r\n{") as dripping:
        assert b" 408 " in drip(dripping)
    served.wait_until(lambda: served.connections == 0)


def test_a_second_request_on_the_connection_has_the_same_timeouts(served: Served) -> None:
    with served.connect(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
        assert b" 200 " in connection.recv(65536)
        connection.sendall(HEAD)
        assert b" 408 " in read_all(connection)


def test_a_steady_body_may_take_longer(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeouts, "BODY_BYTES_PER_SECOND", 20)
    body = b'{"text": "Hi", "format": "raw_pcm"}'
    with served.connect(HEAD + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)) as steady:
        pause = threading.Event()
        for at in range(len(body)):
            steady.sendall(body[at : at + 1])
            pause.wait(0.02)
        assert b" 200 " in read_all(steady)


def test_an_idle_connection_is_closed(served: Served) -> None:
    with served.connect(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
        answer = read_all(connection)
        assert b" 200 " in answer
        assert b" 408 " not in answer


def test_a_client_that_stops_reading_loses_its_connection_and_its_slot(served: Served) -> None:
    body = b'{"text": "%s", "format": "raw_pcm"}' % (b"x" * 4900)
    with served.connect(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body, receive_buffer=4096) as stuck:
        admission = served.app.state.service.host.admission
        served.wait_until(lambda: admission.active == 1)
        served.wait_until(lambda: admission.active == 0)
        served.wait_until(lambda: served.connections == 0)
        assert not read_all(stuck).endswith(b"0\r\n\r\n")


def test_a_response_aborts_a_stalled_send_itself(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeouts, "STALL_SECONDS", 3600.0)
    monkeypatch.setattr(streaming, "STALL_SECONDS", 0.2)
    body = b'{"text": "%s", "format": "raw_pcm"}' % (b"x" * 4900)
    with served.connect(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body, receive_buffer=4096):
        admission = served.app.state.service.host.admission
        served.wait_until(lambda: admission.active == 1)
        served.wait_until(lambda: admission.active == 0)
        monkeypatch.setattr(timeouts, "STALL_SECONDS", 0.2)
        served.wait_until(lambda: served.connections == 0)  # it was closing with unread data
