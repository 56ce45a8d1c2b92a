"""Graphs that are recorded after the first request: the same speech, and no request waits for more than one of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import Codes, EngineConfig, SpeechRequest
from engine.engine_core import CsmEngine
from engine.graph_recording import GraphRecording
from engine.loading import Loaded, _slots_in_real_time
from engine.loading import load as load_model
from engine.model.graphs import Bucket, BucketGrid, GraphCapturer, Work
from engine.model_runner import ModelRunner

from .tape import TapeCapturer
from .test_engine_core import eventually
from .test_prefill_pipeline import GatheredAttention

BUCKETS = BucketGrid((2, 4), (64, 512))
FIRST, REQUEST = SpeechRequest("One.", seed=1, max_frames=2), SpeechRequest("Two, and more.", seed=2, max_frames=6)
Begin = Callable[..., CsmEngine]


class CountingCapturer(TapeCapturer):
    """Does something before the capture of a number, which counts from 1."""

    def __init__(self, before: Callable[[int], None] = lambda number: None) -> None:
        super().__init__()
        self._before, self._count = before, 0

    def capture(self, work: Work) -> Work:
        self._count += 1
        self._before(self._count)
        return super().capture(work)


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> Loaded:
    return load_model(EngineConfig(str(checkpoint), "cpu", "float32", slots=4), lambda share, what: None)


@pytest.fixture
def runner(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> ModelRunner:
    """A runner that packs prompts as on a GPU, on the weights that all tests share."""
    model = loaded.runner.model
    monkeypatch.setattr(model, "prompt_attention", GatheredAttention())
    return ModelRunner(model, loaded.runner.codec, 4, BUCKETS)


def recording_of(runner: ModelRunner, steps: GraphCapturer) -> GraphRecording:
    return GraphRecording(runner.frames, runner.prefills, steps, TapeCapturer(), TapeCapturer)


@pytest.fixture
def begin(loaded: Loaded, runner: ModelRunner) -> Iterator[Begin]:
    engines: list[CsmEngine] = []

    def engine(steps: GraphCapturer) -> CsmEngine:
        recording = recording_of(runner, steps)
        recording.record_largest(lambda share, what: None)
        part = Loaded(runner, loaded.tokenizer, 4, 1 << 20, loaded.detail, recording)
        engines.append(CsmEngine(part, EngineConfig("tiny")))
        return engines[-1]

    yield engine
    for each in engines:
        each.close()


@pytest.fixture(scope="module")
def expected(loaded: Loaded) -> Codes:
    """The codes of REQUEST without a graph."""
    engine = CsmEngine(loaded, EngineConfig("tiny"))
    codes = engine.generate(REQUEST).codes
    engine.close()
    assert codes is not None
    return codes


def graphs_of(engine: CsmEngine) -> tuple[object, object]:
    detail = engine.status().detail
    return detail["graphs"], detail["prompt_graphs"]


def test_the_largest_graphs_serve_until_the_others_are_recorded(
    begin: Begin, runner: ModelRunner, expected: Codes
) -> None:
    steps = TapeCapturer()
    engine = begin(steps)
    assert (runner.frames.graph_summary, runner.prefills.graphs) == ("5 of 9", 1)
    assert runner.frames.recorded_buckets.rows == (4,)
    before = steps.replays
    np.testing.assert_array_equal(engine.generate(REQUEST).codes, expected)
    assert steps.replays == before + 6  # of four rows, for one
    engine.generate(FIRST)  # neither is a client's: both prepare voices
    assert runner.frames.graph_summary == "5 of 9"
    engine.stream(FIRST).collect()
    eventually(lambda: graphs_of(engine) == ("9 of 9", 4))
    assert runner.frames.recorded_buckets.rows == (2, 4)
    assert Bucket(2, 64) in runner.frames.step_graphs
    np.testing.assert_array_equal(engine.generate(REQUEST).codes, expected)


def test_a_request_waits_for_one_graph_at_most(begin: Begin, expected: Codes) -> None:
    reached, permits = threading.Event(), threading.Semaphore(0)

    def wait(number: int) -> None:
        if number > 3:  # three are recorded at load
            reached.set()
            assert permits.acquire(timeout=60)

    engine = begin(CountingCapturer(wait))
    engine.stream(FIRST).collect()
    assert reached.wait(60)
    stream = engine.stream(REQUEST)  # while the first of the others is recorded
    permits.release()
    np.testing.assert_array_equal(stream.collect().codes, expected)  # the second one still waits
    permits.release(10)
    eventually(lambda: graphs_of(engine) == ("9 of 9", 4))


def test_a_wrong_graph_that_is_recorded_later_drops_all(
    begin: Begin, runner: ModelRunner, expected: Codes, caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty(CountingCapturer):
        def capture(self, work: Work) -> Work:
            replay = super().capture(work)
            if self._count != 5:
                return replay

            def wrong() -> None:
                replay()
                runner.state.output[0, 0] += 1

            return wrong

    with caplog.at_level(logging.WARNING):
        engine = begin(Faulty())
        engine.stream(FIRST).collect()
        eventually(lambda: graphs_of(engine) == ("none", 4))
    assert "differs from the eager step (2 rows" in caplog.text
    np.testing.assert_array_equal(engine.generate(REQUEST).codes, expected)


def test_an_engine_closes_between_two_graphs(begin: Begin) -> None:
    reached, closing = threading.Event(), threading.Event()

    def wait(number: int) -> None:
        if number > 3:
            assert not closing.is_set(), "a graph is recorded although the engine closes"
            reached.set()
            eventually(lambda: engine._closing)
            closing.set()

    engine = begin(CountingCapturer(wait))
    engine.stream(FIRST).collect()
    assert reached.wait(60)
    engine.close()
    assert graphs_of(engine)[0] == "6 of 9"
    assert engine.status().error is None


def test_rows_are_used_once_all_their_graphs_are_recorded(runner: ModelRunner) -> None:
    def full(number: int) -> None:
        if number == 6:
            raise torch.OutOfMemoryError("full")

    frames = runner.frames
    seen = [frames.recorded_buckets.rows for _ in frames.record_graphs(CountingCapturer(full), TapeCapturer())]
    assert seen == [(2, 4)] * 4 + [(4,)] * 5  # the last: one of two rows has no memory
    assert frames.recorded_buckets == BUCKETS
    assert frames.graph_summary == "8 of 9"


def test_slots_are_timed_with_graphs(runner: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[tuple[Bucket, bool]] = []

    def measure(bucket: Bucket) -> float:
        timed.append((bucket, bucket in runner.frames.step_graphs))
        return 0.09 if bucket.rows == 4 else 0.01

    monkeypatch.setattr(runner.frames, "measure_seconds", measure)
    recording = recording_of(runner, TapeCapturer())
    recording.record_largest(lambda share, what: None)
    assert _slots_in_real_time(runner, 4, recording) == 2
    assert timed == [(Bucket(4, 512), True), (Bucket(2, 512), True)]
