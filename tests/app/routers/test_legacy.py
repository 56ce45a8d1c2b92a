from __future__ import annotations

import asyncio
import base64
import io
import json
import wave
from typing import Any

import httpx
import numpy as np
import pytest

from app.audio.watermark import embed
from app.settings import Settings
from app.watermark_key import PUBLIC_KEY

pytestmark = pytest.mark.anyio


def client_of(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://service", headers={"X-API-Key": "first-key"})


def samples_of(data: bytes) -> np.ndarray[Any, np.dtype[np.int16]]:
    """The samples of a wav file, whose header must hold its exact length."""
    assert int.from_bytes(data[4:8], "little") == len(data) - 8
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
        assert file.getnframes() * 2 == len(data) - 44
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


async def test_generate_returns_exactly_the_documented_fields(settings: Settings, run: Any) -> None:
    async with run(settings) as app, client_of(app) as client:
        body = {
            "text": "Hello.",
            "speaker_id": 2,
            "max_audio_length_ms": 240,
            "watermark": False,
            "watermark_key": [1, 2, 3, 4, 5],
            "temperature": 0.5,
            "topk": 10,
        }
        fields = (await client.post("/generate", json=body)).json()
        assert set(fields) == {"audio_base64", "sample_rate", "duration_ms", "processing_time_ms", "watermarked"}
        assert (fields["sample_rate"], fields["duration_ms"], fields["watermarked"]) == (24_000, 240, False)
        assert samples_of(base64.b64decode(fields["audio_base64"])).size == 3 * 1920
        wav = await client.post("/generate/wav", json=body)
        assert wav.headers["Content-Type"] == "audio/wav"
        assert wav.content == base64.b64decode(fields["audio_base64"])


async def test_watermarked_audio_is_reported_as_such(settings: Settings, run: Any) -> None:
    async with run(settings) as app, client_of(app) as client:
        plain, marked = [
            (await client.post("/generate", json={"text": "x" * 20, "watermark": requested})).json()
            for requested in (False, True)
        ]
        before, after = (samples_of(base64.b64decode(each["audio_base64"])) for each in (plain, marked))
        assert (plain["watermarked"], marked["watermarked"]) == (False, True)
        expected = embed((before / 32767).astype(np.float32), PUBLIC_KEY) * 32767
        assert np.abs(after - expected).max() <= 2
        assert (after != before).any()
    async with run(settings.model_copy(update={"csm_watermark_enabled": True})) as app, client_of(app) as client:
        always = (await client.post("/generate", json={"text": "x" * 20, "watermark": False})).json()
        assert always["watermarked"] is True
        assert always["audio_base64"] == marked["audio_base64"]


async def test_watermark_enabled_applies_to_every_route(settings: Settings, run: Any) -> None:
    async def fetch_audio() -> list[bytes]:
        async with client_of(app) as client:
            return [
                (await client.get("/tts/generate", params={"text": "x" * 20, "format": "raw_pcm"})).content,
                (await client.post("/generate/wav", json={"text": "x" * 20})).content,
                (await client.post("/api/generate", json={"text": "x" * 20})).content,
                (await client.post("/stream/chunks", json=["x" * 20])).content,
                (await client.post("/v1/audio/speech", json={"input": "x" * 20, "response_format": "pcm"})).content,
            ]

    async with run(settings) as app:
        plain = await fetch_audio()
    async with run(settings.model_copy(update={"csm_watermark_enabled": True})) as app:
        marked = await fetch_audio()
    assert all(a != b for a, b in zip(plain, marked, strict=True))
    assert len(plain[0]) == len(marked[0])


async def test_api_generate_returns_exactly_the_documented_fields(settings: Settings, run: Any) -> None:
    async with run(settings) as app, client_of(app) as client:
        body = {"text": "Hello there.", "voice": "speaker_3", "speed": 1.0}
        fields = (await client.post("/api/generate", json=body)).json()
        assert set(fields) == {"audio_data", "format", "sample_rate", "duration", "metadata"}
        assert (fields["format"], fields["sample_rate"], fields["duration"]) == ("wav", 24_000, 12 * 0.08)
        assert fields["metadata"] == {"model": "fake", "voice": "speaker_3", "speaker": 3, "streaming": True}
        fast = (await client.post("/api/generate", json={**body, "speed": 2})).json()
        assert fast["duration"] == 6 * 0.08
        assert samples_of(base64.b64decode(fast["audio_data"])).size == 6 * 1920


async def test_stream_chunks_returns_lines_in_order_and_continues_after_errors(settings: Settings, run: Any) -> None:
    async with run(settings) as app, client_of(app) as client:
        texts = ["Hello.", "", "[raise]", "x" * 5001, "Bye."]
        response = await client.post("/stream/chunks?speaker_id=1&watermark=false", json=texts)
        assert response.headers["Content-Type"] == "application/x-ndjson"
        lines = [json.loads(line) for line in response.text.splitlines()]
        assert [line["text"] for line in lines] == texts
        for line in (lines[0], lines[4]):
            assert set(line) == {"text", "audio_base64", "sample_rate"}
            assert samples_of(base64.b64decode(line["audio_base64"])).size == len(line["text"]) * 1920
        assert [line.get("code") for line in lines] == [None, "no_text", "engine_failed", "text_too_long", None]
        assert all(line["error"] for line in lines[1:4])


async def test_lines_are_sent_as_soon_as_they_are_ready(settings: Settings, run: Any, call: Any) -> None:
    async with run(settings) as app:
        body = json.dumps(["Hello.", "[hang]"]).encode()
        headers = ((b"x-api-key", b"first-key"), (b"content-type", b"application/json"))
        request = call(app, "/stream/chunks", method="POST", headers=headers, body=(body,))
        await request.until(lambda: len(request.sent) >= 2)
        assert json.loads(request.content)["text"] == "Hello."
        request.leave()
        await request.done()
        assert app.state.service.host.admission.active == 0


@pytest.mark.parametrize("path", ["/generate", "/generate/wav", "/api/generate"])
async def test_a_disconnect_frees_the_slot(settings: Settings, run: Any, call: Any, wait: Any, path: str) -> None:
    async with run(settings) as app:
        admission = app.state.service.host.admission
        headers = ((b"x-api-key", b"first-key"), (b"content-type", b"application/json"))
        request = call(app, path, method="POST", headers=headers, body=(b'{"text": "[hang]"}',))
        await wait(lambda: admission.active == 1)
        request.leave()
        await asyncio.wait({request.task})
        assert admission.active == 0


async def test_stream_chunks_on_a_busy_service_has_an_error_status(settings: Settings, run: Any) -> None:
    async with run(settings.model_copy(update={"max_queued_requests": 0})) as app, client_of(app) as client:
        async with (
            app.state.service.pool.dispatcher.dispatch(job_of("[hang]", app), None),
            app.state.service.pool.dispatcher.dispatch(job_of("[hang]", app), None),
        ):
            response = await client.post("/stream/chunks", json=["Hello."])
        assert (response.status_code, response.json()["code"]) == (429, "busy")


def job_of(text: str, app: Any) -> Any:
    from app.schemas.speech import SpeechParameters

    return SpeechParameters(text=text).to_job(app.state.service.settings)


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/generate", {}, "text is missing"),
        ("/generate", {"text": " "}, "text"),
        ("/generate", {"text": "Hi", "speaker_id": 1000}, "speaker_id"),
        ("/generate", {"text": "Hi", "topk": 0}, "topk"),
        ("/generate", {"text": "Hi", "temperature": 3}, "temperature"),
        ("/generate", {"text": "Hi", "watermark_key": [1]}, "watermark_key"),
        ("/generate", {"text": "Hi", "context": []}, "context is not a parameter"),
        ("/generate/wav", {"text": "x" * 5001}, "5001 characters"),
        ("/api/generate", {"text": "Hi", "speed": 0.1}, "speed"),
        ("/api/generate", {"text": "Hi", "speed": 5}, "speed"),
        ("/stream/chunks", [], "at least 1"),
        ("/stream/chunks", ["x"] * 1001, "at most 1000"),
        ("/stream/chunks", "text", "list"),
        ("/stream/chunks", [5], "string"),
        ("/stream/chunks?speaker_id=-1", ["Hi"], "speaker_id"),
    ],
)
async def test_invalid_requests_are_explained(
    settings: Settings, run: Any, path: str, body: Any, expected: str
) -> None:
    async with run(settings) as app, client_of(app) as client:
        response = await client.post(path, json=body)
        assert response.status_code == 422
        assert expected in response.json()["detail"]
        assert set(response.json()) == {"detail", "code"}


async def test_an_unknown_voice_is_404(settings: Settings, run: Any) -> None:
    async with run(settings) as app, client_of(app) as client:
        response = await client.post("/api/generate", json={"text": "Hi", "voice": "nobody"})
        assert (response.status_code, response.json()["code"]) == (404, "unknown_voice")
