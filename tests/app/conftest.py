from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI

from app.main import create_app
from app.settings import Settings

Message = dict[str, Any]
KEY = (b"x-api-key", b"first-key")


class Call:
    """One request to an ASGI application: records each message it sends; the client can disconnect at any time."""

    def __init__(
        self,
        app: Any,
        path: str,
        *,
        method: str = "GET",
        query: bytes = b"",
        headers: tuple[tuple[bytes, bytes], ...] = (KEY,),
        body: tuple[bytes, ...] = (),
        stalls: bool = False,  # more body is announced and never sent
        kind: str = "http",
        extensions: dict[str, Any] | None = None,
    ) -> None:
        self.sent: list[Message] = []
        self.received = 0  # number of calls of receive
        self._changed = asyncio.Event()
        self._disconnected = asyncio.Event()
        self._body = list(body) or [b""]
        self._stalls = stalls
        self.reading = asyncio.Event()  # while cleared, sends to the client block
        self.reading.set()
        scope = {
            "type": kind,
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": query,
            "headers": list(headers),
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 1),
            "extensions": extensions or {},
            "subprotocols": [],
            "state": {},
        }
        if kind == "websocket":
            del scope["method"]
        self.task = asyncio.create_task(app(scope, self._receive, self._send))
        self.task.add_done_callback(lambda task: self._changed.set())

    async def _receive(self) -> Message:
        self.received += 1
        if self._body:
            part = self._body.pop(0)
            return {"type": "http.request", "body": part, "more_body": self._stalls or bool(self._body)}
        await self._disconnected.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self.reading.wait()
        self.sent.append(message)
        self._changed.set()

    def leave(self) -> None:
        self._disconnected.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, checked after each message that is sent."""
        while not condition():
            assert not self.task.done(), self.sent
            self._changed.clear()
            await self._changed.wait()

    async def done(self) -> Call:
        await self.task
        return self

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def content(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def ended(self) -> bool:
        return len(self.sent) > 1 and not self.sent[-1].get("more_body", False)


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a condition that another thread fulfils; only the test's timeout limits the wait."""
    while not condition():
        await asyncio.sleep(0.002)


@asynccontextmanager
async def running(settings: Settings, **options: Any) -> AsyncIterator[FastAPI]:
    """A started application whose engine is loaded. options: of create_app."""
    app = create_app(settings, **options)
    async with app.router.lifespan_context(app):
        await eventually(lambda: app.state.service.host.status().state != "loading")
        yield app


@pytest.fixture
def call() -> type[Call]:
    return Call


@pytest.fixture
def run() -> Any:
    return running


@pytest.fixture
def wait() -> Any:
    return eventually


@pytest.fixture(autouse=True)
def _no_leaked_threads() -> Any:
    yield
    left = [thread for thread in threading.enumerate() if thread.name in ("fake-engine", "load-engine")]
    for thread in left:
        thread.join(10)  # work that follows the engine's start may still run
    assert not [thread for thread in left if thread.is_alive()]
