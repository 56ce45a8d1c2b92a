"""OpenAI's official client against the service."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import urllib.request
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import openai
import pytest

from tests.app.voices.recordings import recording
from tests.integration.shared import KEY, Server, serving

TEXT = "x" * 50  # four seconds of the fake engine's audio


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("openai")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(folder, MODEL_PATH="fake:frame_seconds=0.01") as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=KEY, base_url=f"{server.url}/v1", max_retries=0) as client:
        yield client


def seconds_of(data: bytes, format_name: str) -> float:
    if format_name == "pcm":
        return len(data) / 48_000
    with av.open(io.BytesIO(data)) as file:
        return sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))


@pytest.mark.parametrize("format_name", ["mp3", "opus", "aac", "flac", "wav", "pcm"])
def test_every_format_contains_the_whole_speech(client: openai.OpenAI, format_name: Any) -> None:
    response = client.audio.speech.create(model="tts-1", voice="alloy", input=TEXT, response_format=format_name)
    assert seconds_of(response.content, format_name) == pytest.approx(4, abs=0.2)


def test_the_default_format_is_mp3(client: openai.OpenAI) -> None:
    response = client.audio.speech.create(
        model="gpt-4o-mini-tts", voice="nova", input=TEXT, instructions="Speak as a pirate does."
    )
    assert response.response.headers["Content-Type"] == "audio/mpeg"


def test_the_formats_of_telephony_need_only_their_names(client: openai.OpenAI) -> None:
    parameters: dict[str, Any] = {"model": "tts-1", "voice": "alloy", "input": TEXT}
    spoken = client.audio.speech.create(**parameters, response_format="mulaw")  # type: ignore[call-overload]
    assert spoken.response.headers["X-Sample-Rate"] == "8000"
    assert len(spoken.content) == 4 * 8_000
    spoken = client.audio.speech.create(**parameters, response_format="pcm", extra_body={"sample_rate": 16_000})
    assert (spoken.response.headers["X-Sample-Rate"], len(spoken.content)) == ("16000", 2 * 4 * 16_000)


@pytest.mark.parametrize("speed", [0.25, 0.5, 1.5, 4.0])
def test_speed_changes_the_length(client: openai.OpenAI, speed: float) -> None:
    response = client.audio.speech.create(model="tts-1", voice="alloy", input=TEXT, response_format="pcm", speed=speed)
    assert len(response.content) // 2 == round(50 * 1920 / speed)


def test_audio_is_streamed_while_it_is_generated(server: Server, client: openai.OpenAI) -> None:
    def ended() -> bool:
        return "audio_seconds=11" in server.log  # the log line of this request

    with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input="x" * 140, response_format="pcm"
    ) as response:
        parts = response.iter_bytes(3840)
        assert next(parts)
        assert not ended()
        assert sum(map(len, parts)) == 139 * 3840
    server.wait_until(ended)


def test_the_async_client_streams_too(server: Server) -> None:
    async def stream() -> int:
        async with (
            openai.AsyncOpenAI(api_key=KEY, base_url=f"{server.url}/v1") as client,
            client.audio.speech.with_streaming_response.create(
                model="tts-1", voice="shimmer", input=TEXT, response_format="pcm"
            ) as response,
        ):
            return sum([len(part) async for part in response.iter_bytes()])

    assert asyncio.run(stream()) == 50 * 3840


@pytest.mark.parametrize("format_name", ["pcm", "wav"])
def test_sse_carries_the_same_audio(client: openai.OpenAI, format_name: Any) -> None:
    parameters: dict[str, Any] = {"model": "tts-1", "voice": "alloy", "input": TEXT, "response_format": format_name}
    plain = client.audio.speech.create(**parameters).content
    with client.audio.speech.with_streaming_response.create(**parameters, stream_format="sse") as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        events = [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line]
    *deltas, done = events
    assert len(deltas) > 1
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    assert b"".join(base64.b64decode(event["audio"]) for event in deltas) == plain
    assert done == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 50, "output_tokens": 50, "total_tokens": 100},
    }


def test_openai_voices_map_to_speakers(client: openai.OpenAI) -> None:
    def speak(voice: Any) -> bytes:
        return client.audio.speech.create(model="tts-1", voice=voice, input="Hi", response_format="pcm").content

    assert speak("alloy") == speak("speaker_0") == speak("Alloy")
    assert speak("nova") == speak("speaker_4")
    assert len({speak(name) for name in ("alloy", "echo", "fable", "onyx", "nova", "shimmer")}) == 6


def test_a_recording_overrides_an_openai_voice(folder: Path, client: openai.OpenAI) -> None:
    def speak() -> bytes:
        return client.audio.speech.create(model="tts-1", voice="coral", input="Hi", response_format="pcm").content

    before = speak()
    recording = io.BytesIO()
    with wave.open(recording, "wb") as file:
        file.setparams((1, 2, 24_000, 0, "NONE", ""))
        file.writeframes(b"\0\x10\0\xf0" * 24_000)
    (folder / "voices" / "coral.wav").write_bytes(recording.getvalue())
    assert speak() != before
    (folder / "voices" / "coral.wav").unlink()
    assert speak() == before


def test_voices_and_models_are_listed(server: Server, client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id) == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-2")
    request = urllib.request.Request(f"{server.url}/v1/audio/voices", headers={"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request) as response:
        listed = json.load(response)
    assert listed["data"] == listed["voices"]
    assert {"id": "alloy", "name": "alloy"} in listed["voices"]
    request = urllib.request.Request(f"{server.url}/v1/audio/models", headers={"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request) as response:
        models = json.load(response)
    assert models["data"] == models["models"]
    assert [each["id"] for each in models["data"]] == [model.id]


def test_voices_are_named_without_their_extension_where_that_is_clear(
    server: Server, folder: Path, client: openai.OpenAI
) -> None:
    names = ("dora.wav", "eve.wav", "eve.v2.wav", "nova.wav")
    for name in names:
        (folder / "voices" / name).write_bytes(recording(pitch=100.0 * len(name)))
    (folder / "voices" / "eve.mp3").write_bytes(recording("mp3"))
    request = urllib.request.Request(f"{server.url}/v1/audio/voices", headers={"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request) as response:
        voices = json.load(response)["voices"]
    ids = {each["id"]: each["name"] for each in voices}
    assert len(ids) == len(voices)
    assert "nova" not in ids  # a recording precedes the voice of OpenAI's that it hides
    listed = {each: ids[each] for each in (*names, "eve.mp3")}
    assert listed == {
        "dora.wav": "dora",
        "eve.v2.wav": "eve.v2",
        "nova.wav": "nova",
        "eve.wav": "eve.wav",  # "eve" could be either
        "eve.mp3": "eve.mp3",
    }
    for voice_id, name in listed.items():
        spoken = [
            client.audio.speech.create(model="tts-1", voice=voice, input="Hi", response_format="pcm").content
            for voice in (voice_id, name)
        ]
        assert spoken[0] == spoken[1]
    for voice_id in listed:
        (folder / "voices" / voice_id).unlink()


@pytest.mark.parametrize(
    ("changes", "kind", "code"),
    [
        ({"input": " "}, openai.UnprocessableEntityError, "invalid_parameter"),
        ({"input": "x" * 5001}, openai.UnprocessableEntityError, "text_too_long"),
        ({"speed": 5}, openai.UnprocessableEntityError, "invalid_parameter"),
        ({"response_format": "midi"}, openai.BadRequestError, "unknown_format"),
        ({"voice": "nobody"}, openai.NotFoundError, "unknown_voice"),
        ({"input": "[raise]"}, openai.InternalServerError, "engine_failed"),
    ],
)
def test_errors_map_to_the_clients_exceptions(
    client: openai.OpenAI, changes: dict[str, Any], kind: type[openai.APIStatusError], code: str
) -> None:
    with pytest.raises(kind) as caught:
        client.audio.speech.create(**{"model": "tts-1", "voice": "alloy", "input": "Hi", **changes})
    assert caught.value.code == code
    body = caught.value.response.json()
    assert set(body) == {"detail", "code", "error"}
    assert body["error"]["message"] == body["detail"]


def test_a_wrong_key_is_an_authentication_error(server: Server) -> None:
    with openai.OpenAI(api_key="wrong", base_url=f"{server.url}/v1", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.audio.speech.create(model="tts-1", voice="alloy", input="Hi")
        assert caught.value.response.json()["detail"] == "Invalid or missing API Key"


def test_a_broken_stream_raises_in_the_client(client: openai.OpenAI) -> None:
    with (
        client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="alloy", input="[raise@9]" + TEXT, response_format="pcm"
        ) as response,
        pytest.raises(Exception, match=r"(?i)peer closed|incomplete|disconnect|connection"),
    ):
        response.read()
