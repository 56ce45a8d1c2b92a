from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from app import errors
from app.errors import ServiceError
from app.pool.framing import (
    ConnectionBroken,
    Kind,
    audio_message,
    error_message,
    job_message,
    message,
    read_audio,
    read_error,
    read_job,
    receive,
    text_message,
)
from app.schemas.speech import SpeechJob
from engine import AudioChunk, DialogueTurn, SpeechRequest, SpeechSegment, TextFeed, TextTiming, VoicePrompt, Word

pytestmark = pytest.mark.anyio


async def receive_bytes(data: bytes) -> tuple[Kind, bytes]:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return await receive(reader)


async def test_a_job_survives_a_round_trip() -> None:
    speech = SpeechRequest("Grüß Gott \N{OWL}", temperature=0.25, seed=-(2**63), max_frames=9, guidance=1.5)
    kind, payload = await receive_bytes(
        job_message(SpeechJob(speech, "amy.wav", key="acme", weight=2.5, traceparent="00-1-2-01"), 1.5)
    )
    assert kind is Kind.JOB
    assert read_job(payload) == (SpeechJob(speech, "amy.wav", key="acme", weight=2.5, traceparent="00-1-2-01"), 1.5)


async def test_a_dialogue_survives_a_round_trip() -> None:
    turns = (DialogueTurn("Hi."), DialogueTurn("Grüß Gott.", gap_milliseconds=-300))
    job = SpeechJob(SpeechRequest(turns=turns, seed=3), None, turn_voices=("amy.wav", "speaker_1"))
    _, payload = await receive_bytes(job_message(job, 1.0))
    received = read_job(payload)[0]
    assert [(each.text, each.gap_milliseconds) for each in received.request.turns] == [
        (each.text, each.gap_milliseconds) for each in turns
    ]
    assert replace(received, request=job.request) == job
    assert replace(received.request, turns=turns) == job.request


async def test_the_voice_of_a_job_arrives_exactly() -> None:
    samples = np.random.default_rng(0).normal(size=24_001).astype(np.float32)
    for voice in (VoicePrompt(samples, "Grüße"), VoicePrompt(samples[:1], sample_rate=8_000, speaker=3)):
        _, payload = await receive_bytes(job_message(SpeechJob(SpeechRequest("Hi.", voice=voice), None), 1.0))
        received = read_job(payload)[0].request.voice
        assert received is not None
        assert np.array_equal(received.samples, voice.samples)
        assert received.key == voice.key


async def test_the_history_of_a_job_survives_a_round_trip() -> None:
    codes = np.random.default_rng(0).integers(0, 2051, (5, 32))
    speech = SpeechRequest("And?", history=(SpeechSegment("Hi.", codes, 1), SpeechSegment("Yes?", codes[:1], 0)))
    _, payload = await receive_bytes(job_message(SpeechJob(speech, None), 1.0))
    history = read_job(payload)[0].request.history
    assert [(each.text, each.speaker) for each in history] == [("Hi.", 1), ("Yes?", 0)]
    assert np.array_equal(history[0].codes, codes)
    assert history[0].codes.dtype == np.int64
    assert history[1].codes.shape == (1, 32)


async def test_more_of_a_text_follows_a_job() -> None:
    more = TextFeed()
    more.append("And so on.")
    _, payload = await receive_bytes(job_message(SpeechJob(SpeechRequest("Hi.", more=more), None), 1.0))
    received = read_job(payload)[0].request.more
    assert received is not None
    assert not received.ready(0)  # parts come as messages
    assert await receive_bytes(text_message("Grüße")) == (Kind.TEXT, "Grüße".encode())
    assert await receive_bytes(text_message(None)) == (Kind.TEXT_END, b"")


@pytest.mark.parametrize("flags", [(False, False, False), (True, False, False), (True, True, True)])
async def test_audio_survives_a_round_trip(flags: tuple[bool, bool, bool]) -> None:
    samples = np.random.default_rng(0).normal(size=1920).astype(np.float32)
    codes = np.arange(64).reshape(2, 32)
    sent = AudioChunk(samples, codes, 7, *flags, text_part=3, ends_text_part=flags[1])
    kind, payload = await receive_bytes(audio_message(sent))
    chunk = read_audio(payload)
    assert kind is Kind.AUDIO
    assert np.array_equal(chunk.samples, samples)
    assert np.array_equal(chunk.codes, codes)
    assert (chunk.text_chunk, chunk.in_last_text_chunk, chunk.ends_text_chunk, chunk.ends_speech) == (7, *flags)
    assert (chunk.text_part, chunk.ends_text_part) == (3, flags[1])


async def test_the_timings_of_audio_survive_a_round_trip() -> None:
    words = (Word("Grüße,", 0, 6, -960, 480), Word("you", 7, 10))
    timings = (TextTiming(words, -1920, 960), TextTiming((), 0, 0))
    chunk = AudioChunk(np.ones(1920, np.float32), np.arange(32).reshape(1, 32), timings=timings)
    _, payload = await receive_bytes(audio_message(chunk))
    received = read_audio(payload)
    assert received.timings == timings
    assert np.array_equal(received.samples, chunk.samples)
    assert np.array_equal(received.codes, chunk.codes)


def _kinds() -> list[type[ServiceError]]:
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, ServiceError)]
    assert len(kinds) > 10
    return kinds


@pytest.mark.parametrize("kind", _kinds())
async def test_every_error_survives_a_round_trip(kind: type[ServiceError]) -> None:
    error = kind("what is wrong", code="a_code", retry_after=3)
    _, payload = await receive_bytes(error_message(error))
    same = read_error(payload)
    assert type(same) is kind
    assert (same.status, same.body, same.headers) == (error.status, error.body, error.headers)


@pytest.mark.parametrize(
    "data", [b"", b"\x01", message(Kind.JOB, b"{}")[:-1], b"\x04\xff\xff\xff\xff", b"\x63\0\0\0\0"]
)
async def test_incomplete_oversized_and_unknown_messages_break_the_connection(data: bytes) -> None:
    with pytest.raises(ConnectionBroken):
        await receive_bytes(data)
