"""Concurrent clients of a pool that know which worker serves them."""

from __future__ import annotations

import json
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPResponse
from typing import Any

from tests.integration.shared import KEY, Server

HEADERS = {"X-API-Key": KEY}
LONG = "x" * 4000  # 80 s at 0.02 s a frame: never read to the end


class Listener:
    """A connection that requests speech, repeatedly if need be, and reads no more than necessary."""

    def __init__(self, server: Server) -> None:
        self._connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
        self._response: HTTPResponse | None = None
        self._port = 0
        self.status = 0
        self.headers: dict[str, str] = {}

    def warm_up(self) -> Listener:
        """Open a persistent connection with another request."""
        self._connection.request("GET", "/livez")
        self._connection.getresponse().read()
        return self

    def ask(self, text: str = LONG, **parameters: str) -> Listener:
        """Request speech and wait for the response headers."""
        body = json.dumps({"text": text, "format": "raw_pcm", **parameters})
        self._connection.request(
            "POST", "/tts/generate", body, {**HEADERS, "Content-Type": "application/json", "X-Request-ID": text[:40]}
        )
        assert self._connection.sock is not None
        self._port = self._connection.sock.getsockname()[1]  # the socket is gone once a cut stream has been read
        self._response = self._connection.getresponse()
        self.status = self._response.status
        self.headers = {name.lower(): value for name, value in self._response.getheaders()}
        return self

    @property
    def port(self) -> int:
        """Of this end of the connection."""
        return self._port

    @property
    def worker(self) -> str:
        return self.headers["x-worker-id"]

    def rest(self) -> bytes:
        """Read the rest. Raises http.client.IncompleteRead if the stream was cut."""
        assert self._response is not None
        return self._response.read()

    def error(self) -> dict[str, Any]:
        answer = json.loads(self.rest())
        assert isinstance(answer, dict)
        return answer

    def leave(self) -> None:
        if self._response is not None:
            self._response.close()
        if self._connection.sock is not None:
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def at_once(listeners: list[Listener], text: str = LONG) -> list[Listener]:
    """All of them send their request at the same time."""
    with ThreadPoolExecutor(len(listeners)) as crowd:
        return list(crowd.map(lambda each: each.ask(text), listeners))


def spread(listeners: list[Listener]) -> list[int]:
    """The number of listeners of each worker, ascending."""
    refused = [(each.status, each.error()) for each in listeners if each.status != 200]
    assert not refused, refused
    return sorted(Counter(each.worker for each in listeners).values())


def health(server: Server) -> tuple[int, dict[str, Any]]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", "/health")
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def states(server: Server) -> list[str]:
    """The state of each worker; empty while the service does not respond."""
    try:
        return [each["state"] for each in health(server)[1]["tts_engines"].values()]
    except (OSError, ValueError):
        return []
