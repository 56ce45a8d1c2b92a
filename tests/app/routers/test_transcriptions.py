from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from app.audio.encoders.wav import wav_file
from app.settings import Settings
from app.stt.choice import NoTranscriber
from tests.app.realtime.harness import StubTranscriber, speech

pytestmark = pytest.mark.anyio

PATH = "/v1/audio/transcriptions"


@pytest.fixture
async def app(settings: Settings, run: Any) -> AsyncIterator[FastAPI]:
    async with run(settings.model_copy(update={"max_upload_mb": 1.0})) as app:
        app.state.realtime.transcriber = StubTranscriber("Words.")
        yield app


async def post(app: FastAPI, recording: bytes | None, **fields: str) -> httpx.Response:
    files = {"file": ("speech.wav", recording, "audio/wav")} if recording is not None else {"other": ("", b"x")}
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
        return await client.post(PATH, data=fields, files=files, headers={"Authorization": "Bearer first-key"})


RECORDING = wav_file(speech().astype(np.float32) / 32768)


async def test_a_recording_becomes_words_in_every_format(app: FastAPI) -> None:
    app.state.realtime.transcriber = heard = StubTranscriber("Words.", "Words.", "Words.", "Words.")
    as_json = await post(app, RECORDING, model="whisper-1", language="en", temperature="0")
    assert as_json.json() == {"text": "Words.", "usage": {"type": "duration", "seconds": 3}}
    assert as_json.headers["X-STT-Engine"] == heard.name
    assert (await post(app, RECORDING, response_format="text")).text == "Words.\n"
    verbose = (await post(app, RECORDING, response_format="verbose_json")).json()
    assert (verbose["text"], verbose["duration"]) == ("Words.", 3)
    events = (await post(app, RECORDING, stream="true")).text
    assert '"transcript.text.done", "text": "Words."' in events
    assert heard.heard == [3.0] * 4


async def test_short_and_silent_recordings(app: FastAPI) -> None:
    assert (await post(app, wav_file(speech()[:7200].astype(np.float32) / 32768))).json()["text"] == "Words."
    assert (await post(app, wav_file(np.zeros(48_000, np.float32)))).json()["text"] == ""
    assert app.state.realtime.transcriber.heard == [pytest.approx(0.3)]


@pytest.mark.parametrize(
    ("recording", "fields", "status", "code"),
    [
        (None, {}, 422, "no_file"),
        (b"no audio", {}, 415, "not_audio"),
        (RECORDING, {"response_format": "srt"}, 422, "invalid_parameter"),
        (wav_file(np.zeros(1_000_000, np.float32)), {}, 413, "too_large"),
    ],
)
async def test_what_cannot_be_used_is_refused(
    app: FastAPI, recording: bytes | None, fields: dict[str, str], status: int, code: str
) -> None:
    answer = await post(app, recording, **fields)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["error"]["message"] == answer.json()["detail"]


async def test_without_a_recogniser_the_answer_names_the_setting(app: FastAPI) -> None:
    app.state.realtime.transcriber = NoTranscriber()
    answer = await post(app, RECORDING)
    assert (answer.status_code, answer.json()["code"]) == (503, "stt_not_configured")
    assert "STT_BASE_URL" in answer.json()["detail"]
