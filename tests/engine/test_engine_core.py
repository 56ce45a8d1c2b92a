"""Concurrent requests: each gives the same output as alone, and none delays or ends another."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import (
    AudioChunk,
    EngineClosed,
    EngineFailed,
    EngineOutOfMemory,
    InvalidRequest,
    PromptTooLong,
    SpeechRequest,
    VoicePrompt,
)
from engine.engine_core import CsmEngine
from engine.frame_pipeline import Frame
from engine.model_runner import SamplingParams
from engine.prefill_budget import UNLIMITED
from engine.prompt_packing import PromptPiece
from engine.types import Codes

Load = Callable[..., CsmEngine]


def other_voice() -> VoicePrompt:
    rng = np.random.default_rng(8)
    return VoicePrompt(rng.normal(0, 0.2, 20_000).astype(np.float32), transcript="Quite another one.")


def requests(voice: VoicePrompt) -> list[SpeechRequest]:
    return [
        SpeechRequest("The first is greedy.", temperature=0, max_frames=50),
        SpeechRequest("The second has a voice.", voice=voice, seed=2, max_frames=31, top_k=10),
        SpeechRequest("The third has another.", voice=other_voice(), speaker=1, seed=3, max_frames=17),
        SpeechRequest("The fourth is hot.", temperature=1.5, seed=4, max_frames=44, top_k=60, exaggeration=1.0),
    ]


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for a condition that another thread makes true."""
    done = threading.Event()
    deadline = threading.Timer(seconds, done.set)
    deadline.start()
    while not condition():
        assert not done.wait(0.005), "the condition did not become true"
    deadline.cancel()


def test_concurrent_requests_give_the_same_output_as_alone(engine: CsmEngine, voice: VoicePrompt) -> None:
    alone = [engine.generate(request) for request in requests(voice)]
    streams = []
    collected: list[list[AudioChunk]] = []
    for request in requests(voice):  # each starts after the ones before have emitted a few chunks
        streams.append(engine.stream(request))
        collected.append([next(streams[-1]) for _ in range(3)])
    for stream, chunks, expected in zip(streams, collected, alone, strict=True):
        chunks.extend(stream)
        np.testing.assert_array_equal(np.concatenate([chunk.codes for chunk in chunks]), expected.codes)
        samples = np.concatenate([chunk.samples for chunk in chunks])
        np.testing.assert_allclose(samples, expected.samples, atol=1e-5 * np.abs(expected.samples).max())


def test_cancelling_a_request_does_not_affect_another(engine: CsmEngine, voice: VoicePrompt) -> None:
    request = requests(voice)[1]
    alone = engine.generate(request).codes
    other = engine.stream(SpeechRequest("I shall not get far.", max_frames=400))
    next(other)
    stream = engine.stream(request)
    chunks = [next(stream), next(stream)]
    other.close()
    chunks.extend(stream)
    np.testing.assert_array_equal(np.concatenate([chunk.codes for chunk in chunks]), alone)


def test_a_seed_gives_the_same_codes_alone_and_with_other_requests(engine: CsmEngine) -> None:
    request = SpeechRequest("Say it again.", seed=77, max_frames=20)
    first = engine.generate(request).codes
    others = [engine.stream(SpeechRequest("Some noise.", seed=seed, max_frames=30)) for seed in (1, 2)]
    np.testing.assert_array_equal(engine.generate(request).codes, first)
    for other in others:
        other.close()
    assert (engine.generate(replace(request, seed=78)).codes != first).any()
    assert (engine.generate(replace(request, seed=-77)).codes != first).any()
    assert len(engine.generate(replace(request, seed=77 + (1 << 70))).codes) == len(first)  # any integer is accepted


def test_without_a_seed_every_run_differs(engine: CsmEngine) -> None:
    request = SpeechRequest("Say it differently.", max_frames=10)
    assert (engine.generate(request).codes != engine.generate(request).codes).any()


def test_a_cached_voice_gives_the_same_codes_as_a_new_one(load: Load, checkpoint: Path, voice: VoicePrompt) -> None:
    engine = load(checkpoint)
    request = SpeechRequest("Cold, then warm.", voice=voice, seed=5, max_frames=15)
    cold = engine.generate(request).codes
    assert engine.status().detail["voice_cache_bytes"]
    np.testing.assert_array_equal(engine.generate(request).codes, cold)
    uncached = load(checkpoint, voice_cache_bytes=0)
    for _ in range(2):
        np.testing.assert_array_equal(uncached.generate(request).codes, cold)
    assert uncached.status().detail["voice_cache_bytes"] == 0


def test_a_prepared_voice_is_cached(load: Load, checkpoint: Path, voice: VoicePrompt) -> None:
    engine = load(checkpoint)
    engine.prepare_voice(voice, speaker=2)
    known = engine.status().detail["voice_cache_bytes"]
    assert known
    engine.generate(SpeechRequest("I know you.", speaker=2, voice=voice, max_frames=2))
    assert engine.status().detail["voice_cache_bytes"] == known


def test_guidance_takes_two_slots_and_changes_the_output(engine: CsmEngine, voice: VoicePrompt) -> None:
    request = SpeechRequest("With or without guidance.", voice=voice, seed=6, max_frames=20)
    plain = engine.generate(request).codes
    guided = engine.generate(replace(request, guidance=2.0)).codes
    assert (plain != guided).any()
    others = [engine.stream(SpeechRequest("Beside it.", seed=1, max_frames=40)) for _ in range(2)]
    stream = engine.stream(replace(request, guidance=2.0))
    chunks = [next(stream)]
    assert engine.status().active == 4
    chunks.extend(stream)
    np.testing.assert_array_equal(np.concatenate([chunk.codes for chunk in chunks]), guided)
    for other in others:
        other.close()


def test_guidance_follows_its_formula(engine: CsmEngine) -> None:
    """Greedy sampling with guidance, compared with the logits of two rows combined by hand."""
    from engine.model.sampling import SamplingMode, SamplingState, sample

    state = SamplingState.allocate(2, torch.device("cpu"))
    state.guidance[0], state.unconditional[0], state.sampler[1] = 1.5, 1, 0
    logits = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    expected = (logits[0] + 1.5 * (logits[0] - logits[1])).argmax()
    tokens = sample(logits, state, SamplingMode(1, sampled=False, guided=True), None, 0)
    assert tokens.tolist() == [expected, expected]


def test_guidance_with_one_slot_is_refused(load: Load, checkpoint: Path) -> None:
    engine = load(checkpoint, slots=1)
    with pytest.raises(InvalidRequest, match="two slots"):
        engine.stream(SpeechRequest("Two, please.", guidance=1.0))
    assert len(engine.generate(SpeechRequest("One is enough.", max_frames=3)).codes) == 3


def test_prefill_beside_decoding_is_split_within_the_budget(
    load: Load, checkpoint: Path, voice: VoicePrompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more positions than the budget are prefilled between two frames, and the output is the same."""
    request = SpeechRequest("I have a lot to read before I speak. " * 2, voice=voice, seed=3, max_frames=6)
    engine = load(checkpoint, voice_cache_bytes=0, audio_queue_slices=1000)  # no request is held for a slow reader
    alone = engine.generate(request).codes
    runner, events, resets = engine._runner, [], []  # positions prefilled, or minus the rows of a frame
    monkeypatch.setattr(engine._prefill_budget, "budget", lambda buffers: 16)
    prefill, launch, reset_row = runner.prefill, runner.launch, runner.reset_row

    def recording_prefill(pieces: Sequence[PromptPiece]) -> None:
        events.append(sum(piece.prefill.length for piece in pieces))
        prefill(pieces)

    def recording_launch(rows: list[int]) -> Frame:
        events.append(-len(rows))
        return launch(rows)

    def recording_reset(row: int, params: SamplingParams) -> None:
        resets.append(len(events))
        reset_row(row, params)

    monkeypatch.setattr(runner, "prefill", recording_prefill)
    monkeypatch.setattr(runner, "launch", recording_launch)
    monkeypatch.setattr(runner, "reset_row", recording_reset)
    decoding = engine.stream(SpeechRequest("I speak all the while. " * 9, seed=1, slice_frames=1))
    next(decoding)
    del events[:], resets[:]
    streams = [engine.stream(request) for _ in range(3)]
    for stream in streams:
        np.testing.assert_array_equal(stream.collect().codes, alone)
    decoding.close()
    prefills = [each for each in events if each > 0]
    assert len(prefills) > 3
    assert max(prefills) <= 16
    for one, other in itertools.pairwise(events):
        assert max(one, 0) + max(other, 0) <= 16  # a frame is launched between two prefills
    assert len(resets) == len(streams)
    assert len(set(resets)) > 1  # rows of a burst are not all set up at once


def test_waiting_requests_are_all_served(load: Load, checkpoint: Path) -> None:
    engine = load(checkpoint, slots=2)
    streams = [engine.stream(SpeechRequest(f"Number {n}.", seed=n, max_frames=10)) for n in range(7)]
    assert [len(stream.collect().codes) for stream in streams] == [10] * 7
    eventually(lambda: engine.status().active == 0)


def test_a_slow_reader_holds_only_its_own_slot(load: Load, checkpoint: Path) -> None:
    engine = load(checkpoint, audio_queue_slices=2)
    request = SpeechRequest("Slowly, slowly.", seed=1, max_frames=60)
    whole = engine.generate(request).codes
    slow = engine.stream(request)
    queue = slow._queue
    eventually(lambda: queue.full)
    fast = engine.generate(SpeechRequest("Briskly said, but at some length. " * 3, seed=2, max_frames=100))
    assert len(fast.codes) == 100  # a hundred frames passed while the slow request was held
    assert len(queue._chunks) == 2
    np.testing.assert_array_equal(slow.collect().codes, whole)


@pytest.mark.parametrize("leave", ["close", "with", "drop"])
def test_closing_or_dropping_a_stream_frees_its_slot(load: Load, checkpoint: Path, leave: str) -> None:
    engine = load(checkpoint, slots=1)
    stream = engine.stream(SpeechRequest("A long one. " * 20, seed=1))
    next(stream)
    if leave == "close":
        stream.close()
    elif leave == "with":
        with stream:
            pass
    else:
        del stream
        gc.collect()
    assert len(engine.generate(SpeechRequest("Next.", max_frames=4)).codes) == 4


def test_closing_a_waiting_stream_removes_it_from_the_queue(load: Load, checkpoint: Path) -> None:
    engine = load(checkpoint, slots=1)
    first = engine.stream(SpeechRequest("A long one. " * 20, seed=1))
    next(first)
    waiting = engine.stream(SpeechRequest("Never mind.", max_frames=4))
    eventually(lambda: engine.status().queued == 1)
    waiting.close()
    eventually(lambda: engine.status().queued == 0)
    first.close()
    eventually(lambda: engine.status().active == 0)


def test_async_iteration_gives_the_same_codes_as_sync(engine: CsmEngine) -> None:
    request = SpeechRequest("Async, too.", seed=3, max_frames=21)

    async def read() -> Codes:
        async with engine.stream(request) as stream:
            return np.concatenate([chunk.codes async for chunk in stream])

    async def both() -> list[Codes]:
        return list(await asyncio.gather(read(), read()))

    whole = engine.generate(request).codes
    for codes in asyncio.run(both()):
        np.testing.assert_array_equal(codes, whole)


def test_a_voice_too_long_for_the_context_is_rejected_at_once(engine: CsmEngine) -> None:
    long = VoicePrompt(np.zeros(24_000 * 60, np.float32) + 0.1, transcript="Long.")
    with pytest.raises(PromptTooLong, match="shorter recording"):
        engine.stream(SpeechRequest("No room.", voice=long))


def test_a_failing_request_does_not_affect_the_others(
    engine: CsmEngine, voice: VoicePrompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = engine.stream(SpeechRequest("I go on and on.", seed=1, max_frames=40))
    next(other)

    def out_of_memory(*args: Any) -> None:
        raise torch.OutOfMemoryError("not enough")

    monkeypatch.setattr(engine._runner, "encode", out_of_memory)
    with pytest.raises(EngineOutOfMemory):
        engine.generate(SpeechRequest("I do not.", voice=replace(voice, transcript="A new one."), max_frames=4))
    assert sum(len(chunk.codes) for chunk in other) == 39
    assert engine.status().error is None


def test_a_failing_step_fails_all_requests_with_its_error(
    load: Load, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(checkpoint)
    streams = [engine.stream(SpeechRequest("A long one. " * 20, seed=n)) for n in range(6)]
    next(streams[0])

    def broken(*args: Any) -> None:
        raise RuntimeError("a kernel broke")

    monkeypatch.setattr(engine._runner, "launch", broken)
    for stream in streams:
        with pytest.raises(EngineFailed, match="a kernel broke"):
            stream.collect()
    with pytest.raises(EngineFailed, match="a kernel broke"):
        engine.stream(SpeechRequest("Anyone?"))
    assert "a kernel broke" in (engine.status().error or "")


def test_closing_ends_open_streams_and_rejects_new_ones(load: Load, checkpoint: Path) -> None:
    engine = load(checkpoint, slots=1)
    streams = [engine.stream(SpeechRequest("A long one. " * 20, seed=n)) for n in range(3)]
    next(streams[0])
    engine.close()
    engine.close()
    for stream in streams:
        with pytest.raises(EngineClosed):
            stream.collect()
    with pytest.raises(EngineClosed):
        engine.generate(SpeechRequest("Too late."))


@pytest.fixture
def stops_at(engine: CsmEngine, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the model generate its stop frame, all zeros, after n frames of each text."""
    model = engine._runner.model
    original = model._codes

    def set_stop(offset: int) -> None:
        def codes(hidden: Any, state: Any, rows: int, kind: Any) -> Any:
            made = original(hidden, state, rows, kind)
            made[state.sampling.frame[:rows] == offset] = 0
            return made

        monkeypatch.setattr(model, "_codes", codes)

    return set_stop


@pytest.mark.parametrize("offset", range(13))
def test_a_stop_frame_ends_the_speech_before_it(
    engine: CsmEngine, stops_at: Callable[[int], None], offset: int
) -> None:
    request = SpeechRequest("Stop when you are done.", seed=12, max_frames=30)
    full = engine.generate(request)
    stops_at(offset)
    chunks = list(engine.stream(request))
    codes = np.concatenate([chunk.codes for chunk in chunks])
    samples = np.concatenate([chunk.samples for chunk in chunks])
    np.testing.assert_array_equal(codes, full.codes[:offset])
    np.testing.assert_array_equal(samples, full.samples[: offset * 1920])
    assert chunks[-1].ends_speech
    assert sum(chunk.ends_speech for chunk in chunks) == 1


def test_ignore_stop_continues_after_a_stop_frame(engine: CsmEngine, stops_at: Callable[[int], None]) -> None:
    stops_at(3)
    speech = engine.generate(SpeechRequest("On and on.", seed=1, ignore_stop=True, max_frames=25))
    assert len(speech.codes) == 25


def different_prompts(voice: VoicePrompt) -> list[SpeechRequest]:
    return [
        SpeechRequest("Brief.", seed=1, max_frames=9),
        SpeechRequest("Mine takes longer to read than any of the others. " * 3, seed=2, max_frames=9),
        SpeechRequest("A voice goes before mine.", voice=voice, seed=3, max_frames=9),
        SpeechRequest("And another voice before this.", voice=other_voice(), speaker=1, seed=4, max_frames=9),
    ]


@pytest.mark.parametrize("max_tokens", [256, 48])  # all in one pass, or cut where a pass is full
def test_a_burst_is_prefilled_together_and_each_gives_the_codes_of_alone(
    load: Load, checkpoint: Path, voice: VoicePrompt, monkeypatch: pytest.MonkeyPatch, max_tokens: int
) -> None:
    engine = load(checkpoint, audio_queue_slices=1000)
    wanted = different_prompts(voice)
    alone = [engine.generate(request).codes for request in wanted]  # caches the voices too
    launched: list[int] = []
    launch = engine._runner.launch

    def recording_launch(rows: list[int]) -> Frame:
        launched.append(len(rows))
        return launch(rows)

    monkeypatch.setattr(engine._runner, "launch", recording_launch)
    monkeypatch.setattr(engine._runner.prefills.pipelines[0], "max_tokens", max_tokens)
    monkeypatch.setattr(engine._prefill_budget, "budget", lambda buffers: UNLIMITED)
    for order in (wanted, wanted[::-1]):
        launched.clear()
        with engine._changed:  # the engine finds all of them at once
            streams = [engine.stream(request) for request in order]
        codes = [stream.collect().codes for stream in streams]
        for request, mine in zip(order, codes, strict=True):
            np.testing.assert_array_equal(mine, alone[wanted.index(request)])
        assert launched == [4] * 9  # no step without any of them
