from __future__ import annotations

import io
import json
import wave
from typing import Any

import httpx
import numpy as np
import pytest

from app.audio.encoders.pcm import to_int16
from app.settings import Settings
from engine import SpeechRequest
from engine.fake_stream import tone

pytestmark = pytest.mark.anyio


def client_of(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://service", headers={"X-API-Key": "second-key"})


async def test_query_and_body_are_equivalent(settings: Settings, run: Any) -> None:
    async with run(settings) as app, client_of(app) as client:
        parameters = {"text": "Hello.", "seed": 1, "format": "raw_pcm", "chunk_overlap_strategy": "zero"}
        response = await client.get("/tts/generate", params=parameters)
        assert response.status_code == 200
        assert len(response.content) == 6 * 3840
        assert (await client.post("/tts/generate", json=parameters)).content == response.content


async def test_the_format_is_selected_by_name_or_accept(settings: Settings, run: Any) -> None:
    async with run(settings) as app, client_of(app) as client:
        for headers, query, media_type in (
            ({}, {}, "audio/wav"),
            ({"Accept": "audio/flac"}, {}, "audio/flac"),
            ({"Accept": "audio/flac"}, {"format": "wav"}, "audio/wav"),
        ):
            response = await client.get("/tts/generate", params={"text": "Hi", **query}, headers=headers)
            assert response.headers["Content-Type"] == media_type


@pytest.mark.parametrize(
    ("parameters", "status", "code", "expected"),
    [
        ({}, 422, "invalid_parameter", "text is missing"),
        ({"text": "  "}, 422, "invalid_parameter", "text"),
        ({"text": "x" * 5001}, 422, "text_too_long", "5001 characters"),
        ({"text": "Hi", "top_k": 0}, 422, "invalid_parameter", "top_k"),
        ({"text": "Hi", "synthesis_temperature": "nan"}, 422, "invalid_parameter", "synthesis_temperature"),
        ({"text": "Hi", "speed": 2}, 422, "invalid_parameter", "speed is not a parameter"),
        ({"text": "Hi", "chunk_overlap_method": "some"}, 422, "invalid_parameter", "'some'"),
        ({"text": "Hi", "max_audio_length_ms": 79}, 422, "invalid_parameter", "or 0 for no limit"),
        ({"text": "<speak>a <prosody/></speak>"}, 422, "invalid_markup", "<prosody> is not supported"),
        ({"text": "Hi [pause:1h]"}, 422, "invalid_markup", "[pause:1h]"),
        ({"text": "\U0001f44d", "normalize": True}, 422, "no_words", "no words"),
        ({"text": "Hi", "format": "midi"}, 400, "unknown_format", "midi"),
        ({"text": "Hi", "voice_id": "nobody"}, 404, "unknown_voice", "nobody"),
        ({"text": "Hi", "voice_id": "../secret"}, 404, "unknown_voice", "secret"),
        ({"text": "Hi", "voice_id": "speaker_1000"}, 404, "unknown_voice", "speaker_1000"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_invalid_requests_are_explained(
    settings: Settings, run: Any, method: str, parameters: dict[str, Any], status: int, code: str, expected: str
) -> None:
    async with run(settings) as app, client_of(app) as client:
        arguments: dict[str, Any] = {"params": parameters} if method == "GET" else {"json": parameters}
        response = await client.request(method, "/tts/generate", **arguments)
        assert response.status_code == status
        assert response.json()["code"] == code
        assert expected in response.json()["detail"]
        assert set(response.json()) == {"detail", "code"}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b'{"text": "\\ud800"}', b'{"text": NaN}'])
async def test_an_invalid_body_is_explained(settings: Settings, run: Any, body: bytes) -> None:
    async with run(settings) as app, client_of(app) as client:
        response = await client.post("/tts/generate", content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 422
        assert response.json()["code"] == "invalid_parameter"


async def test_an_undecodable_body_is_a_bad_request(settings: Settings, run: Any) -> None:
    async with run(settings) as app, client_of(app) as client:
        response = await client.post("/tts/generate", content=b"\xff", headers={"Content-Type": "application/json"})
        assert (response.status_code, response.json()["code"]) == (400, "bad_request")


async def test_a_missing_json_content_type_is_explained(settings: Settings, run: Any) -> None:
    async with run(settings) as app, client_of(app) as client:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        response = await client.post("/tts/generate", content=json.dumps({"text": "Hi"}), headers=headers)
        assert response.status_code == 422
        assert "Content-Type: application/json" in response.json()["detail"]


async def test_post_rejects_query_parameters(settings: Settings, run: Any) -> None:
    async with run(settings) as app, client_of(app) as client:
        response = await client.post("/tts/generate?voice_id=amy", json={"text": "Hi"})
        assert response.status_code == 422
        assert "voice_id is in the query" in response.json()["detail"]
        assert (await client.post("/tts/generate?api_key=second-key", json={"text": "Hi"})).status_code == 200


async def test_guidance_needs_two_slots(settings: Settings, run: Any) -> None:
    async with run(settings.model_copy(update={"concurrent_requests_per_worker": 1})) as app, client_of(app) as client:
        response = await client.get("/tts/generate", params={"text": "Hi", "cfg_guidance_weight": 1})
        assert response.status_code == 422
        assert response.json()["code"] == "too_many_slots"


async def test_a_busy_service_sends_retry_after(settings: Settings, run: Any) -> None:
    async with run(settings.model_copy(update={"max_queued_requests": 0})) as app, client_of(app) as client:
        admission = app.state.service.host.admission
        async with admission.reserve(2):
            response = await client.get("/tts/generate", params={"text": "Hi"})
        assert response.status_code == 429
        assert int(response.headers["Retry-After"]) > 0
        # rejected before a slot is requested
        async with admission.reserve(2):
            assert (await client.get("/tts/generate", params={"text": "Hi", "top_k": 0})).status_code == 422


async def test_unknown_routes_have_the_same_error_format(settings: Settings, run: Any) -> None:
    async with run(settings) as app, client_of(app) as client:
        missing, wrong = await client.get("/nothing"), await client.delete("/tts/generate")
        assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
        assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")


async def test_partial_ranges_are_rejected(settings: Settings, run: Any) -> None:
    async with run(settings) as app, client_of(app) as client:
        for requested_range, status in (("bytes=0-", 200), ("bytes=65324-", 400), ("bytes=10-20", 400)):
            response = await client.get("/tts/generate", params={"text": "Hi"}, headers={"Range": requested_range})
            assert response.status_code == status
        assert response.json()["code"] == "no_ranges"


async def test_cors_allows_any_origin_without_credentials(settings: Settings, run: Any) -> None:
    async with run(settings) as app, client_of(app) as client:
        preflight_headers = {"Origin": "http://page", "Access-Control-Request-Method": "POST"}
        preflight = await client.options("/tts/generate", headers={**preflight_headers, "X-API-Key": ""})
        assert preflight.status_code == 200
        assert preflight.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in preflight.headers


@pytest.mark.parametrize("overlap", ["full", "zero"])
async def test_pauses_are_exact_silence_between_chunks_of_speech(settings: Settings, run: Any, overlap: str) -> None:
    def audio(*parts: int | tuple[int, int]) -> bytes:
        """Samples of silence, and the fake engine's tone from one frame to another."""
        request = SpeechRequest("x")
        samples = [
            np.zeros(part, np.float32) if isinstance(part, int) else tone(request, part[0], part[1] - part[0])
            for part in parts
        ]
        return to_int16(np.concatenate(samples)).astype("<i2").tobytes()

    text = "[pause:250ms]One.[pause:500ms]<speak>Two<break time='1s'/>three</speak>[pause:1ms]"
    expected = audio(6000, (0, 4), 12_000, (4, 7), 24_000, (7, 12), 24)
    parameters = {"text": text, "format": "raw_pcm", "seed": 3, "chunk_overlap_method": overlap}
    async with run(settings) as app, client_of(app) as client:
        for limit, size in ((0, len(expected)), (800, 2 * 24 * 800), (80, 2 * 24 * 80)):
            response = await client.post("/tts/generate", json={**parameters, "max_audio_length_ms": limit})
            assert response.content == expected[:size]
        silence = await client.post("/tts/generate", json={"text": "[pause:100ms]", "format": "raw_pcm"})
        assert (silence.status_code, silence.content) == (200, bytes(4800))
        assert app.state.service.host.engine.status().active == 0


async def test_a_wav_of_a_text_with_pauses_has_their_length(settings: Settings, run: Any) -> None:
    async with run(settings) as app, client_of(app) as client:
        body = {"text": "One. [pause:500ms] Two.", "speaker_id": 1}
        response = await client.post("/generate/wav", json=body)
        with wave.open(io.BytesIO(response.content)) as file:
            assert file.getnframes() == 8 * 1920 + 12_000
        response = await client.post("/v1/audio/speech", json={"input": body["text"], "response_format": "pcm"})
        assert len(response.content) == 2 * (8 * 1920 + 12_000)


async def test_the_lexicon_of_the_service_and_of_the_request(settings: Settings, run: Any, tmp_path: Any) -> None:
    file = tmp_path / "lexicon.txt"
    file.write_text("sql = sequel\ngif = jif\n", encoding="utf-8")
    changed = settings.model_copy(update={"lexicon": file})
    async with run(changed) as app, client_of(app) as client:

        async def frames(text: str, **parameters: Any) -> float:
            body = {"text": text, "format": "raw_pcm", **parameters}
            return len((await client.post("/tts/generate", json=body)).content) / 3840

        assert await frames("SQL GIF") == len("sequel jif")
        assert await frames("SQL GIF", lexicon={"sql": "S Q L"}) == len("S Q L jif")
        file.write_text("sql = a long word\n", encoding="utf-8")
        assert await frames("SQL GIF") == len("a long word GIF")
        response = await client.get("/tts/generate", params={"text": "Hi", "lexicon": "{}"})
        assert response.status_code == 422
