from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest

KEY = "first-key"
ROOT = Path(__file__).parents[2]


class Server:
    """A service of real processes, on a port of its own, on the fake engine."""

    def __init__(self, environ: dict[str, str], folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._log = folder / "service.log"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app.cli.main", "serve"],
                cwd=folder,
                env={**inherited, "PYTHONPATH": str(ROOT), **environ, "PORT": str(self.port)},
                stdout=subprocess.PIPE,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait for what the processes do; the test's own time limit ends a wait that is in vain."""
        pause = threading.Event()
        while not holds():
            assert self.process.poll() is None, self.log
            pause.wait(0.02)

    def wait_for(self, status: int, path: str = "/readyz") -> None:
        self.wait_until(lambda: self.get(path) == status)

    def get(self, path: str) -> int | None:
        """The status of an answer; None while nobody listens."""
        try:
            with contextlib.closing(HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
                connection.request("GET", path, headers={"X-API-Key": KEY})
                return connection.getresponse().status
        except OSError:
            return None

    def connect(self, head: str, body: bytes = b"") -> socket.socket:
        """A connection on which a request has been sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        return connection

    def ask(self, query: str) -> socket.socket:
        return self.connect(f"GET /tts/generate?{query} HTTP/1.1\nHost: service\nX-API-Key: {KEY}\nConnection: close")

    def workers(self) -> list[psutil.Process]:
        """The processes that gunicorn's master forked."""
        return [each for each in psutil.Process(self.process.pid).children() if each.status() != psutil.STATUS_ZOMBIE]

    def outcomes(self) -> list[str]:
        return re.findall(r"path=/tts/generate .*?outcome=(\w+)", self.log)

    def queued(self) -> int:
        """How many requests wait for a slot of the first worker."""
        with contextlib.closing(HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request("GET", "/system-status", headers={"X-API-Key": KEY})
            return int(json.load(connection.getresponse())["workers"][0]["queued"])

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def kill(self) -> None:
        if self.process.poll() is None:
            children = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        self.process.wait(timeout=60)
        assert self.process.stdout is not None
        self.process.stdout.close()


Serve = Callable[..., Server]


@pytest.fixture
def serve(env: dict[str, str], tmp_path: Path) -> Iterator[Serve]:
    """Starts services, ready to speak, with some settings of their own."""
    servers: list[Server] = []

    def start(wait: bool = True, **settings: str) -> Server:
        server = Server({**env, **settings}, tmp_path)
        servers.append(server)
        if wait:
            server.wait_for(200)
        return server

    yield start
    for server in servers:
        server.kill()
