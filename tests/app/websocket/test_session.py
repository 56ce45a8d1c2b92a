"""Session behaviour that only the server triggers: stalled clients, shutdown, cancellation."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from app.settings import Settings
from app.websocket.socket_control import SocketControl

pytestmark = pytest.mark.anyio

Message = dict[str, Any]


class FakeClient:
    """Runs the application on one WebSocket scope; the test sends and reads ASGI messages."""

    def __init__(self, app: Any, path: str = "/ws", query: bytes = b"") -> None:
        self.sent: list[Message] = []
        self.aborted = asyncio.Event()
        self.control = SocketControl(abort=self.aborted.set)
        self.reading = asyncio.Event()  # while cleared, sends to the client block
        self.reading.set()
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._messages.put_nowait({"type": "websocket.connect"})
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "path": path,
            "query_string": query,
            "headers": [(b"x-api-key", b"first-key")],
            "subprotocols": [],
            "state": {"socket_control": self.control},
        }
        self.task = asyncio.create_task(app(scope, self._messages.get, self._send))

    async def _send(self, message: Message) -> None:
        await self.reading.wait()
        self.sent.append(message)

    def send(self, message: Message) -> None:
        self._messages.put_nowait({"type": "websocket.receive", "text": json.dumps(message)})

    def send_text(self, text: str) -> None:
        self.send({"text": text})

    def received(self, kind: str) -> list[Message]:
        messages = [json.loads(message["text"]) for message in self.sent if message["type"] == "websocket.send"]
        return [message for message in messages if message["type"] == kind]


def slow(settings: Settings) -> Settings:
    return settings.model_copy(update={"model_path": "fake:frame_seconds=0.01"})


async def test_a_client_that_stops_reading_is_aborted_and_holds_no_slot(
    settings: Settings, run: Any, wait: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.websocket.connection.STALL_SECONDS", 0.05)
    async with run(slow(settings)) as app:
        client = FakeClient(app)
        client.send_text("x" * 4000)
        await wait(lambda: client.received("audio_chunk"))
        client.reading.clear()
        await client.aborted.wait()
        await client.task
        assert app.state.service.host.admission.active == 0


async def test_shutdown_completes_the_current_text_and_fails_the_queued_ones(
    settings: Settings, run: Any, wait: Any
) -> None:
    async with run(slow(settings)) as app:
        client = FakeClient(app)
        client.send_text("x" * 30)
        client.send_text("Waiting.")
        await wait(lambda: client.received("audio_chunk"))
        client.control.shutting_down.set()
        await wait(lambda: client.received("error"))
        client.send_text("Too late.")
        await client.task
        assert [message["duration_ms"] for message in client.received("completion")] == [30 * 80]
        assert [message["code"] for message in client.received("error")] == ["draining", "draining"]
        assert (client.sent[-1]["type"], client.sent[-1]["code"]) == ("websocket.close", 1012)


async def test_shutdown_closes_an_idle_connection_at_once(settings: Settings, run: Any, wait: Any) -> None:
    async with run(settings) as app:
        client = FakeClient(app)
        await wait(lambda: client.sent)
        client.control.shutting_down.set()
        await client.task
        assert (client.sent[-1]["type"], client.sent[-1]["code"]) == ("websocket.close", 1012)


async def test_cancelling_the_connection_leaves_no_slot_and_no_task(settings: Settings, run: Any, wait: Any) -> None:
    async with run(slow(settings)) as app:
        before = asyncio.all_tasks()
        client = FakeClient(app)
        client.send_text("x" * 4000)
        await wait(lambda: client.received("audio_chunk"))
        client.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await client.task
        assert (client.sent[-1]["type"], client.sent[-1]["code"]) == ("websocket.close", 1012)
        assert app.state.service.host.admission.active == 0
        assert asyncio.all_tasks() == before


async def test_an_unexpected_error_closes_with_1011(
    settings: Settings, run: Any, wait: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("unexpected")

    monkeypatch.setattr("app.pool.dispatcher.Dispatcher.dispatch", broken)
    async with run(settings) as app:
        client = FakeClient(app)
        client.send_text("Hello.")
        await client.task
        assert (client.sent[-1]["type"], client.sent[-1]["code"]) == ("websocket.close", 1011)
        assert "ZeroDivisionError: unexpected" in caplog.text
