from __future__ import annotations

import anyio
import httpx
import pytest
from csm_serve_client import Busy, StreamCut

from tests.client.service import StreamBody, async_client, refused, streamed

pytestmark = pytest.mark.anyio


async def test_speech_is_returned_whole_or_streamed() -> None:
    async with async_client(lambda request: streamed(b"one", b"two")) as service:
        assert await service.speak("Hi.", format="raw_pcm") == b"onetwo"
        async with service.stream("Hi.", format="raw_pcm") as speech:
            assert [part async for part in speech] == [b"one", b"two"]
        assert speech.complete
        assert speech.first_audio_seconds is not None


async def test_leaving_early_closes_the_stream() -> None:
    body = StreamBody(*[b"x"] * 1000)
    async with async_client(lambda request: httpx.Response(200, headers=streamed().headers, stream=body)) as service:
        async with service.stream("Hi.") as speech:
            async for _ in speech:
                break
        assert (body.closed, body.yielded) == (True, 1)


async def test_an_aborted_stream_raises() -> None:
    async with async_client(lambda request: streamed(b"12", httpx.ReadError("reset"))) as service:
        with pytest.raises(StreamCut):
            await service.speak("Hi.")


async def test_busy_is_retried_after_its_retry_after(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(anyio, "sleep", sleep)
    answers = [refused(429, **{"Retry-After": "2"}), streamed(b"12"), refused(429), refused(429)]
    async with async_client(lambda request: answers.pop(0), retries=1) as service:
        assert await service.speak("Hi.", format="raw_pcm") == b"12"
        with pytest.raises(Busy):
            await service.voices()
    assert waits == [2, 0.5]


async def test_the_other_methods() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/health":
            return httpx.Response(202, json={"status": "loading", "tts_engines": {}})
        if request.url.path == "/system-status":
            return httpx.Response(200, json={"gpu": None})
        if request.method in ("POST", "PUT"):
            return httpx.Response(201, json={"voice_id": "amy.wav"})
        if request.method == "DELETE":
            return httpx.Response(200, json={"message": "gone"})
        if request.url.path == "/voices":
            return httpx.Response(200, json=["amy.wav"])
        facts = {"seconds": 1, "has_transcript": False, "preloaded": True, "created": "", "sha256": ""}
        return httpx.Response(200, json={"id": "amy.wav", **facts})

    async with async_client(answer) as service:
        assert (await service.health()).status == "loading"
        assert await service.system_status() == {"gpu": None}
        assert await service.add_voice(b"RIFF", voice_id="amy.wav") == "amy.wav"
        await service.replace_voice("amy.wav", b"RIFF")
        await service.delete_voice("amy.wav")
        assert await service.voices() == ["amy.wav"]
        assert (await service.voice("amy.wav")).preloaded
