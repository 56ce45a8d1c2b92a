"""Voices are encoded beside decoding, once for all requests that need them, without blocking other requests."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import EngineClosed, EngineFailed, EngineOutOfMemory, SpeechRequest, VoicePrompt
from engine.engine_core import CsmEngine
from engine.stream import AudioQueue
from engine.types import Codes, Samples
from engine.voice_encoder import VoiceEncoder

from .test_engine_core import eventually

Load = Callable[..., CsmEngine]
TIMEOUT = 20.0  # seconds


def new_voice(seed: int) -> VoicePrompt:
    samples = np.random.default_rng(seed).normal(0, 0.1, 9_000 + seed)
    return VoicePrompt(samples.astype(np.float32), transcript="Quite new.")


class Gate:
    """An encode function that blocks until the gate is opened."""

    def __init__(self, encode: Callable[[Samples, int], Codes]) -> None:
        self._encode = encode
        self._opened = threading.Event()
        self._started = threading.Semaphore(0)
        self.sizes: list[int] = []  # of the recordings whose encoding has started
        self.error: Exception | None = None  # raised instead

    def encode(self, samples: Samples, sample_rate: int) -> Codes:
        self.sizes.append(samples.size)
        self._started.release()
        assert self._opened.wait(TIMEOUT)
        if self.error is not None:
            raise self.error
        return self._encode(samples, sample_rate)

    def wait_for_one(self) -> None:
        assert self._started.acquire(timeout=TIMEOUT)

    def open(self) -> None:
        self._opened.set()


# ---- the encoder alone


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate(lambda samples, sample_rate: np.full((3, 4), samples.size))
    yield gate
    gate.open()


@pytest.fixture
def done() -> threading.Semaphore:
    return threading.Semaphore(0)


@pytest.fixture
def encoder(gate: Gate, done: threading.Semaphore) -> Iterator[VoiceEncoder]:
    encoder = VoiceEncoder(lambda voice: gate.encode(voice.samples, voice.sample_rate), done.release)
    yield encoder
    gate.open()
    encoder.close()
    assert not encoder._thread.is_alive()


def reader() -> AudioQueue:
    return AudioQueue(1, lambda: None)


def test_recordings_are_encoded_in_order_and_once(encoder: VoiceEncoder, gate: Gate, done: threading.Semaphore) -> None:
    first = encoder.encode(new_voice(1), reader())
    gate.wait_for_one()
    second = encoder.encode(new_voice(2), reader())
    assert encoder.encode(new_voice(1), reader()) is first  # while it is being encoded
    assert encoder.encode(new_voice(2), reader()) is second  # while it waits
    assert not first.done
    gate.open()
    for _ in range(2):
        assert done.acquire(timeout=TIMEOUT)
    assert encoder.encode(new_voice(1), reader()) is first  # done, but not taken yet
    assert encoder.take_finished() == [first, second]
    assert encoder.take_finished() == []
    np.testing.assert_array_equal(first.result(), np.full((3, 4), 9001))
    assert gate.sizes == [9001, 9002]


def test_a_recording_without_readers_is_skipped(encoder: VoiceEncoder, gate: Gate, done: Any) -> None:
    leaving, staying = reader(), reader()
    encoder.encode(new_voice(1), reader())
    gate.wait_for_one()
    encoder.encode(new_voice(2), leaving)
    wanted = encoder.encode(new_voice(3), leaving)
    assert encoder.encode(new_voice(3), staying) is wanted
    leaving.close()
    gate.open()
    for _ in range(2):
        assert done.acquire(timeout=TIMEOUT)
    assert gate.sizes == [9001, 9003]
    encoder.encode(new_voice(2), staying)  # requested again
    assert done.acquire(timeout=TIMEOUT)
    assert gate.sizes == [9001, 9003, 9002]


def test_a_failed_encoding_raises_and_the_next_one_runs(encoder: VoiceEncoder, gate: Gate, done: Any) -> None:
    gate.error = ValueError("bad recording")
    gate.open()
    failed = encoder.encode(new_voice(1), reader())
    assert done.acquire(timeout=TIMEOUT)
    with pytest.raises(ValueError, match="bad recording"):
        failed.result()
    assert encoder.take_finished() == [failed]
    gate.error = None
    again = encoder.encode(new_voice(1), reader())
    assert done.acquire(timeout=TIMEOUT)
    assert len(again.result()) == 3


def test_closing_waits_for_the_running_encoding_only(encoder: VoiceEncoder, gate: Gate) -> None:
    running = encoder.encode(new_voice(1), reader())
    gate.wait_for_one()
    waiting = encoder.encode(new_voice(2), reader())
    closing = threading.Thread(target=encoder.close)
    closing.start()
    gate.open()
    closing.join(TIMEOUT)
    assert not closing.is_alive()
    assert running.done
    assert not waiting.done
    assert gate.sizes == [9001]


@pytest.mark.skipif(sys.platform != "linux", reason="niceness belongs to the whole process here")
def test_niceness_applies_to_the_encoder_thread_only() -> None:
    seen: list[int] = []

    def nice() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def encode(voice: VoicePrompt) -> Codes:
        seen.append(nice())
        return np.zeros((1, 4), np.int64)

    before, done = nice(), threading.Event()
    encoder = VoiceEncoder(encode, done.set, niceness=5)
    encoder.encode(new_voice(1), reader())
    assert done.wait(TIMEOUT)
    encoder.close()
    assert seen == [min(before + 5, 19)]
    assert nice() == before


# ---- in the engine


@pytest.fixture
def gated(load: Load, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[CsmEngine, Gate]]:
    """An engine whose voice encoding blocks until the gate is opened."""
    engine = load(checkpoint)
    gate = Gate(engine._runner.encode)
    monkeypatch.setattr(engine._runner, "encode", gate.encode)
    yield engine, gate
    gate.open()


def test_other_requests_run_while_a_voice_is_encoded(gated: tuple[CsmEngine, Gate], engine: CsmEngine) -> None:
    busy, gate = gated
    request = SpeechRequest("In a new voice.", voice=new_voice(1), seed=1, max_frames=12)
    other = SpeechRequest("I go on and on.", seed=2, max_frames=30)
    alone, expected = engine.generate(other), engine.generate(request)

    speaking = busy.stream(other)
    first = next(speaking)
    stream = busy.stream(request)
    gate.wait_for_one()
    codes = np.concatenate([first.codes, *(chunk.codes for chunk in speaking)])  # to the end, while the gate is closed
    np.testing.assert_array_equal(codes, alone.codes)
    assert busy.status().active == 1
    eventually(lambda: busy.status().stalled_seconds == 0.0)  # it sleeps and is not stuck
    assert not busy._has_work()
    gate.open()
    np.testing.assert_array_equal(stream.collect().codes, expected.codes)


def test_a_voice_is_encoded_once_for_all_requests(gated: tuple[CsmEngine, Gate], engine: CsmEngine) -> None:
    busy, gate = gated
    requests = [
        SpeechRequest("One.", voice=new_voice(1), seed=1, max_frames=8),
        SpeechRequest("Two.", voice=new_voice(1), seed=2, max_frames=8, guidance=1.0),
        SpeechRequest("Three.", voice=new_voice(1), seed=3, max_frames=8, speaker=4),
    ]
    expected = [engine.generate(request).codes for request in requests]
    streams = [busy.stream(request) for request in requests[:2]]
    gate.wait_for_one()
    gate.open()
    spoken = [stream.collect().codes for stream in streams] + [busy.generate(requests[2]).codes]
    assert len(gate.sizes) == 1
    for codes, alone in zip(spoken, expected, strict=True):
        np.testing.assert_array_equal(codes, alone)


def test_a_voice_is_encoded_while_its_request_waits_for_a_slot(
    load: Load, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(checkpoint, slots=1)
    gate = Gate(engine._runner.encode)
    monkeypatch.setattr(engine._runner, "encode", gate.encode)
    speaking = engine.stream(SpeechRequest("A long one. " * 20, seed=1))
    next(speaking)
    waiting = engine.stream(SpeechRequest("In a new voice.", voice=new_voice(1), max_frames=4))
    gate.wait_for_one()
    assert engine.status().queued == 1
    gate.open()
    speaking.close()
    assert len(waiting.collect().codes) == 4
    assert len(gate.sizes) == 1


def test_closing_a_stream_while_its_voice_is_encoded_frees_the_slot(gated: tuple[CsmEngine, Gate]) -> None:
    engine, gate = gated
    leaving = [engine.stream(SpeechRequest("Never mind.", voice=new_voice(seed), max_frames=4)) for seed in (1, 2)]
    gate.wait_for_one()
    eventually(lambda: engine.status().active == 2)
    for stream in leaving:
        stream.close()
    eventually(lambda: engine.status().active == 0)
    gate.open()
    assert len(engine.generate(SpeechRequest("But I do.", voice=new_voice(3), max_frames=4)).codes) == 4
    assert gate.sizes == [9001, 9003]


@pytest.mark.parametrize(
    ("error", "expected"),
    [(RuntimeError("bad recording"), EngineFailed), (torch.OutOfMemoryError(), EngineOutOfMemory)],
)
def test_a_failed_encoding_fails_the_requests_that_wait_for_it(
    gated: tuple[CsmEngine, Gate], error: Exception, expected: type[EngineFailed]
) -> None:
    engine, gate = gated
    speaking = engine.stream(SpeechRequest("I go on and on.", seed=2, max_frames=40))
    next(speaking)
    request = SpeechRequest("In a new voice.", voice=new_voice(1), max_frames=4)
    waiting = [engine.stream(request), engine.stream(request)]
    gate.wait_for_one()
    eventually(lambda: engine.status().active == 3)
    gate.error = error
    gate.open()
    for stream in waiting:
        with pytest.raises(expected):
            stream.collect()
    assert sum(len(chunk.codes) for chunk in speaking) == 39
    assert engine.status().error is None
    gate.error = None
    assert len(engine.generate(request).codes) == 4  # encoded anew


def test_closing_while_a_voice_is_encoded(gated: tuple[CsmEngine, Gate]) -> None:
    engine, gate = gated
    streams = [engine.stream(SpeechRequest("Too late.", voice=new_voice(seed))) for seed in (1, 2)]
    gate.wait_for_one()
    closing = threading.Thread(target=engine.close)
    closing.start()
    for stream in streams:  # they end without waiting for the encoder
        with pytest.raises(EngineClosed):
            stream.collect()
    gate.open()
    closing.join(TIMEOUT)
    assert not closing.is_alive()
    assert not engine._encoder._thread.is_alive()
    assert len(gate.sizes) == 1


def test_a_voice_evicted_while_its_request_waits_is_encoded_again(
    load: Load, checkpoint: Path, engine: CsmEngine
) -> None:
    requests = [SpeechRequest("Mine.", voice=new_voice(seed), seed=seed, max_frames=6) for seed in (1, 2)]
    expected = [engine.generate(request).codes for request in requests]
    probe = load(checkpoint)
    probe.prepare_voice(new_voice(2))
    narrow = load(checkpoint, slots=1, voice_cache_bytes=probe.status().detail["voice_cache_bytes"])  # for one voice
    narrow.prepare_voice(new_voice(1))
    speaking = narrow.stream(SpeechRequest("A long one. " * 20, seed=1))
    next(speaking)
    second, first = narrow.stream(requests[1]), narrow.stream(requests[0])
    eventually(lambda: narrow.status().queued == 2)
    speaking.close()
    np.testing.assert_array_equal(second.collect().codes, expected[1])  # evicts the first
    np.testing.assert_array_equal(first.collect().codes, expected[0])
