"""A voice that comes with the request, on every route that takes one."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from app.main import create_app
from app.schemas.openai_speech import REFUSED_FIELDS
from app.settings import Settings
from tests.app.voices.http_server import answer, http_server
from tests.app.voices.recordings import recording

pytestmark = pytest.mark.anyio

AMY = recording(pitch=220.0)
AUDIO = base64.b64encode(AMY).decode()
REFERENCE = {"audio": f"data:audio/wav;base64,{AUDIO}", "transcript": "I am Amy."}


@asynccontextmanager
async def serving(run: Any, settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, Any]]:
    headers = {"X-API-Key": "first-key"}
    async with (
        run(settings) as app,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service", headers=headers) as client,
    ):
        yield client, app


async def test_a_recording_in_the_request_sounds_as_the_uploaded_voice_and_leaves_nothing(
    settings: Settings, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(run, settings) as (client, app):
        decoded = []
        decode = app.state.service.voices.decode
        cache = app.state.service.references._voices
        monkeypatch.setattr(cache, "_decode", lambda data: (decoded.append(data), decode(data))[1])
        body = {"text": "Hello.", "seed": 1, "format": "raw_pcm"}
        speech = {"input": "Hello.", "response_format": "pcm", "voice": "echo", "ref_audio": AUDIO}
        inline = await client.post("/tts/generate", json={**body, "reference": REFERENCE})
        same = await client.post(
            "/v1/audio/speech", json={**speech, "ref_text": "I am Amy.", "task_type": "Base", "language": "Auto"}
        )
        assert [inline.status_code, same.status_code] == [200, 200]
        assert decoded == [AMY]
        assert (await client.get("/voices")).json() == []
        assert {each.name for each in settings.voices_dir.iterdir() if each.is_file()} <= {".lock"}

        await client.post("/voices", files={"file": ("amy.wav", AMY)}, data={"transcript": "I am Amy."})
        uploaded = await client.post("/tts/generate", json={**body, "voice_id": "amy.wav"})
        default = await client.post("/tts/generate", json=body)
        without_text = await client.post("/v1/audio/speech", json=speech)
        assert inline.content == same.content == uploaded.content
        assert len({inline.content, default.content, without_text.content}) == 3  # the transcript is part of the voice


@pytest.mark.parametrize(
    ("reference", "status", "code", "expected"),
    [
        ({"audio": "https://example.org/a.wav"}, 422, "reference_url_refused", "'example.org', which REFERENCE_HOSTS"),
        ({"audio": " file:///etc/passwd"}, 422, "reference_url_refused", "send one of http: or https:"),
        ({"audio": ""}, 400, "undecodable_audio", "empty"),
        ({"audio": "no base64!"}, 400, "undecodable_audio", "not base64"),
        ({"audio": base64.b64encode(AMY[:60]).decode()}, 400, "undecodable_audio", "cannot be decoded"),
        ({"audio": base64.b64encode(b"plain text").decode()}, 415, "not_audio", "supported audio format"),
        ({"audio": base64.b64encode(AMY + bytes(1 << 20)).decode()}, 413, "too_large", "MAX_UPLOAD_MB"),
        ({"audio": base64.b64encode(bytes(8 << 20)).decode()}, 413, "too_large", "limit of this route"),
        ({"audio": base64.b64encode(recording(seconds=0.4)).decode()}, 422, "voice_too_short", "too short"),
        ({"audio": AUDIO, "transcript": "a" * 2001}, 422, "bad_transcript", "2001"),
    ],
)
async def test_a_recording_that_cannot_be_used_is_refused_as_an_upload_is(
    settings: Settings, run: Any, reference: dict[str, Any], status: int, code: str, expected: str
) -> None:
    async with serving(run, settings.model_copy(update={"max_upload_mb": 1.0})) as (client, _):
        openai = {"input": "Hi", "ref_audio": reference["audio"], "ref_text": reference.get("transcript")}
        for path, body in (
            ("/tts/generate", {"text": "Hi", "reference": reference}),
            ("/v1/audio/speech", openai),
        ):
            response = await client.post(path, json=body)
            assert (response.status_code, response.json()["code"]) == (status, code)
            assert expected in response.json()["detail"]


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/tts/generate", {"text": "Hi", "reference": REFERENCE, "voice_id": "speaker_1"}, "send one of them"),
        ("/tts/generate", {"text": "Hi", "reference": {"transcript": "Hi"}}, "it needs either audio"),
        ("/tts/generate", {"text": "Hi", "reference": {**REFERENCE, "url": "x"}}, "it needs either audio"),
        ("/tts/generate", {"text": "Hi", "reference": AUDIO}, "reference"),
        ("/tts/generate", {"text": "Hi", "reference": {"audio": "http://a", "url": "http://b"}}, "two recordings"),
        ("/v1/audio/speech", {"input": "Hi", "ref_audio": "http://" + "a" * 5000}, "more than 4096 characters"),
        ("/v1/audio/speech", {"input": "Hi", "ref_text": "Its words."}, "ref_audio, which is missing"),
        ("/v1/audio/speech", {"input": "Hi", "ref_audio": AUDIO, "task_type": "VoiceDesign"}, "task_type"),
        ("/v1/audio/speech", {"input": "Hi", "task_type": "Base"}, "task_type"),
        ("/tts/generate?reference=UklGRg", {"text": "Hi"}, "reference is in the query"),
        ("/generate", {"text": "Hi", "reference": REFERENCE}, "reference is not a parameter"),
    ],
)
async def test_what_is_ambiguous_or_incomplete_is_refused(
    settings: Settings, run: Any, path: str, body: dict[str, Any], expected: str
) -> None:
    async with serving(run, settings) as (client, _):
        response = await client.post(path, json=body)
        assert response.status_code == 422
        assert expected in response.json()["detail"]


async def test_fields_that_would_change_the_speech_are_refused_by_name_and_others_ignored(
    settings: Settings, run: Any
) -> None:
    async with serving(run, settings) as (client, _):
        for name in REFUSED_FIELDS:
            response = await client.post("/v1/audio/speech", json={"input": "Hi", name: "something"})
            assert response.status_code == 422
            assert response.json()["error"]["message"].startswith(f"{name} is not supported")
        for ignored in (dict.fromkeys(REFUSED_FIELDS), {"instructions": "Whisper.", "x_vector_only_mode": False}):
            assert (await client.post("/v1/audio/speech", json={"input": "Hi", **ignored})).status_code == 200


async def test_a_large_body_is_taken_only_where_a_recording_may_be(settings: Settings, run: Any) -> None:
    large = {"text": "Hi", "reference": {"audio": base64.b64encode(AMY + bytes(1 << 20)).decode()}}
    async with serving(run, settings) as (client, _):
        assert (await client.post("/tts/generate", json=large)).status_code == 200
        assert (await client.post("/generate", json=large)).status_code == 413


async def test_no_more_recordings_wait_than_the_limit(
    settings: Settings, run: Any, wait: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(run, settings) as (client, app):
        references = app.state.service.references
        body = {"text": "Hi", "reference": REFERENCE}
        assert (await client.post("/tts/generate", json=body)).status_code == 200
        async with references._decoding.reserve(references._decoding.capacity):
            monkeypatch.setattr(references._decoding, "_max_queued", 0)
            other = await client.post("/tts/generate", json={**body, "reference": {"audio": AUDIO}})
            assert (other.status_code, other.headers["Retry-After"]) == (429, "5")
            assert "recordings" in other.json()["detail"]
            assert (await client.post("/tts/generate", json=body)).status_code == 200  # known: it waits for no decoder


def test_the_voice_of_a_text_on_a_websocket(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"tts_normalize": "off"}))
    with TestClient(app, headers={"X-API-Key": "first-key"}) as client, client.websocket_connect("/ws") as socket:

        def speak(**message: Any) -> tuple[dict[str, Any], bytes]:
            socket.send_text(json.dumps({"binary": True, **message}))
            audio = b""
            while "text" not in (received := socket.receive()) or "audio_status" in received["text"]:
                audio += received.get("bytes") or b""
            return json.loads(received["text"]), audio

        while speak(text="Hi")[0].get("code") == "starting":
            pass
        end, audio = speak(text="Hello.", reference=REFERENCE)
        assert end["type"] == "completion"
        socket.send_text(json.dumps({"text": "Hello. ", "reference": REFERENCE, "continue": True, "binary": True}))
        assert speak(text="")[1] == audio  # of its first message
        assert speak(text="Hello.")[1] not in (b"", audio)
        for changes, code in (
            ({"reference": {"audio": "!"}}, "undecodable_audio"),
            ({"reference": {"audio": "https://example.org/a.wav"}}, "reference_url_refused"),
            ({"reference": REFERENCE, "voice_id": "speaker_0"}, "invalid_parameter"),
        ):
            assert speak(text="Hello.", **changes)[0]["code"] == code
        assert speak(text="Hello.", reference=REFERENCE)[1] == audio


async def test_a_recording_is_fetched_from_a_listed_host_alone(settings: Settings, run: Any) -> None:
    async with http_server({"/amy.wav": answer(AMY)}) as (port, requests):
        url = f"http://127.0.0.1:{port}/amy.wav?signature=1"
        listed = settings.model_copy(update={"reference_hosts": (f"127.0.0.1:{port}",)})
        async with serving(run, listed) as (client, _):
            body = {"text": "Hello.", "seed": 1, "format": "raw_pcm"}
            inline = await client.post("/tts/generate", json={**body, "reference": REFERENCE})
            named = {"url": url, "transcript": "I am Amy."}
            fetched = await client.post("/tts/generate", json={**body, "reference": named})
            speech = {"input": "Hello.", "response_format": "pcm", "ref_audio": f" {url} ", "ref_text": "I am Amy."}
            openai = await client.post("/v1/audio/speech", json=speech)
            assert inline.content == fetched.content
            assert openai.status_code == 200
            other = await client.post("/tts/generate", json={**body, "reference": {"url": "http://127.0.0.1/amy.wav"}})
            assert (other.status_code, other.json()["code"]) == (422, "reference_url_refused")
            assert "'127.0.0.1', which REFERENCE_HOSTS does not list" in other.json()["detail"]
            missing = await client.post("/tts/generate", json={**body, "reference": {"url": f"{url[:-12]}x"}})
            assert (missing.status_code, missing.json()["code"]) == (422, "reference_not_fetched")
            assert "answers with 404" in missing.json()["detail"]
        assert requests[0].startswith("GET /amy.wav?signature=1 HTTP/1.1")
        assert "first-key" not in "".join(requests)


async def test_no_more_recordings_are_fetched_than_the_limit(
    settings: Settings, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(run, settings) as (client, app):
        fetching = app.state.service.references._fetching
        async with fetching.reserve(fetching.capacity):
            monkeypatch.setattr(fetching, "_max_queued", 0)
            refused = await client.post("/tts/generate", json={"text": "Hi", "reference": {"url": "http://a/b"}})
            assert (refused.status_code, refused.headers["Retry-After"]) == (429, "5")
            assert "recordings are being fetched" in refused.json()["detail"]
