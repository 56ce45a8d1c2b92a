"""A call over Twilio's Media Streams on the fake engine: messages in the order and form of Twilio's documentation."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI

from app.audio.encoders.g711 import G711Encoder
from app.audio.g711_decoder import decode_g711
from app.audio.rate_converter import RateConverter
from app.llm.language_model import Finished, TextDelta
from app.settings import Settings

from .harness import RealtimeClient, StubModel, StubTranscriber, silence, speech

pytestmark = pytest.mark.anyio

STREAM = "MZXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX"
FRAME = 160  # bytes of 20 ms, as Twilio sends them


def mulaw(pcm: Any) -> bytes:
    """int16 at 24 kHz as a telephone carries it."""
    encoder, converter = G711Encoder("mulaw", 8000), RateConverter(24_000, 8000)
    samples = converter.push(pcm.astype(np.float32) / 32768)
    return encoder.encode(samples) + encoder.flush()


class Call(RealtimeClient):
    """Twilio's side. Its events are the service's messages, with `event` as their type."""

    def __init__(self, app: FastAPI, headers: Any = None) -> None:
        super().__init__(app, headers=headers, path="/twilio")
        self._sequence = 0

    async def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "websocket.send":
            body = json.loads(message["text"])
            message = {**message, "text": json.dumps({"type": body["event"], **body})}
        await super()._take(message)

    def tell(self, event: str, **fields: Any) -> None:
        if event != "connected":
            self._sequence += 1
            fields = {"sequenceNumber": str(self._sequence), "streamSid": STREAM, **fields}
        self.send_text(json.dumps({"event": event, **fields}))

    def start(self, encoding: str = "audio/x-mulaw", **parameters: str) -> None:
        self.tell("connected", protocol="Call", version="1.0.0")
        self.tell(
            "start",
            start={
                "accountSid": "ACXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX",
                "streamSid": STREAM,
                "callSid": "CAXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX",
                "tracks": ["inbound"],
                "mediaFormat": {"encoding": encoding, "sampleRate": 8000, "channels": 1},
                "customParameters": parameters,
            },
        )

    def speak(self, seconds: float = 1.5) -> None:
        """The caller speaks, then is silent."""
        audio = mulaw(np.concatenate([speech()[: int(seconds * 24_000)], silence(1.0)]))
        for chunk, begin in enumerate(range(0, len(audio), FRAME)):
            payload = base64.b64encode(audio[begin : begin + FRAME]).decode()
            media = {"track": "inbound", "chunk": str(chunk + 1), "timestamp": str(20 * chunk), "payload": payload}
            self.tell("media", media=media)

    def heard(self) -> Any:
        data = b"".join(base64.b64decode(each["media"]["payload"]) for each in self.events if each["type"] == "media")
        return decode_g711(data, "mulaw")

    async def closed(self) -> tuple[int, str]:
        async with asyncio.timeout(20):
            await self.task
        last = self.messages[-1]
        assert last["type"] == "websocket.close"
        return last["code"], last["reason"]


@pytest.fixture
async def app(settings: Settings, run: Any) -> AsyncIterator[FastAPI]:
    async with run(settings) as app:
        app.state.realtime.transcriber = StubTranscriber()
        yield app


@asynccontextmanager
async def calling(app: FastAPI, **parameters: str) -> AsyncIterator[Call]:
    call = Call(app)
    call.start(**parameters)
    try:
        yield call
    finally:
        if not call.task.done():
            await call.leave()


async def test_a_call_is_answered_in_mulaw_and_ends_with_stop(app: FastAPI) -> None:
    model = app.state.realtime.language_model = StubModel([TextDelta("Good morning."), Finished()])
    async with calling(app, voice="speaker_1", instructions="You answer the telephone.") as call:
        call.tell("dtmf", dtmf={"track": "inbound_track", "digit": "1"})
        call.speak()
        mark = await call.next("mark")
        call.tell("mark", mark=mark["mark"])
        call.tell("stop", stop={"accountSid": "AC", "callSid": "CA"})
        assert await call.closed() == (1000, "")
    assert {each["type"] for each in call.events} == {"media", "mark"}
    assert {each["streamSid"] for each in call.events} == {STREAM}
    audio = call.heard()
    assert audio.size == pytest.approx(len("Good morning.") * 640, abs=200)  # 80 ms a character at 8 kHz
    assert np.abs(audio).max() > 5000
    assert model.requests[0].messages[0]["content"].startswith("You answer the telephone.")
    assert app.state.realtime.transcriber.heard[0] > 1.2
    assert app.state.realtime.sessions == 0


async def test_a_caller_who_speaks_into_an_answer_clears_what_twilio_has_buffered(app: FastAPI) -> None:
    """The first answer was sent whole, and its mark has not come back: the caller still hears it."""
    app.state.realtime.language_model = StubModel([TextDelta("A long answer."), Finished()])
    async with calling(app) as call:
        call.speak()
        await call.next("mark")
        call.speak()
        await call.next("clear")
        mark = await call.next("mark")  # of the second answer
        call.tell("mark", mark=mark["mark"])
        call.speak()
        await call.next("mark")
    assert [each["type"] for each in call.events].count("clear") == 1  # the second had been heard to its end


@pytest.mark.parametrize(
    ("parameters", "code"),
    [({"encoding": "audio/opus"}, "invalid_message"), ({"voice": "nobody"}, "unknown_voice")],
)
async def test_a_call_that_cannot_be_served_is_closed_with_the_reason(
    app: FastAPI, parameters: dict[str, str], code: str
) -> None:
    async with calling(app, **parameters) as call:
        assert await call.closed() == (1008, code)


async def test_media_before_the_start_and_what_is_no_message_end_the_call(app: FastAPI) -> None:
    for text, code in (
        ('{"event": "media", "media": {"payload": ""}}', "not_started"),
        ("no JSON", "invalid_json"),
        ("[]", "invalid_message"),
    ):
        call = Call(app)
        call.send_text(text)
        assert await call.closed() == (1008, code)


async def test_a_call_needs_the_key(app: FastAPI) -> None:
    call = Call(app, headers=[])
    async with asyncio.timeout(20):
        await call.task
    assert call.messages[0]["status"] == 401
