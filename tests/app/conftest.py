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
    """One request to an ASGI application, driven by hand: each message as it is sent, and a client that can leave."""

    def __init__(
        self,
        app: Any,
        path: str,
        *,
        method: str = "GET",
        query: bytes = b"",
        headers: tuple[tuple[bytes, bytes], ...] = (KEY,),
        body: tuple[bytes, ...] = (),
        stalls: bool = False,  # behind that body more is announced, and never comes
        kind: str = "http",
        extensions: dict[str, Any] | None = None,
    ) -> None:
        self.sent: list[Message] = []
        self.received = 0  # how often the application asked for more of the request
        self._came = asyncio.Event()
        self._gone = asyncio.Event()
        self._body = list(body) or [b""]
        self._stalls = stalls
        self.reading = asyncio.Event()  # cleared: the client takes nothing more
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
        self.task.add_done_callback(lambda task: self._came.set())

    async def _receive(self) -> Message:
        self.received += 1
        if self._body:
            part = self._body.pop(0)
            return {"type": "http.request", "body": part, "more_body": self._stalls or bool(self._body)}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self.reading.wait()
        self.sent.append(message)
        self._came.set()

    def leave(self) -> None:
        self._gone.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds that messages bring about."""
        while not holds():
            assert not self.task.done(), self.sent
            self._came.clear()
            await self._came.wait()

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


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait for what another thread does; the test's own time limit ends a wait that is in vain."""
    while not holds():
        await asyncio.sleep(0.002)


@asynccontextmanager
async def running(settings: Settings, **how: Any) -> AsyncIterator[FastAPI]:
    """The application between its start and its end, ready to speak."""
    app = create_app(settings, **how)
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
def _no_threads_are_left() -> Any:
    yield
    left = [thread for thread in threading.enumerate() if thread.name in ("fake-engine", "load-engine")]
    for thread in left:
        thread.join(10)  # what is done once the engine is ready may be under way still
    assert not [thread for thread in left if thread.is_alive()]
