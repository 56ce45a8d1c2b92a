"""A client of the Realtime protocol on an application in this process, and stubs of what the service calls."""

from __future__ import annotations

import asyncio
import base64
import json
import wave
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import FastAPI

from app.llm.language_model import Answer, ChatRequest, Finished, TextDelta
from app.websocket.socket_control import SocketControl

Event = dict[str, Any]
Pcm = npt.NDArray[np.int16]
RECORDING = Path(__file__).resolve().parents[3] / "models" / "csm-mini" / "voices" / "anna.wav"


def speech() -> Pcm:
    """Three seconds of a recorded voice, int16 at 24 kHz."""
    with wave.open(str(RECORDING)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
        pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    loud = np.flatnonzero(np.abs(pcm) > 1000)
    return pcm[loud[0] : loud[0] + 72_000]


def silence(seconds: float) -> Pcm:
    return np.zeros(int(seconds * 24_000), np.int16)


def encoded(pcm: Pcm) -> str:
    return base64.b64encode(pcm.astype("<i2").tobytes()).decode()


class StubModel:
    """A language model that answers what it is told, and keeps its requests."""

    name = "stub"

    def __init__(self, *answers: list[Answer | Exception]) -> None:
        self.requests: list[ChatRequest] = []
        self.answers = list(answers)
        self.closed = 0  # answers that ended, in whichever way

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Answer, None]:
        self.requests.append(request)
        try:
            for piece in self.answers.pop(0) if self.answers else [TextDelta("Yes."), Finished()]:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            self.closed += 1

    async def close(self) -> None:
        pass


class StubTranscriber:
    """A recogniser that hears what it is told, and keeps the lengths of its recordings in seconds."""

    name = "stub"

    def __init__(self, *words: str | Exception) -> None:
        self.words = list(words)
        self.heard: list[float] = []

    async def transcribe(self, samples: Any, language: str | None = None, prompt: str | None = None) -> str:
        self.heard.append(samples.size / 24_000)
        words = self.words.pop(0) if self.words else "Hello."
        if isinstance(words, Exception):
            raise words
        return words

    async def close(self) -> None:
        pass


class RealtimeClient:
    """Sends and reads the events of one connection."""

    def __init__(
        self, app: FastAPI, subprotocols: tuple[str, ...] = (), headers: Any = None, path: str = "/v1/realtime"
    ) -> None:
        self.events: list[Event] = []
        self.messages: list[dict[str, Any]] = []  # of ASGI
        self.control = SocketControl()
        self.gone = False  # without a word: what is sent to it fails
        self._changed = asyncio.Event()
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._inbox.put_nowait({"type": "websocket.connect"})
        self._seen = 0
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "path": path,
            "query_string": b"model=gpt-realtime",
            "headers": [(b"authorization", b"Bearer first-key")] if headers is None else headers,
            "subprotocols": list(subprotocols),
            "extensions": {"websocket.http.response": {}},
            "state": {"socket_control": self.control},
        }
        self.task = asyncio.create_task(app(scope, self._inbox.get, self._take))
        self.task.add_done_callback(lambda task: self._changed.set())

    async def _take(self, message: dict[str, Any]) -> None:
        if self.gone and message["type"] == "websocket.send":
            raise OSError("the connection is gone")
        self.messages.append(message)
        if message["type"] == "websocket.send":
            self.events.append(json.loads(message["text"]))
        self._changed.set()

    def send(self, kind: str, **fields: Any) -> None:
        self.send_text(json.dumps({"type": kind, **fields}))

    def send_text(self, text: str) -> None:
        self._inbox.put_nowait({"type": "websocket.receive", "text": text})

    def say(self, text: str) -> None:
        """Add a typed message of the user."""
        part = {"type": "input_text", "text": text}
        self.send("conversation.item.create", item={"type": "message", "role": "user", "content": [part]})

    def hear(self, pcm: Pcm, milliseconds: int = 40) -> None:
        """Append audio in pieces, as a microphone does."""
        step = milliseconds * 24
        for start in range(0, len(pcm), step):
            self.send("input_audio_buffer.append", audio=encoded(pcm[start : start + step]))

    async def next(self, kind: str, **fields: Any) -> Event:
        """The next event of a type, after the one returned before."""
        while True:
            while self._seen < len(self.events):
                event = self.events[self._seen]
                self._seen += 1
                if event["type"] == kind and all(event.get(name) == value for name, value in fields.items()):
                    return event
            assert not self.task.done(), (self.messages[-1], self.task.exception())
            self._changed.clear()
            await self._changed.wait()

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    def audio(self) -> Pcm:
        """All audio that was received, of 16-bit PCM."""
        data = b"".join(
            base64.b64decode(event["delta"]) for event in self.events if event["type"] == "response.output_audio.delta"
        )
        return np.frombuffer(data, "<i2")

    async def leave(self) -> None:
        self._inbox.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await self.task


@asynccontextmanager
async def talking(app: FastAPI, **session: Any) -> AsyncIterator[RealtimeClient]:
    """A client whose session is created, and updated with fields of it."""
    client = RealtimeClient(app)
    await client.next("session.created")
    if session:
        client.send("session.update", session={"type": "realtime", **session})
        await client.next("session.updated")
    try:
        yield client
    finally:
        if not client.task.done():
            await client.leave()
