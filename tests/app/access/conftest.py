from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

START_SECONDS = 30


class RedisServer:
    """A server on a port of its own: redis-server where it is installed, else one in Python."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._fake: object = None

    def start(self) -> None:
        if program := shutil.which("redis-server"):
            options = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
            self._process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        else:
            from fakeredis import TcpFakeServer

            self._fake = server = TcpFakeServer(("127.0.0.1", self._port), server_type="redis")
            threading.Thread(target=server.serve_forever, daemon=True).start()
        client = redis.Redis.from_url(self.url, retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.02), 1500))
        assert client.ping()
        client.close()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(START_SECONDS)
            self._process = None
        if self._fake is not None:
            self._fake.shutdown()  # type: ignore[attr-defined]
            self._fake.server_close()  # type: ignore[attr-defined]
            self._fake = None


@pytest.fixture
def redis_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    monkeypatch.setattr("app.access.redis_limits.TIMEOUT_SECONDS", 60)  # a busy machine is no Redis that is away
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()
