"""Spoken turns on the fake engine: voice activity, recognition, interruptions, echo, latency."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI

from app.audio.encoders.g711 import G711Encoder, Law
from app.audio.rate_converter import resample
from app.errors import Unavailable
from app.llm.language_model import Finished, TextDelta
from app.settings import Settings

from .harness import Pcm, RealtimeClient, StubModel, StubTranscriber, encoded, silence, speech, talking

pytestmark = pytest.mark.anyio

LONG = "This is a long sentence that takes several seconds to be spoken, and it goes on and on. " * 2


@pytest.fixture
async def app(settings: Settings, run: Any) -> AsyncIterator[FastAPI]:
    async with run(settings) as app:
        app.state.realtime.transcriber = StubTranscriber()
        app.state.realtime.language_model = StubModel()
        yield app


@pytest.fixture
async def real_time_app(settings: Settings, run: Any) -> AsyncIterator[FastAPI]:
    """The engine makes a frame in 20 ms: four times as fast as it is heard."""
    async with run(settings.model_copy(update={"model_path": "fake:frame_seconds=0.02"})) as app:
        app.state.realtime.transcriber = StubTranscriber()
        app.state.realtime.language_model = StubModel([TextDelta(LONG), Finished()])
        yield app


def turn() -> Pcm:
    return np.concatenate([silence(0.5), speech(), silence(0.7)])


async def test_a_spoken_turn_is_heard_understood_and_answered(app: FastAPI) -> None:
    async with talking(app) as client:
        client.hear(turn())
        started = await client.next("input_audio_buffer.speech_started")
        stopped = await client.next("input_audio_buffer.speech_stopped")
        committed = await client.next("input_audio_buffer.committed")
        words = await client.next("conversation.item.input_audio_transcription.completed")
        done = (await client.next("response.done"))["response"]
        heard = app.state.realtime.transcriber.heard
    assert started["item_id"] == stopped["item_id"] == committed["item_id"] == words["item_id"]
    assert 100 <= started["audio_start_ms"] <= 400  # 300 ms before the speech, which begins at 500
    assert 3900 <= stopped["audio_end_ms"] <= 4200  # 500 ms after it ended, at 3500 or a little before
    assert words["transcript"] == "Hello."
    assert words["usage"]["seconds"] == pytest.approx(
        (stopped["audio_end_ms"] - started["audio_start_ms"]) / 1000, abs=0.05
    )
    assert done["output"][0]["content"][0]["transcript"] == "Yes."
    assert app.state.realtime.language_model.requests[0].messages[-1] == {"role": "user", "content": "Hello."}
    assert len(heard) == 1  # recognised once, during the silence
    assert heard[0] < words["usage"]["seconds"]


async def test_spans_tell_where_time_goes(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    """In the answer's metadata, in the metrics, and in the log."""
    with caplog.at_level(logging.INFO, "app.requests"):
        async with talking(app) as client:
            client.hear(turn())
            done = (await client.next("response.done"))["response"]
    spans = {name: float(value) for name, value in done["metadata"].items()}
    assert spans["silence_ms"] == pytest.approx(500, abs=1)
    assert spans["total_ms"] == pytest.approx(
        spans["silence_ms"] + spans["stt_ms"] + spans["llm_ms"] + spans["first_frame_ms"], abs=1
    )
    metrics = app.state.service.metrics.render()[0].decode()
    for span in ("latency", "silence", "stt", "llm", "first_frame"):
        assert f"csm_turn_{span}_seconds_count 1.0" in metrics
    [logged] = [line.fields for line in caplog.records if "total_ms" in getattr(line, "fields", ())]
    assert {name: logged[name] for name in spans} == pytest.approx(spans, abs=0.6)  # whole milliseconds


async def test_a_pause_within_a_turn_is_recognised_again_with_all_of_it(app: FastAPI) -> None:
    async with talking(app) as client:
        client.hear(np.concatenate([speech(), silence(0.3), speech(), silence(0.7)]))
        words = await client.next("conversation.item.input_audio_transcription.completed")
        await client.next("response.done")
    heard = app.state.realtime.transcriber.heard
    assert client.kinds().count("input_audio_buffer.speech_started") == 1
    assert len(heard) >= 2
    assert heard[-1] > 6
    assert words["usage"]["seconds"] > 6


async def test_two_turns_in_one_message_are_two_turns(app: FastAPI) -> None:
    audio = {"input": {"turn_detection": {"type": "server_vad", "create_response": False}}}
    async with talking(app, audio=audio) as client:
        pcm = np.concatenate([speech()[:48_000], silence(1.0), speech()[:48_000], silence(1.0)])
        client.send("input_audio_buffer.append", audio=encoded(pcm))
        first = await client.next("conversation.item.input_audio_transcription.completed")
        second = await client.next("conversation.item.input_audio_transcription.completed")
        assert first["item_id"] != second["item_id"]
        assert first["usage"]["seconds"] == pytest.approx(2.5, abs=0.5)
        assert second["usage"]["seconds"] == pytest.approx(2.8, abs=0.5)
        assert "response.created" not in client.kinds()


async def test_silence_starts_nothing_and_is_not_kept(app: FastAPI) -> None:
    async with talking(app) as client:
        noise = (np.random.default_rng(1).normal(0, 100, 24_000 * 20)).astype(np.int16)
        client.hear(noise, milliseconds=500)
        client.send("input_audio_buffer.commit")
        committed = await client.next("conversation.item.input_audio_transcription.completed")
        assert committed["usage"]["seconds"] <= 1.0
        assert "input_audio_buffer.speech_started" not in client.kinds()


async def test_push_to_talk_leaves_the_turn_to_the_client(app: FastAPI) -> None:
    async with talking(app, audio={"input": {"turn_detection": None}}) as client:
        client.hear(turn())
        client.send("input_audio_buffer.clear")
        await client.next("input_audio_buffer.cleared")
        client.hear(speech())
        client.send("input_audio_buffer.commit")
        words = await client.next("conversation.item.input_audio_transcription.completed")
        client.send("response.create")
        done = (await client.next("response.done"))["response"]
    assert words["usage"]["seconds"] == pytest.approx(3, abs=0.01)
    assert done["status"] == "completed"
    assert "input_audio_buffer.speech_started" not in client.kinds()


async def test_too_much_audio_without_turn_detection_is_refused(app: FastAPI) -> None:
    async with talking(app, audio={"input": {"turn_detection": None}}) as client:
        for _ in range(13):
            client.send("input_audio_buffer.append", audio=encoded(silence(10)))
        error = (await client.next("error"))["error"]
        assert error["code"] == "input_audio_too_long"
        client.send("input_audio_buffer.clear")
        await client.next("input_audio_buffer.cleared")


@pytest.mark.parametrize(("kind", "law"), [("audio/pcmu", "mulaw"), ("audio/pcma", "alaw")])
async def test_a_telephone_is_heard_as_well(app: FastAPI, kind: str, law: Law) -> None:
    pcm = turn().astype(np.float32) / 32768
    data = G711Encoder(law, 8000).encode(resample(pcm, 24_000, 8000))
    async with talking(app, audio={"input": {"format": {"type": kind}}}) as client:
        for start in range(0, len(data), 160):
            client.send("input_audio_buffer.append", audio=base64.b64encode(data[start : start + 160]).decode())
        words = await client.next("conversation.item.input_audio_transcription.completed")
        assert words["usage"]["seconds"] == pytest.approx(3.8, abs=0.3)
        await client.next("response.done")


async def test_what_cannot_be_recognised_fails_the_turn_and_not_the_next(app: FastAPI) -> None:
    app.state.realtime.transcriber = StubTranscriber(Unavailable("it broke", code="stt_failed"), "Again.")
    async with talking(app) as client:
        client.hear(turn())
        failed = await client.next("conversation.item.input_audio_transcription.failed")
        done = (await client.next("response.done"))["response"]
        client.hear(turn())
        after = (await client.next("response.done"))["response"]
    assert failed["error"]["code"] == "stt_failed"
    assert done["status_details"]["error"]["code"] == "stt_failed"
    assert after["status"] == "completed"
    assert "error" not in client.kinds()


async def test_a_noise_without_words_gets_no_answer(app: FastAPI) -> None:
    app.state.realtime.transcriber = StubTranscriber("")
    async with talking(app) as client:
        client.hear(turn())
        done = (await client.next("response.done"))["response"]
    assert (done["status"], done["output"]) == ("completed", [])
    assert app.state.realtime.language_model.requests == []


async def interrupted(client: RealtimeClient) -> dict[str, Any]:
    """Let the assistant begin, listen to it for a moment, then speak over it."""
    client.send("response.create")
    await client.next("response.output_audio.delta")
    await asyncio.sleep(0.4)  # the listener hears that much
    client.hear(np.concatenate([speech(), silence(0.7)]))
    return await client.next("input_audio_buffer.speech_started")


async def test_speaking_over_the_assistant_silences_it(real_time_app: FastAPI, wait: Any) -> None:
    app = real_time_app
    async with talking(app) as client:
        await interrupted(client)
        done = (await client.next("response.done"))["response"]
        assert app.state.service.host.engine.status().active <= 1  # at most the answer to the interruption
        item = done["output"][0]
        client.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=400)
        truncated = await client.next("conversation.item.truncated")
        await client.next("response.done")
        client.send("conversation.item.retrieve", item_id=item["id"])
        kept = (await client.next("conversation.item.retrieved"))["item"]
    assert (done["status"], done["status_details"]["reason"]) == ("cancelled", "turn_detected")
    assert item["status"] == "incomplete"
    said = item["content"][0]["transcript"]
    assert LONG.startswith(said)
    assert len(said) < 40
    assert truncated["audio_end_ms"] == 400
    assert LONG.startswith(kept["content"][0]["transcript"])
    messages = app.state.realtime.language_model.requests[-1].messages
    assert all(LONG not in str(message["content"]) for message in messages)
    assert "csm_interruptions_total 1.0" in app.state.service.metrics.render()[0].decode()


async def test_an_answer_that_is_complete_but_still_heard_is_interrupted_too(app: FastAPI) -> None:
    """The engine is far ahead of the listener, who has heard almost nothing."""
    app.state.realtime.language_model = StubModel([TextDelta(LONG), Finished()])
    async with talking(app) as client:
        client.send("response.create")
        done = (await client.next("response.done"))["response"]
        client.hear(turn())
        await client.next("response.done")
    assert done["status"] == "completed"
    messages = app.state.realtime.language_model.requests[-1].messages
    assert [message["role"] for message in messages] in (["system", "user"], ["system", "assistant", "user"])
    assert all(len(str(message["content"])) < 60 for message in messages[1:])


async def test_an_assistant_that_may_not_be_interrupted_answers_afterwards(real_time_app: FastAPI) -> None:
    audio = {"input": {"turn_detection": {"type": "server_vad", "interrupt_response": False}}}
    async with talking(real_time_app, audio=audio) as client:
        await interrupted(client)
        first = (await client.next("response.done"))["response"]
        second = (await client.next("response.done"))["response"]
    assert (first["status"], second["status"]) == ("completed", "completed")
    assert second["output"][0]["content"][0]["transcript"] == "Yes."


async def test_its_own_echo_does_not_interrupt_the_assistant(
    settings: Settings, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine speaks with a recorded voice, which returns through the microphone 20 dB quieter and 120 ms later."""
    voice = speech().astype(np.float32) / 32768
    monkeypatch.setattr(
        "engine.fake_stream.tone",
        lambda request, first, frames, *rest: np.resize(np.roll(voice, -first * 1920), frames * 1920),
    )
    async with run(settings.model_copy(update={"model_path": "fake:frame_seconds=0.02"})) as app:
        app.state.realtime.language_model = StubModel([TextDelta("x " * 18 + "."), Finished()])
        app.state.realtime.transcriber = StubTranscriber()
        async with talking(app) as client:
            client.send("response.create")
            await client.next("response.output_audio.delta")
            started, sent = time.monotonic(), 0
            while sent <= 48_000:
                assert time.monotonic() - started < 60
                await asyncio.sleep(0.02)
                at = int((time.monotonic() - started - 0.12) * 24_000)
                heard = client.audio()[max(sent, 0) : max(at, 0)]
                if heard.size:
                    client.send("input_audio_buffer.append", audio=encoded((heard * 0.1).astype(np.int16)))
                    sent += heard.size
            assert "input_audio_buffer.speech_started" not in client.kinds()
            # the same sound when nothing is played is speech
            await asyncio.sleep(0.6)
            client.hear((speech() * 0.1).astype(np.int16))
            await client.next("input_audio_buffer.speech_started")
