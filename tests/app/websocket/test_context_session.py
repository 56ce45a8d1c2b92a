from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from app.main import create_app
from app.schemas.elevenlabs import StreamOptions
from app.settings import Settings
from tests.app.websocket.test_session import FakeClient

PATH = "/v1/text-to-speech/speaker_0/multi-stream-input"
FRAME = 3840  # bytes of 80 ms, which the fake engine makes of each character


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    """Of a service with four slots. Texts are not normalised, since the fake engine reads instructions in them."""
    changes = {
        "model_path": "fake:frame_seconds=0.004",
        "concurrent_requests_per_worker": 4,
        "tts_normalize": "off",
        "tts_text_processing_chunk_size": 1000,
    }
    app = create_app(settings.model_copy(update=changes))
    with TestClient(app, headers={"xi-api-key": "first-key"}) as client:
        until(lambda: app.state.service.host.status().state == "ready")
        yield client


class Contexts:
    """A connection, and what was received of each context."""

    def __init__(self, socket: WebSocketTestSession) -> None:
        self.socket = socket
        self.audio: dict[str, bytes] = {}
        self.chars: dict[str, str] = {}
        self.final: list[str] = []
        self.errors: list[dict[str, Any]] = []

    def send(self, context: str | None = None, text: str | None = None, **fields: Any) -> None:
        named = {"context_id": context, "text": text}
        self.socket.send_json({**{name: value for name, value in named.items() if value is not None}, **fields})

    def receive(self) -> dict[str, Any]:
        message = self.socket.receive_json()
        if "error" in message:
            self.errors.append(message)
            return message
        context = message["contextId"]
        self.audio[context] = self.audio.get(context, b"") + base64.b64decode(message["audio"] or "")
        if message["alignment"]:
            self.chars[context] = self.chars.get(context, "") + "".join(message["alignment"]["chars"])
        if message["isFinal"]:
            self.final.append(context)
        return message

    def until_final(self, *contexts: str) -> None:
        while not set(contexts) <= set(self.final):
            self.receive()

    def until_audio(self, context: str) -> None:
        while not self.audio.get(context):
            self.receive()

    def until_closed(self) -> int:
        while True:
            try:
                self.receive()
            except WebSocketDisconnect as closed:
                return closed.code

    def frames(self, context: str) -> int:
        return len(self.audio.get(context, b"")) // FRAME


@contextmanager
def connected(client: TestClient, query: str = "") -> Iterator[Contexts]:
    with client.websocket_connect(f"{PATH}?output_format=pcm_24000{query}") as socket:
        yield Contexts(socket)


def active(client: TestClient) -> int:
    return client.app.state.service.host.admission.active  # type: ignore[attr-defined, no-any-return]


def until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    while not condition():
        pause.wait(0.002)


def test_contexts_are_spoken_at_the_same_time(client: TestClient) -> None:
    with connected(client) as contexts:
        contexts.send("long", " ")
        contexts.send("long", "x" * 4000, flush=True)  # takes 16 s
        contexts.until_audio("long")
        contexts.send("short", " ")
        contexts.send("short", "Hi there.", flush=True)
        contexts.until_audio("short")
        assert active(client) == 2
        contexts.send("short", close_context=True)
        contexts.until_final("short")
        assert contexts.final == ["short"]
        assert (contexts.frames("short"), contexts.chars["short"]) == (9, "Hi there.")


def test_a_closed_context_speaks_what_was_flushed_and_no_more(client: TestClient) -> None:
    with connected(client) as contexts:
        contexts.send("a", " ")
        contexts.send("a", "Hello ", flush=True)
        contexts.send("a", "and on")
        contexts.send("a", close_context=True)
        contexts.send("b", "never flushed")
        contexts.send("b", close_context=True)
        contexts.until_final("a", "b")
        assert (contexts.frames("a"), contexts.frames("b")) == (5, 0)
        contexts.send("a", "Again. ")  # the same id, of another context
        contexts.send("a", flush=True)
        contexts.until_audio("a")
        contexts.send("a", close_context=True)
        contexts.final.clear()
        contexts.until_final("a")
        assert contexts.frames("a") == 5 + 6


def test_a_sentence_that_was_not_flushed_ends_with_its_context(client: TestClient) -> None:
    with connected(client) as contexts:
        contexts.send("a", "x" * 990 + ". And on")
        contexts.until_audio("a")
        contexts.send("a", close_context=True)
        contexts.until_final("a")
        assert contexts.frames("a") < 990
        until(lambda: active(client) == 0)


def test_a_context_that_is_closed_again_ends_at_once(client: TestClient) -> None:
    with connected(client) as contexts:
        contexts.send("a", "x" * 900, flush=True)
        contexts.until_audio("a")
        contexts.send("a", close_context=True)
        contexts.send("a", close_context=True)
        contexts.until_final("a")
        assert contexts.frames("a") < 900
        until(lambda: active(client) == 0)


def test_close_socket_waits_for_what_was_flushed(client: TestClient) -> None:
    with connected(client) as contexts:
        contexts.send("a", "x" * 100, flush=True)
        contexts.send("b", "not flushed")
        contexts.socket.send_json({"close_socket": True})
        contexts.send("c", "too late", flush=True)
        assert contexts.until_closed() == 1000
        assert contexts.frames("a") == 100
        assert sorted(contexts.final) == ["a", "b"]


def test_the_settings_of_the_first_message_are_those_of_contexts_without_their_own(client: TestClient) -> None:
    with connected(client) as contexts:
        contexts.send("a", " ", voice_settings={"speed": 2})
        contexts.send("b", "x" * 50, flush=True)
        contexts.send("c", "x" * 50, flush=True, voice_settings={"speed": 0.5})
        for context in "abc":
            contexts.send(context, close_context=True)
        contexts.until_final("a", "b", "c")
        assert contexts.frames("b") == pytest.approx(25, abs=2)
        assert contexts.frames("c") == pytest.approx(100, abs=2)


def test_auto_mode_speaks_each_message_at_once(client: TestClient) -> None:
    with connected(client, "&auto_mode=true&sync_alignment=false") as contexts:
        contexts.send(None, " ")
        contexts.send(None, "No sentence end")
        contexts.until_audio("default")
        contexts.send("default", close_context=True)
        contexts.until_final("default")
        assert (contexts.frames("default"), contexts.chars) == (15, {})


def test_an_inactive_context_is_closed(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StreamOptions, "inactivity_seconds", 0.2)
    with connected(client) as contexts:
        contexts.send(None, "")  # keeps nothing alive, and opens nothing
        contexts.send("never", "", flush=True)
        contexts.send("a", "x" * 200, flush=True)  # takes longer than that to speak
        contexts.send("b", "never flushed")
        contexts.until_final("b")
        contexts.until_final("a")
        assert (contexts.frames("a"), contexts.frames("b"), contexts.final) == (200, 0, ["b", "a"])


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_a_message_keeps_its_context_open(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    for module in ("context_session", "text_speaker"):
        monkeypatch.setattr(f"app.websocket.{module}.time", clock)

    with connected(client) as contexts:

        def wait_until_read() -> None:
            """Until all messages have been read, and the contexts have been looked at."""
            contexts.send("last", "x", flush=True)
            contexts.send("last", close_context=True)
            contexts.final.clear()
            contexts.until_final("last")

        contexts.send("kept", "waiting")
        contexts.send("other", "waiting")
        wait_until_read()
        clock.now = 15.0
        contexts.send("kept", "")
        wait_until_read()
        clock.now = 21.0  # 20 is the default
        wait_until_read()
        contexts.until_final("other")
        contexts.send("kept", ".", flush=True)
        contexts.until_audio("kept")
        assert "kept" not in contexts.final


def test_too_many_contexts_are_refused(client: TestClient) -> None:
    with connected(client) as contexts:
        for number in range(6):
            contexts.send(f"context {number}", " ")
        assert contexts.until_closed() == 1008
        (error,) = contexts.errors
        assert (error["error"], error["code"]) == ("max_active_conversations", 1008)
        assert error["contextId"] == "context 5"
        assert error["message"].startswith("this connection has 5 open contexts and 0 closed ones")


def test_contexts_that_are_closed_and_still_spoken_are_limited_too(client: TestClient) -> None:
    with connected(client) as contexts:
        for number in range(21):
            contexts.send(str(number), "x" * 900, flush=True)
            contexts.send(str(number), close_context=True)
        assert contexts.until_closed() == 1008
        assert contexts.errors[0]["message"].startswith("this connection has 0 open contexts and 20 closed ones")
    until(lambda: active(client) == 0)


def test_a_context_that_fails_leaves_the_others(client: TestClient) -> None:
    with connected(client) as contexts:
        contexts.send("good", "x" * 20)
        contexts.send("bad", "[raise@2] fails", flush=True)
        contexts.until_final("bad")
        (error,) = contexts.errors
        assert (error["contextId"], error["code"]) == ("bad", 1011)
        contexts.send("good", ".", flush=True)
        contexts.send("good", close_context=True)
        contexts.until_final("good")
        assert contexts.frames("good") == 21
        contexts.send("bad", "Better.", flush=True)  # the id is free again
        contexts.send("bad", close_context=True)
        contexts.final.clear()
        contexts.until_final("bad")


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("{", "the message is not JSON"),
        ('{"text": " ", "context_id": "a", "voice_settings": {"speed": 9}}', "voice_settings.speed"),
        ('{"text": " ", "context_id": ""}', "context_id"),
        ('{"text": " ", "context_id": "a", "pronunciation_dictionary_locators": [{}]}', "pronunciation_dictionary"),
    ],
)
def test_a_wrong_message_is_told_and_closes_the_connection(client: TestClient, message: str, name: str) -> None:
    with connected(client) as contexts:
        contexts.socket.send_text(message)
        assert contexts.until_closed() == 1008
        assert contexts.errors[0]["message"].startswith(name)


def test_a_client_that_leaves_frees_all_its_slots(client: TestClient) -> None:
    with connected(client) as contexts:
        for context in "abc":
            contexts.send(context, "x" * 900, flush=True)
        for context in "abc":
            contexts.until_audio(context)
        assert active(client) == 3
    until(lambda: active(client) == 0)


@pytest.mark.anyio
async def test_shutdown_completes_the_open_contexts(settings: Settings, run: Any, wait: Any) -> None:
    slow = settings.model_copy(update={"model_path": "fake:frame_seconds=0.01"})
    async with run(slow) as app:
        client = FakeClient(app, PATH, b"output_format=pcm_24000")
        client.send({"context_id": "a", "text": "x" * 30 + ". And its rest"})

        def sent() -> list[dict[str, Any]]:
            return [json.loads(each["text"]) for each in client.sent if each["type"] == "websocket.send"]

        await wait(sent)
        client.control.shutting_down.set()
        client.send({"context_id": "b", "text": "too late", "flush": True})
        await asyncio.wait_for(client.task, 60)
    assert sent()[-1]["isFinal"] is True
    assert {each["contextId"] for each in sent()} == {"a"}
    audio = b"".join(base64.b64decode(each["audio"] or "") for each in sent())
    assert len(audio) >= (31 + 12) * FRAME  # all that had been written
    assert client.sent[-1]["code"] == 1012
