"""Frames as graphs, and beside each other: they say what plain ones say, at addresses that never change."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine import EngineConfig, SpeechRequest, VoicePrompt
from engine.context import Prefill
from engine.engine_core import CsmEngine
from engine.frame_pipeline import CAPTURED_MODE
from engine.loading import load as load_model
from engine.model.graphs import Bucket, BucketGrid, Work
from engine.model.sampling import SamplingMode
from engine.model_runner import MAX_PREFILL_POSITIONS, ModelRunner, SamplingParams

from .tape import HostMustNotWait, TapeCapturer

BUCKETS = BucketGrid((2, 4), (64, 512))
Load = Callable[..., CsmEngine]


@pytest.fixture(scope="module")
def runner(checkpoint: Path) -> ModelRunner:
    config = EngineConfig(str(checkpoint), "cpu", "float32", slots=4)
    return load_model(config, lambda share, what: None).runner


@pytest.fixture
def fresh(runner: ModelRunner) -> ModelRunner:
    """A runner on the same weights that has done nothing yet, with the few buckets that graphs are made for."""
    return ModelRunner(runner.model, runner.codec, 4, BUCKETS)


def settings(row: int, **changes: Any) -> SamplingParams:
    return SamplingParams(**({"seed": row, "temperature_first": 0.9, "temperature": 0.8, "top_k": 50} | changes))


def record(runner: ModelRunner) -> tuple[TapeCapturer, TapeCapturer]:
    steps, codec = TapeCapturer(), TapeCapturer()
    runner.frames.record(steps, codec, lambda done, of: None)
    return steps, codec


def conversation(runner: ModelRunner) -> list[np.ndarray[Any, Any]]:
    """Rows that come and go, within one bucket and across all of them."""
    said: list[np.ndarray[Any, Any]] = []

    def speak(rows: list[int], frames: int) -> None:
        for _ in range(frames):
            frame = runner.step(rows)
            said.extend(part[rows] for part in (frame.codes, frame.stopped, frame.samples))

    runner.reset_row(0, settings(0))
    runner.start_row(0, 60)
    speak([0], 3)
    runner.reset_row(2, settings(2, temperature=0, temperature_first=0))
    runner.start_row(2, 5)
    speak([0, 2], 3)
    speak([2], 2)  # 0 is held
    runner.reset_row(1, settings(1, top_k=3))
    runner.start_row(1, 300)
    speak([0, 1, 2], 4)
    runner.reset_row(0, settings(7))  # another utterance in a row that has just spoken
    runner.start_row(0, 1)
    speak([0], 3)
    return said


def test_replayed_is_plain_bit_for_bit(fresh: ModelRunner, runner: ModelRunner) -> None:
    plain = conversation(ModelRunner(runner.model, runner.codec, 4, BUCKETS))
    steps, codec = record(fresh)
    before = steps.played, codec.played
    replayed = conversation(fresh)
    assert steps.played - before[0] == codec.played - before[1] == len(plain) // 3
    for one, other in zip(plain, replayed, strict=True):
        np.testing.assert_array_equal(one, other)


def test_memory_that_is_taken_beforehand_changes_nothing(fresh: ModelRunner, runner: ModelRunner) -> None:
    def speak(runner: ModelRunner) -> list[np.ndarray[Any, Any]]:
        runner.reset_row(1, settings(1))
        assert runner.prefill(1, Prefill(0, [[5] * (MAX_PREFILL_POSITIONS + 20)]), MAX_PREFILL_POSITIONS + 20) is None
        runner.start_row(1, MAX_PREFILL_POSITIONS + 20)
        return [runner.step([1]).codes[1] for _ in range(3)]

    plain = speak(ModelRunner(runner.model, runner.codec, 4, BUCKETS))
    fresh.overlaps = True
    fresh.preallocate_prefill()
    assert fresh.state.backbone.keys[:, 0, :, fresh.model.config.positions - 1].any()
    for one, other in zip(plain, speak(fresh), strict=True):
        np.testing.assert_array_equal(one, other)


def test_greedy_rows_get_from_a_recorded_step_what_a_greedy_one_gives(fresh: ModelRunner) -> None:
    def speak() -> list[Any]:
        fresh.reset_row(0, settings(0, temperature=0.0, temperature_first=0.0))
        fresh.start_row(0, 3)
        return [fresh.step([0]).codes[0].tolist() for _ in range(5)]

    plain = speak()
    record(fresh)
    assert speak() == plain


def test_whatever_a_request_asks_for_is_recorded(fresh: ModelRunner, runner: ModelRunner) -> None:
    def speak(runner: ModelRunner) -> list[Any]:
        runner.reset_row(0, settings(0, guidance=1.5, unconditional=1))
        runner.reset_row(1, settings(0, sampler=0))
        runner.reset_row(2, settings(2, top_k=66))
        runner.reset_row(3, settings(3, temperature=0.0, temperature_first=0.0))
        for row in range(4):
            runner.start_row(row, 10 * row)
        spoken = [[0, 1]] * 3 + [[0, 1, 3]] * 3 + [[2, 3]] * 3  # guided alone, among others, many tokens
        return [runner.step(rows).codes[rows].tolist() for rows in spoken]

    plain = speak(ModelRunner(runner.model, runner.codec, 4, BUCKETS))
    steps, _ = record(fresh)
    before = steps.played
    assert speak(fresh) == plain
    assert steps.played == before + len(plain)


def test_a_kind_that_memory_had_no_room_for_is_done_plainly(fresh: ModelRunner) -> None:
    steps, codec = record(fresh)
    fresh.frames.general_graphs.clear()
    before = steps.played, codec.played
    assert len(fresh.frames.launch([0], Bucket(2, 64), SamplingMode(64, True, True)).codes) == 2
    assert (steps.played, codec.played) == (before[0], before[1] + 1)


def test_progress_counts_every_graph(fresh: ModelRunner) -> None:
    seen: list[tuple[int, int]] = []
    fresh.frames.record(TapeCapturer(), TapeCapturer(), lambda done, of: seen.append((done, of)))
    assert seen == [(number, 8) for number in range(1, 9)]  # four buckets; two each of rare steps and of the codec's
    assert fresh.frames.recorded == "8 of 8"


class Slips(TapeCapturer):
    """Plays something else than was recorded, for one of the buckets."""

    def __init__(self, state: Tensor) -> None:
        super().__init__()
        self._state, self._count = state, 0

    def capture(self, work: Work) -> Work:
        replay, self._count = super().capture(work), self._count + 1
        if self._count != 3:
            return replay

        def slip() -> None:
            replay()
            self._state[0, 0] += 1

        return slip


def test_a_graph_that_says_something_else_is_found_out(fresh: ModelRunner, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        fresh.frames.record(Slips(fresh.state.output), TapeCapturer(), lambda done, of: None)
    assert "something else" in caplog.text
    assert fresh.frames.recorded == "none"
    assert not fresh.frames.step_graphs.replay(Bucket(4, 512))


def test_where_nothing_can_be_recorded_frames_stay_plain(fresh: ModelRunner, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def capture(self, work: Work) -> Work:
            raise RuntimeError("operation not permitted")

    with caplog.at_level(logging.WARNING):
        fresh.frames.record(Broken(), Broken(), lambda done, of: None)
    assert "operation not permitted" in caplog.text
    assert fresh.frames.recorded == "none"
    assert len(conversation(fresh))


@pytest.mark.parametrize("kind", [CAPTURED_MODE, SamplingMode(64, False, False), SamplingMode(67, True, True)])
def test_a_step_asks_for_no_values_and_moves_nothing(fresh: ModelRunner, kind: SamplingMode) -> None:
    """All of the state stays where it is, and a step can be played again from what it did."""
    state, codec = fresh.state, fresh.codec

    def addresses() -> list[int]:
        own = [value for part in (state, state.sampling) for value in vars(part).values()]
        caches = [cache for part in (state.backbone, state.depth) for cache in (part.keys, part.values)]
        tensors = [each for each in (*own, *caches, *codec._allocated.tensors()) if isinstance(each, Tensor)]
        return [tensor.data_ptr() for tensor in tensors]

    before = addresses()
    assert len(before) > 30
    with torch.inference_mode():
        TapeCapturer().capture(lambda: fresh.model.frame_step(state, 3, 64, kind))
        TapeCapturer().capture(lambda: fresh.frames._decode(Bucket(3)))
    assert addresses() == before


def asks(hidden: Tensor) -> None:
    assert bool(hidden.isfinite().all())


def brings(hidden: Tensor) -> None:
    torch.tensor([1, 2])


@pytest.mark.parametrize("meddle", [asks, brings])
def test_the_tape_notices_who_asks_for_values_or_brings_some(
    fresh: ModelRunner, monkeypatch: pytest.MonkeyPatch, meddle: Callable[[Tensor], None]
) -> None:
    whole = fresh.model._codes

    def meddling(hidden: Tensor, *rest: Any) -> Tensor:
        meddle(hidden)
        return whole(hidden, *rest)

    monkeypatch.setattr(fresh.model, "_codes", meddling)
    with pytest.raises(HostMustNotWait), torch.inference_mode():
        TapeCapturer().capture(lambda: fresh.model.frame_step(fresh.state, 2, 64, CAPTURED_MODE))


@pytest.fixture
def overlapped(load: Load, checkpoint: Path) -> CsmEngine:
    """An engine that works as it does on a GPU: recorded frames, and each handed out while the next is made."""
    engine = load(checkpoint)
    runner = engine._runner
    runner.frames = ModelRunner(runner.model, runner.codec, 4, BUCKETS).frames
    runner.frames._state = runner.state
    record(runner)
    runner.overlaps = True
    return engine


def test_overlapped_frames_say_what_plain_ones_say(
    overlapped: CsmEngine, engine: CsmEngine, voice: VoicePrompt
) -> None:
    requests = [
        SpeechRequest("One is brief.", seed=1, max_frames=1),
        SpeechRequest(
            "Two has a voice, and two chunks of text.", voice=voice, seed=2, max_frames=40, chunk_characters=20
        ),
        SpeechRequest("Three is greedy.", temperature=0, max_frames=17),
        SpeechRequest("Four is guided.", seed=4, guidance=1.5, max_frames=12),
        SpeechRequest("Five lays chunks end to end.", seed=5, max_frames=45, chunk_characters=20, overlap="zero"),
    ]
    expected = [engine.generate(request) for request in requests]
    left = overlapped.stream(SpeechRequest("I leave. " * 9, seed=3))
    next(left)
    streams = [overlapped.stream(request) for request in requests]
    next(left)
    left.close()
    for stream, whole in zip(streams, expected, strict=True):
        speech = stream.collect()
        np.testing.assert_array_equal(speech.codes, whole.codes)
        np.testing.assert_allclose(speech.samples, whole.samples, atol=1e-5 * np.abs(whole.samples).max())


@pytest.mark.parametrize("offset", [0, 1, 6])
def test_overlapped_a_stop_frame_ends_the_speech_right_there(
    overlapped: CsmEngine, monkeypatch: pytest.MonkeyPatch, offset: int
) -> None:
    request = SpeechRequest("Stop when you are done.", seed=12, max_frames=9)
    full = overlapped.generate(request)
    model = overlapped._runner.model
    whole = model._codes
    overlapped._runner.frames._clear_graphs()

    def codes(hidden: Any, state: Any, rows: int, kind: Any) -> Any:
        made = whole(hidden, state, rows, kind)
        made[state.sampling.frame[:rows] == offset] = 0
        return made

    monkeypatch.setattr(model, "_codes", codes)
    np.testing.assert_array_equal(overlapped.generate(request).codes, full.codes[:offset])
