"""A recording that comes with the settings of a conversation, as its voice."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI

from app.settings import Settings
from engine import SpeechRequest, VoicePrompt
from tests.app.voices.recordings import recording

from .harness import RealtimeClient, StubTranscriber, talking

pytestmark = pytest.mark.anyio

AMY, BOB = (base64.b64encode(recording(pitch=pitch)).decode() for pitch in (220.0, 440.0))


@pytest.fixture
async def app(settings: Settings, run: Any) -> AsyncIterator[FastAPI]:
    async with run(settings) as app:
        app.state.realtime.transcriber = StubTranscriber()
        yield app


def voice(audio: str, transcript: str) -> dict[str, Any]:
    return {"output": {"voice": {"reference": {"audio": audio, "transcript": transcript}}}}


async def spoken(client: RealtimeClient, **response: Any) -> str:
    """Have one answer spoken. Returns its status."""
    client.say("Hi.")
    client.send("response.create", response=response)
    return str((await client.next("response.done"))["response"]["status"])


async def test_a_recording_is_the_voice_of_the_session_and_of_one_answer(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[SpeechRequest] = []
    engine = app.state.service.host.engine
    stream = engine.stream
    monkeypatch.setattr(engine, "stream", lambda request: (requests.append(request), stream(request))[1])

    def transcripts() -> list[str | None]:
        """Of the voices that were spoken with since the last call."""
        voices = [request.voice for request in requests]
        requests.clear()
        return [each.transcript if isinstance(each, VoicePrompt) else None for each in voices]

    async with talking(app, audio=voice(AMY, "I am Amy.")) as client:
        session = client.events[-1]["session"]
        assert session["audio"]["output"]["voice"] == ".reference"
        assert AMY[:100] not in json.dumps(client.events)
        assert await spoken(client) == "completed"
        assert transcripts() == ["I am Amy."]

        client.send("session.update", session={"instructions": "Be brief.", "audio": session["audio"]})
        await client.next("session.updated")  # with the settings that were sent back
        assert await spoken(client, audio=voice(BOB, "I am Bob.")) == "completed"
        assert await spoken(client, audio={"output": {"voice": "echo"}}) == "completed"
        assert await spoken(client) == "completed"
        bob, echo, amy = transcripts()
        assert (bob, amy) == ("I am Bob.", "I am Amy.")
        assert echo not in (bob, amy)

        client.send("session.update", session={"audio": {"output": {"voice": "alloy"}}})
        await client.next("session.updated")
        client.send("session.update", session={"audio": {"output": {"voice": ".reference"}}})
        assert "no recording was sent" in (await client.next("error"))["error"]["message"]


@pytest.mark.parametrize(
    ("sent", "code", "message"),
    [
        ({"reference": {"audio": "no base64!"}}, "undecodable_audio", "not base64"),
        ({"reference": {}}, "invalid_value", "audio.output.voice.reference: "),
        ({"reference": "UklGR"}, "invalid_value", "audio.output.voice.reference: "),
        ({"reference": {"audio": AMY}, "id": "alloy"}, "invalid_value", "either an id or a reference"),
        ({"reference": {"url": "http://10.0.0.1/a.wav"}}, "reference_url_refused", "REFERENCE_HOSTS"),
    ],
)
async def test_a_recording_that_cannot_be_used_leaves_the_session_as_it_is(
    app: FastAPI, sent: dict[str, Any], code: str, message: str
) -> None:
    async with talking(app) as client:
        client.send("session.update", session={"instructions": "Be brief.", "audio": {"output": {"voice": sent}}})
        error = (await client.next("error"))["error"]
        assert error["code"] == code
        assert message in error["message"]
        client.send("session.update", session={})
        session = (await client.next("session.updated"))["session"]
        assert (session["audio"]["output"]["voice"], session["instructions"] == "Be brief.") == ("alloy", False)
