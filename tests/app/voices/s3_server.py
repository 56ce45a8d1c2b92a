"""A real S3 server on loopback, moto's, and a TCP proxy in front of it that is slow, silent, broken or gone."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Fault = Literal["hang", "cut", "error"]
_REQUEST = re.compile(rb"^(GET|HEAD|PUT|POST|DELETE) (\S+) HTTP/1\.1\r\n")
_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_ERROR = b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%s" % (
    len(_SLOW_DOWN),
    _SLOW_DOWN,
)
START_SECONDS = 60.0
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def s3_server() -> Iterator[int]:
    """Start the server in a process of its own. Yields its port."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **CREDENTIALS},
    )
    assert process.stderr is not None
    late = threading.Timer(START_SECONDS, process.kill)
    late.start()
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"Running on http://127\.0\.0\.1:(\d+)", line):
                break
        else:
            raise AssertionError(f"the S3 server did not start: {lines}")
        late.cancel()
        reader = threading.Thread(
            target=process.stderr.read, daemon=True
        )  # it logs each request: the pipe must not fill
        reader.start()
        yield int(found[1])
    finally:
        late.cancel()
        process.kill()
        process.wait(30)
        with contextlib.suppress(NameError):
            reader.join(30)
        process.stderr.close()


class StorageProxy:
    """Passes connections to a port. Faults concern requests that begin while they are set.

    latency: seconds that each request waits. fault: hang (no answer), cut (the answer ends in its middle), error (503).
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self.latency = 0.0
        self.fault: Fault | None = None
        self._lock = threading.Lock()  # guards the two below
        self._requests: list[str] = []
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads: list[threading.Thread] = []
        self._up = True
        self._start(self._accept, self._listener)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def take_requests(self) -> list[str]:
        """Method and path of each request since the last call."""
        with self._lock:
            taken, self._requests = self._requests, []
        return taken

    def down(self) -> None:
        """Refuse connections and cut those that are open."""
        with self._lock:
            self._up = False
            connections, self._open = self._open, []
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in connections:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def up(self) -> None:
        self.latency, self.fault = 0.0, None
        if not self._up:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            with self._lock:
                self._up = True
            self._start(self._accept, self._listener)

    def close(self) -> None:
        if self._up:
            self.down()
        for each in self._threads:
            each.join(30)
            assert not each.is_alive()

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target), timeout=30)
            server.settimeout(None)
            with self._lock:
                self._open += [client, server]
                if not self._up:
                    return
            self._start(self._forward, client, server)
            self._start(self._answer, server, client)

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        """Requests, from the client to the server."""
        with contextlib.suppress(OSError), client:
            while data := client.recv(1 << 20):
                if found := _REQUEST.match(data):
                    with self._lock:
                        self._requests.append(f"{found[1].decode()} {found[2].decode()}")
                    if self.latency:
                        time.sleep(self.latency)
                    if self.fault == "hang":
                        continue
                    if self.fault == "error":
                        client.sendall(_ERROR)
                        continue
                server.sendall(data)
            server.shutdown(socket.SHUT_RDWR)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError), server:
            while data := server.recv(1 << 20):
                if self.fault == "cut":
                    client.sendall(data[: len(data) // 2])
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)
