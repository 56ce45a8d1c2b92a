from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI

import app.responses.streaming as streaming
from app.responses.streaming import StreamCutError
from app.settings import Settings
from engine import FRAME_SAMPLES

pytestmark = pytest.mark.anyio

FRAME_BYTES = 2 * FRAME_SAMPLES


def is_idle(app: FastAPI) -> bool:
    host = app.state.service.host
    return (host.admission.active, host.admission.queued, host.engine.status().active) == (0, 0, 0)


async def test_bytes_are_sent_while_speech_is_generated(settings: Settings, call: Any, run: Any, wait: Any) -> None:
    async with run(settings) as app:
        client = call(
            app, "/tts/generate", query=b"format=raw_pcm&crossfade_duration_milliseconds=0&text=" + b"x" * 4000
        )
        await client.until(lambda: len(client.sent) > 1)
        client.reading.clear()
        assert app.state.service.host.engine.status().active == 1
        client.reading.set()
        await client.done()
        assert client.status == 200
        assert client.ended
        assert len(client.content) == 4000 * FRAME_BYTES
        await wait(lambda: is_idle(app))


async def test_an_error_before_the_first_audio_has_its_own_status(settings: Settings, call: Any, run: Any) -> None:
    async with run(settings) as app:
        for marker, code in ((b"[raise]", "engine_failed"), (b"[memory]", "out_of_memory")):
            client = await call(app, "/tts/generate", query=b"text=" + marker).done()
            assert client.status == 500
            assert f'"code":"{code}"'.encode() in client.content
        assert is_idle(app)


@pytest.mark.parametrize("format_", [b"raw_pcm", b"mp3"])
async def test_an_error_after_the_first_byte_cuts_the_stream(
    settings: Settings, call: Any, run: Any, wait: Any, format_: bytes
) -> None:
    async with run(settings) as app:
        client = call(app, "/tts/generate", query=b"text=[raise@40]" + b"x" * 60 + b"&format=" + format_)
        with pytest.raises(StreamCutError, match="after 40 frames"):
            await client.task
        assert client.status == 200
        assert not client.ended
        await wait(lambda: is_idle(app))


@pytest.mark.parametrize("text", [b"[hang]", b"x" * 5000])
async def test_a_disconnect_frees_the_slot(settings: Settings, call: Any, run: Any, wait: Any, text: bytes) -> None:
    async with run(settings) as app:
        client = call(app, "/tts/generate", query=b"text=" + text)
        await wait(lambda: app.state.service.host.engine.status().active == 1)
        client.leave()
        await client.done()
        await wait(lambda: is_idle(app))


async def test_a_disconnect_while_queued_ends_the_request(settings: Settings, call: Any, run: Any, wait: Any) -> None:
    async with run(settings) as app:
        admission = app.state.service.host.admission
        async with admission.reserve(admission.capacity):
            client = call(app, "/tts/generate", query=b"text=Hello")
            await wait(lambda: admission.queued == 1)
            client.leave()
            await client.done()
            assert admission.queued == 0
            assert client.sent == []
        assert is_idle(app)


async def test_a_client_that_reads_nothing_is_disconnected(
    settings: Settings, call: Any, run: Any, wait: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "STALL_SECONDS", 0.01)
    async with run(settings) as app:
        client = call(app, "/tts/generate", query=b"text=" + b"x" * 500)
        client.reading.clear()
        with pytest.raises(StreamCutError, match="read nothing"):
            await client.task
        await wait(lambda: is_idle(app))


@pytest.mark.parametrize("query", [b"", b"&subtitles=srt", b"&subtitles=vtt"])
@pytest.mark.parametrize("model", ["fake", "fake:hides_words=true"])
async def test_a_response_trimmed_to_nothing_is_an_error(
    settings: Settings, call: Any, run: Any, query: bytes, model: str
) -> None:
    async with run(settings.model_copy(update={"model_path": model})) as app:
        client = await call(app, "/tts/generate", query=b"text=Hi&remove_leading_milliseconds=1000" + query).done()
        assert client.status == 422
        assert b"nothing_left" in client.content


async def test_response_headers(settings: Settings, call: Any, run: Any) -> None:
    from app.audio.encoders import FORMATS

    async with run(settings) as app:
        for name, audio in FORMATS.items():
            client = await call(app, "/tts/generate", query=f"text=Hello&format={name}".encode()).done()
            assert client.headers["content-type"] == audio.media_type
            assert client.headers["x-tts-engine"] == "fake"
            assert client.headers["x-worker-id"] == "0"
            assert client.headers["x-sample-rate"] == str(audio.sample_rate)
            assert client.headers["x-accel-buffering"] == "no"
            assert len(client.content) > 44
            assert "content-length" not in client.headers


async def test_the_sample_rate_of_a_response(settings: Settings, call: Any, run: Any) -> None:
    async with run(settings) as app:
        for name, rate, size in (("raw_pcm", 8_000, 2 * 640), ("raw_pcm", 44_100, 2 * 3528), ("mulaw", 16_000, 1280)):
            query = f"text=Hello&format={name}&sample_rate={rate}".encode()
            client = await call(app, "/tts/generate", query=query).done()
            assert client.headers["x-sample-rate"] == str(rate)
            assert f"rate={rate}" in client.headers["content-type"]
            assert len(client.content) == 5 * size
        for query, code in (
            (b"format=mp3&sample_rate=9000", b"unsupported_sample_rate"),
            (b"sample_rate=7999", b"invalid_parameter"),
            (b"sample_rate=48001", b"invalid_parameter"),
        ):
            client = await call(app, "/tts/generate", query=b"text=Hi&" + query).done()
            assert client.status == 422
            assert code in client.content
            assert b"sample_rate" in client.content


async def test_trims_and_max_audio_length(settings: Settings, call: Any, run: Any) -> None:
    async with run(settings) as app:
        query = b"format=raw_pcm&text=Hello+there&max_audio_length_ms=400"
        whole = await call(app, "/tts/generate", query=query).done()
        cut = await call(
            app, "/tts/generate", query=query + b"&remove_leading_milliseconds=50&remove_trailing_milliseconds=30"
        ).done()
        assert len(whole.content) == 5 * FRAME_BYTES
        samples = np.frombuffer(whole.content, "<i2")[50 * 24 : -30 * 24]
        assert np.array_equal(np.frombuffer(cut.content, "<i2"), samples)


async def test_many_concurrent_requests_all_complete(settings: Settings, call: Any, run: Any, wait: Any) -> None:
    async with run(settings) as app:
        clients = [call(app, "/tts/generate", query=b"format=raw_pcm&text=" + b"x" * n) for n in range(1, 41)]
        await asyncio.gather(*(client.task for client in clients))
        assert [len(client.content) for client in clients] == [n * FRAME_BYTES for n in range(1, 41)]
        await wait(lambda: is_idle(app))
