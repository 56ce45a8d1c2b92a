"""What only the server below a connection brings about: a reader that stalls, a shutdown, a cancellation."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from app.settings import Settings
from app.websocket.socket_control import SocketControl

pytestmark = pytest.mark.anyio

Message = dict[str, Any]


class Peer:
    """A WebSocket driven by hand."""

    def __init__(self, app: Any) -> None:
        self.sent: list[Message] = []
        self.aborted = asyncio.Event()
        self.link = SocketControl(abort=self.aborted.set)
        self.reading = asyncio.Event()  # cleared: takes nothing more
        self.reading.set()
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._messages.put_nowait({"type": "websocket.connect"})
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "path": "/ws",
            "query_string": b"",
            "headers": [(b"x-api-key", b"first-key")],
            "subprotocols": [],
            "state": {"socket_control": self.link},
        }
        self.task = asyncio.create_task(app(scope, self._messages.get, self._send))

    async def _send(self, message: Message) -> None:
        await self.reading.wait()
        self.sent.append(message)

    def say(self, text: str) -> None:
        self._messages.put_nowait({"type": "websocket.receive", "text": json.dumps({"text": text})})

    def said(self, kind: str) -> list[Message]:
        heard = [json.loads(message["text"]) for message in self.sent if message["type"] == "websocket.send"]
        return [message for message in heard if message["type"] == kind]


def slow(settings: Settings) -> Settings:
    return settings.model_copy(update={"model_path": "fake:frame_seconds=0.01"})


async def test_a_reader_that_stalls_is_cut_and_holds_no_slot(
    settings: Settings, run: Any, wait: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.websocket.session.STALL_SECONDS", 0.05)
    async with run(slow(settings)) as app:
        peer = Peer(app)
        peer.say("x" * 4000)
        await wait(lambda: peer.said("audio_chunk"))
        peer.reading.clear()
        await peer.aborted.wait()
        await peer.task
        assert app.state.service.host.admission.active == 0


async def test_a_shutdown_lets_the_current_text_end_and_refuses_the_rest(
    settings: Settings, run: Any, wait: Any
) -> None:
    async with run(slow(settings)) as app:
        peer = Peer(app)
        peer.say("x" * 30)
        peer.say("Waiting.")
        await wait(lambda: peer.said("audio_chunk"))
        peer.link.shutting_down.set()
        await wait(lambda: peer.said("error"))
        peer.say("Too late.")
        await peer.task
        assert [message["duration_ms"] for message in peer.said("completion")] == [30 * 80]
        assert [message["code"] for message in peer.said("error")] == ["draining", "draining"]
        assert (peer.sent[-1]["type"], peer.sent[-1]["code"]) == ("websocket.close", 1012)


async def test_a_shutdown_closes_a_silent_connection_at_once(settings: Settings, run: Any, wait: Any) -> None:
    async with run(settings) as app:
        peer = Peer(app)
        await wait(lambda: peer.sent)
        peer.link.shutting_down.set()
        await peer.task
        assert (peer.sent[-1]["type"], peer.sent[-1]["code"]) == ("websocket.close", 1012)


async def test_a_server_that_waits_no_longer_leaves_nothing_behind(settings: Settings, run: Any, wait: Any) -> None:
    async with run(slow(settings)) as app:
        before = asyncio.all_tasks()
        peer = Peer(app)
        peer.say("x" * 4000)
        await wait(lambda: peer.said("audio_chunk"))
        peer.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await peer.task
        assert (peer.sent[-1]["type"], peer.sent[-1]["code"]) == ("websocket.close", 1012)
        assert app.state.service.host.admission.active == 0
        assert asyncio.all_tasks() == before


async def test_what_nobody_expected_closes_with_1011(
    settings: Settings, run: Any, wait: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("nobody expected this")

    monkeypatch.setattr("app.pool.dispatcher.Dispatcher.dispatch", broken)
    async with run(settings) as app:
        peer = Peer(app)
        peer.say("Hello.")
        await peer.task
        assert (peer.sent[-1]["type"], peer.sent[-1]["code"]) == ("websocket.close", 1011)
        assert "nobody expected this" in caplog.text
