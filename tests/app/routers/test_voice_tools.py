"""The requests that voice tools make, as their public code writes them, and what that code reads of the answers."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Any

import av
import httpx
import pytest

from app.settings import Settings

pytestmark = pytest.mark.anyio

TEXT = "Hello from a voice tool."
SECONDS = len(TEXT) * 0.08  # the fake engine's
BEARER = {"Authorization": "Bearer first-key", "Content-Type": "application/json"}
BUILT_IN = ("alloy", "ash", "coral", "echo", "fable", "nova", "onyx", "sage", "shimmer")  # in lists of these tools


@pytest.fixture
async def client(settings: Settings, run: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key."""
    async with (
        run(settings) as app,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client,
    ):
        yield client


async def speak(client: httpx.AsyncClient, path: str, body: dict[str, Any], headers: dict[str, str]) -> None:
    """Post a request as JSON, and check that it is answered with an mp3 of the text's length."""
    response = await client.post(path, json=body, headers=headers)
    assert (response.status_code, response.headers["Content-Type"]) == (200, "audio/mpeg"), response.text
    with av.open(io.BytesIO(response.content)) as file:
        assert file.format.name == "mp3"
        seconds = sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))
    assert seconds == pytest.approx(SECONDS, abs=0.2)


async def test_open_webui(client: httpx.AsyncClient) -> None:
    """backend/open_webui/routers/audio.py: speech, models and voices. It forwards what its page sent, and the user."""
    user = {"Name": "Amy", "Id": "1", "Email": "amy@example.com", "Role": "user"}
    headers = BEARER | {f"X-OpenWebUI-User-{name}": value for name, value in user.items()}
    await speak(client, "/v1/audio/speech", {"input": TEXT, "voice": "alloy", "model": "tts-1"}, headers)
    models = (await client.get("/v1/audio/models", headers=BEARER)).json()["models"]
    assert [each["id"] for each in models] != []
    voices = (await client.get("/v1/audio/voices", headers=BEARER)).json()["voices"]
    named = {each["id"]: each["name"] for each in voices}
    assert named["alloy"] == "alloy"
    for voice in named:
        await speak(client, "/v1/audio/speech", {"input": TEXT, "voice": voice, "model": "tts-1"}, headers)


async def test_open_webui_and_others_fall_back_to_names_that_are_voices(client: httpx.AsyncClient) -> None:
    """Most releases of Open WebUI ask for the lists without a key; OpenReader takes only lists of strings."""
    for path in ("/v1/audio/models", "/v1/audio/voices"):
        assert (await client.get(path)).status_code == 401
    for voice in BUILT_IN:
        await speak(client, "/v1/audio/speech", {"input": TEXT, "voice": voice, "model": "tts-1-hd"}, BEARER)


async def test_open_webui_shows_the_reason_of_a_failure(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/audio/speech", json={"input": TEXT, "voice": "nobody"}, headers=BEARER)
    assert response.status_code == 404
    assert "nobody" in response.json()["error"]["message"]


async def test_sillytavern(client: httpx.AsyncClient) -> None:
    """extensions/tts/openai-compatible.js, as its server passes it on: an endpoint, a model, a voice, a speed."""
    body = {"input": TEXT, "response_format": "mp3", "voice": "shimmer", "speed": 1, "model": "tts-1"}
    await speak(client, "/v1/audio/speech", body, BEARER)
    faster = await client.post("/v1/audio/speech", json=body | {"speed": 2.05}, headers=BEARER)
    assert faster.status_code == 200


async def test_openreader(client: httpx.AsyncClient) -> None:
    """src/lib/server/tts/generate.ts and src/app/api/tts/route.ts: OpenAI's client, with instructions and language."""
    body = {"model": "gpt-4o-mini-tts", "voice": "sage", "input": TEXT, "speed": 1, "response_format": "mp3"}
    await speak(client, "/v1/audio/speech", body | {"instructions": "Read calmly.", "language": "en"}, BEARER)
    response = await client.post("/v1/audio/speech", json=body | {"response_format": "aac"}, headers=BEARER)
    assert response.headers["Content-Type"] == "audio/aac"


async def test_librechat(client: httpx.AsyncClient) -> None:
    """api/server/services/Files/Audio/TTSService.js: its providers openai, localai and elevenlabs."""
    accept = {"Accept": "application/json, text/plain, */*"}
    for body in (
        {"input": TEXT, "model": "csm-1b", "voice": "nova", "backend": "csm"},
        {"input": TEXT, "model": "csm-1b"},
        {"input": TEXT, "model": "alloy", "backend": "csm"},  # localai: the voice is in `model`, and is not used
    ):
        await speak(client, "/v1/audio/speech", body, BEARER | accept)
    settings = {"similarity_boost": 0.75, "stability": 0.5, "style": 0.2, "use_speaker_boost": True}
    headers = {"xi-api-key": "first-key", "Content-Type": "application/json", "Accept": "audio/mpeg"}
    body = {"model_id": "eleven_turbo_v2_5", "text": TEXT, "voice_settings": settings}
    await speak(client, "/v1/text-to-speech/speaker_1/stream", body, headers)
