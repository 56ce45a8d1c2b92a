"""API keys over a pool of two workers: limits hold across them, slots are shared fairly, keys come and go."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from app.access.api_keys import ApiKey, hash_key
from app.access.key_file import edited_keys
from tests.integration.shared import KEY, Server, serving

LONG = "x" * 4000  # 80 s: never read to the end


def add(path: Path, name: str, **limits: Any) -> None:
    with edited_keys(path) as keys:
        keys.append(ApiKey(name=name, sha256=hash_key(name), **limits))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    add(path, "greedy")
    add(path, "modest")
    add(path, "two-slots", concurrent_slots=2)
    return path


@pytest.fixture(scope="module")
def server(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("service"),
        WORKERS="2",
        CONCURRENT_REQUESTS_PER_WORKER="1",
        API_KEYS_FILE=str(keys),
    ) as started:
        wait_until(lambda: sum(each["capacity"] for each in status(started)["workers"]) == 2)
        yield started


class Request:
    """A request for speech on a connection of its own, sent at once and answered whenever it is."""

    def __init__(self, server: Server, key: str, text: str = LONG) -> None:
        self.key = key
        self._connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
        body = json.dumps({"text": text, "format": "raw_pcm"})
        headers = {"X-API-Key": key, "Content-Type": "application/json"}
        self._connection.request("POST", "/tts/generate", body, headers)
        self._socket = self._connection.sock
        self.response: HTTPResponse | None = None
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # it was left
            self.response = self._connection.getresponse()

    def answered(self) -> HTTPResponse:
        self._reading.join(60)
        assert self.response is not None
        return self.response

    def leave(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # it ends the reading thread's wait as well
        self._reading.join(60)
        if self.response is not None:
            self.response.close()
        self._connection.close()


def wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    while not condition():
        pause.wait(0.01)


def status(server: Server) -> dict[str, Any]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/system-status", headers={"X-API-Key": KEY})
    read: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return read


def load(server: Server) -> tuple[int, int]:
    """Requests that speak, and that wait."""
    workers = status(server)["workers"]
    return sum(each["active"] for each in workers), sum(each["queued"] for each in workers)


def slots(server: Server, key: str) -> int:
    """That requests of a key wait for or hold."""
    return next(int(each["slots"]) for each in status(server)["keys"] if each["name"] == key)


def test_a_limit_holds_whichever_worker_is_asked(server: Server) -> None:
    held = [Request(server, "two-slots") for _ in range(2)]
    assert [each.answered().status for each in held] == [200, 200]
    for _ in range(6):  # the kernel spreads connections over both workers
        request = Request(server, "two-slots", "Hi.")
        refused = request.answered()
        assert refused.status == 429
        assert refused.getheader("Retry-After") == "1"
        assert json.loads(refused.read())["code"] == "concurrency_limit"
        request.leave()
    for each in held:
        each.leave()
    wait_until(lambda: slots(server, "two-slots") == 0)
    again = Request(server, "two-slots", "Hi.")
    assert again.answered().status == 200
    again.answered().read()
    again.leave()


def test_one_request_waits_for_one_turn_of_a_key_with_many(server: Server) -> None:
    wait_until(lambda: load(server) == (0, 0))
    greedy = [Request(server, "greedy") for _ in range(12)]
    wait_until(lambda: load(server) == (2, 10))
    modest = Request(server, "modest")
    wait_until(lambda: load(server) == (2, 11))
    wait_until(lambda: sum(each.response is not None for each in greedy) == 2)
    speaking = [each for each in greedy if each.response is not None]
    for each in speaking:  # one turn of each worker ends
        each.leave()
    assert modest.answered().status == 200
    wait_until(lambda: sum(each.response is not None for each in greedy) == 3)
    assert load(server) == (2, 9)
    for each in (modest, *greedy):
        each.leave()
    wait_until(lambda: load(server) == (0, 0))


def test_keys_come_and_go_while_the_service_runs(server: Server, keys: Path) -> None:
    def answer() -> int:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("GET", "/voices", headers={"X-API-Key": "late"})
        found = connection.getresponse().status
        connection.close()
        return found

    assert answer() == 401
    add(keys, "late")
    wait_until(lambda: [answer() for _ in range(4)] == [200] * 4)
    with edited_keys(keys) as entries:
        entries[:] = [each for each in entries if each.name != "late"]
    wait_until(lambda: [answer() for _ in range(4)] == [401] * 4)
