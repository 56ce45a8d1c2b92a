"""Captured and overlapped frames: equal to eager ones, on static addresses."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine import EngineConfig, SpeechRequest, VoicePrompt
from engine.context import Prefill
from engine.cuda_streams import StreamEvent
from engine.engine_core import CsmEngine
from engine.frame_pipeline import CAPTURED_MODE, Frame
from engine.loading import load as load_model
from engine.model.fused_frames import FusedFrames
from engine.model.graphs import Bucket, BucketGrid, Work
from engine.model.sampling import SamplingMode
from engine.model_runner import ModelRunner, SamplingParams
from engine.prefill_budget import PrefillBudget
from engine.prompt_packing import PromptPiece

from .tape import HostSynchronization, TapeCapturer
from .test_engine_core import eventually

BUCKETS = BucketGrid((2, 4), (64, 512))
Load = Callable[..., CsmEngine]


@pytest.fixture(scope="module")
def runner(checkpoint: Path) -> ModelRunner:
    config = EngineConfig(str(checkpoint), "cpu", "float32", slots=4)
    return load_model(config, lambda share, what: None).runner


@pytest.fixture
def fresh(runner: ModelRunner) -> ModelRunner:
    """A new runner on the same weights, with few buckets to capture."""
    return ModelRunner(runner.model, runner.codec, 4, BUCKETS)


def params(row: int, **changes: Any) -> SamplingParams:
    return SamplingParams(**({"seed": row, "temperature_first": 0.9, "temperature": 0.8, "top_k": 50} | changes))


def capture(runner: ModelRunner) -> tuple[TapeCapturer, TapeCapturer]:
    steps, codec = TapeCapturer(), TapeCapturer()
    list(runner.frames.record_graphs(steps, codec))
    return steps, codec


def run_rows(runner: ModelRunner) -> list[np.ndarray[Any, Any]]:
    """Outputs of rows that join and leave, within one bucket and across all of them."""
    outputs: list[np.ndarray[Any, Any]] = []

    def speak(rows: list[int], frames: int) -> None:
        for _ in range(frames):
            frame = runner.step(rows)
            outputs.extend(part[rows] for part in (frame.codes, frame.stopped, frame.samples))

    runner.reset_row(0, params(0))
    runner.start_row(0, 60)
    speak([0], 3)
    runner.reset_row(2, params(2, temperature=0, temperature_first=0))
    runner.start_row(2, 5)
    speak([0, 2], 3)
    speak([2], 2)  # 0 is held
    runner.reset_row(1, params(1, top_k=3))
    runner.start_row(1, 300)
    speak([0, 1, 2], 4)
    runner.reset_row(0, params(7))  # another request in a row that was just active
    runner.start_row(0, 1)
    speak([0], 3)
    return outputs


def test_replayed_frames_equal_eager_ones_bit_for_bit(fresh: ModelRunner, runner: ModelRunner) -> None:
    plain = run_rows(ModelRunner(runner.model, runner.codec, 4, BUCKETS))
    steps, codec = capture(fresh)
    before = steps.replays, codec.replays
    replayed = run_rows(fresh)
    assert steps.replays - before[0] == len(plain) // 3
    assert codec.replays - before[1] == len(plain) // 3 + 4  # and a reset for each request
    for one, other in zip(plain, replayed, strict=True):
        np.testing.assert_array_equal(one, other)


def test_preallocating_prefill_memory_does_not_change_the_output(fresh: ModelRunner, runner: ModelRunner) -> None:
    def speak(runner: ModelRunner) -> list[np.ndarray[Any, Any]]:
        runner.reset_row(1, params(1))
        runner.prefill([PromptPiece(1, Prefill(0, [[5] * (runner.prefills.max_tokens + 20)]))])
        runner.start_row(1, runner.prefills.max_tokens + 20)
        return [runner.step([1]).codes[1] for _ in range(3)]

    plain = speak(ModelRunner(runner.model, runner.codec, 4, BUCKETS))
    fresh.overlaps = True
    fresh.preallocate_prefill()
    assert fresh.state.backbone.keys[:, 0, :, fresh.model.config.positions - 1].any()
    for one, other in zip(plain, speak(fresh), strict=True):
        np.testing.assert_array_equal(one, other)


def test_comparing_graphs_with_eager_steps_leaves_no_keys_behind(fresh: ModelRunner) -> None:
    """A row reads zeros at positions that nothing has written, whether graphs were captured or not."""
    capture(fresh)
    cache = fresh.state.backbone
    assert cache.keys[..., cache.scratch, :].any()  # inactive rows write there, and nothing reads it
    for tensor in (cache.keys, cache.values):
        assert not tensor[..., : cache.scratch, :].any()


def test_greedy_rows_in_a_captured_step_equal_a_greedy_step(fresh: ModelRunner) -> None:
    def speak() -> list[Any]:
        fresh.reset_row(0, params(0, temperature=0.0, temperature_first=0.0))
        fresh.start_row(0, 3)
        return [fresh.step([0]).codes[0].tolist() for _ in range(5)]

    plain = speak()
    capture(fresh)
    assert speak() == plain


class RecordedStep:
    """Implements FusedStep with the plain step, and records the buckets that it computes."""

    pdl = False
    persistent: Any = None

    def __init__(self, runner: ModelRunner) -> None:
        self.buckets: list[tuple[int, int]] = []
        self.codes = runner.state.codes
        self._runner = runner

    def frame(self, rows: int, context: int, logits: list[Tensor] | None = None) -> None:
        self.buckets.append((rows, context))
        mode = SamplingMode(top_k=self._runner.model.sampled_vocab, sampled=True, guided=True)
        self._runner.model.frame_step(self._runner.state, rows, context, mode)


def test_fused_kernels_compute_the_buckets_in_which_they_are_used(fresh: ModelRunner, runner: ModelRunner) -> None:
    """In any sampling mode, and without graphs of a general step."""
    plain = run_rows(ModelRunner(runner.model, runner.codec, 4, BUCKETS))
    assert fresh.frames.step_summary == "plain"
    step = RecordedStep(fresh)
    fresh.frames.fused = FusedFrames(step, frozenset({2}))
    assert fresh.frames.step_summary == "fused kernels for 2 rows, others plain"
    for one, other in zip(plain, run_rows(fresh), strict=True):
        np.testing.assert_array_equal(one, other)
    assert set(step.buckets) == {(2, 64)}
    step.buckets.clear()
    fresh.reset_row(0, params(0, guidance=1.5, unconditional=1, top_k=66))
    fresh.start_row(0, 70)
    fresh.step([0])
    assert step.buckets == [(2, 512)]
    captured = ModelRunner(runner.model, runner.codec, 4, BUCKETS)
    captured.frames.fused = FusedFrames(RecordedStep(captured), frozenset({2}))
    capture(captured)
    assert Bucket(2, 64) in captured.frames.step_graphs
    assert Bucket(4, 512) in captured.frames.general_graphs
    assert Bucket(2, 512) not in captured.frames.general_graphs
    fresh.frames.fused = FusedFrames(step, frozenset({2, 4}))
    assert fresh.frames.step_summary == "fused kernels"


def test_a_persistent_kernel_waits_until_the_frame_before_is_decoded(
    fresh: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves no room on a GPU: the first sound of a request would wait for the second frame's step."""
    streams = fresh.frames.model_stream, fresh.frames.codec_stream
    recorded: dict[StreamEvent, str] = {}
    waited: list[str | None] = []
    for name, stream in zip(("step", "codec"), streams, strict=True):

        def record(name: str = name) -> StreamEvent:
            event = StreamEvent()
            recorded[event] = f"{name} {sum(each.startswith(name) for each in recorded.values())}"
            return event

        monkeypatch.setattr(stream, "record_event", record)
    monkeypatch.setattr(streams[0], "wait_event", lambda event: waited.append(recorded.get(event)))
    step = RecordedStep(fresh)
    fresh.frames.fused = FusedFrames(step, frozenset({2, 4}))
    fresh.reset_row(0, params(0))
    fresh.start_row(0, 5)
    fresh.step([0])
    fresh.step([0])
    step.persistent = object()
    assert fresh.frames.step_summary == "fused kernels, one for the depth decoder"
    fresh.step([0])
    # The codec records when it has copied the codes, then when the samples are there.
    assert [each for each in waited if each] == ["codec 0", "codec 3"]


def test_every_sampling_mode_is_captured(fresh: ModelRunner, runner: ModelRunner) -> None:
    def speak(runner: ModelRunner) -> list[Any]:
        runner.reset_row(0, params(0, guidance=1.5, unconditional=1))
        runner.reset_row(1, params(0, sampler=0))
        runner.reset_row(2, params(2, top_k=66))
        runner.reset_row(3, params(3, temperature=0.0, temperature_first=0.0))
        for row in range(4):
            runner.start_row(row, 10 * row)
        spoken = [[0, 1]] * 3 + [[0, 1, 3]] * 3 + [[2, 3]] * 3  # guidance alone, guidance with others, a large top_k
        return [runner.step(rows).codes[rows].tolist() for rows in spoken]

    plain = speak(ModelRunner(runner.model, runner.codec, 4, BUCKETS))
    steps, _ = capture(fresh)
    before = steps.replays
    assert speak(fresh) == plain
    assert steps.replays == before + len(plain)


def test_a_graph_missing_for_want_of_memory_runs_eagerly(fresh: ModelRunner) -> None:
    steps, codec = capture(fresh)
    fresh.frames.general_graphs.clear()
    before = steps.replays, codec.replays
    assert len(fresh.frames.launch([0], Bucket(2, 64), SamplingMode(64, True, True)).codes) == 2
    assert (steps.replays, codec.replays) == (before[0], before[1] + 1)


def test_progress_counts_every_graph(fresh: ModelRunner) -> None:
    seen = list(fresh.frames.record_graphs(TapeCapturer(), TapeCapturer()))
    assert seen == [
        (number, 9) for number in range(1, 10)
    ]  # four buckets; two each of the general step and of the codec; the codec's reset
    assert fresh.frames.graph_summary == "9 of 9"


class FaultyCapturer(TapeCapturer):
    """Replays with a wrong result for one of the buckets."""

    def __init__(self, state: Tensor) -> None:
        super().__init__()
        self._state, self._count = state, 0

    def capture(self, work: Work) -> Work:
        replay, self._count = super().capture(work), self._count + 1
        if self._count != 3:
            return replay

        def wrong_replay() -> None:
            replay()
            self._state[0, 0] += 1

        return wrong_replay


def test_a_graph_with_wrong_results_is_detected(fresh: ModelRunner, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        list(fresh.frames.record_graphs(FaultyCapturer(fresh.state.output), TapeCapturer()))
    assert "differs from the eager step" in caplog.text
    assert fresh.frames.graph_summary == "none"
    assert not fresh.frames.step_graphs.replay(Bucket(4, 512))


def test_frames_run_eagerly_when_capture_fails(fresh: ModelRunner, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def capture(self, work: Work) -> Work:
            raise RuntimeError("operation not permitted")

    with caplog.at_level(logging.WARNING):
        list(fresh.frames.record_graphs(Broken(), Broken()))
    assert "operation not permitted" in caplog.text
    assert fresh.frames.graph_summary == "none"
    assert len(run_rows(fresh))


@pytest.mark.parametrize("kind", [CAPTURED_MODE, SamplingMode(64, False, False), SamplingMode(67, True, True)])
def test_a_step_reads_no_values_on_the_host_and_keeps_its_addresses(fresh: ModelRunner, kind: SamplingMode) -> None:
    """The state's tensors keep their addresses, and a step can be replayed from its operators."""
    state, codec = fresh.state, fresh.codec

    def addresses() -> list[int]:
        own = [value for part in (state, state.sampling) for value in vars(part).values()]
        caches = [cache for part in (state.backbone, state.depth) for cache in (part.keys, part.values)]
        tensors = [each for each in (*own, *caches, *codec._allocated.tensors()) if isinstance(each, Tensor)]
        return [tensor.data_ptr() for tensor in tensors]

    before = addresses()
    assert len(before) > 20
    with torch.inference_mode():
        TapeCapturer().capture(lambda: fresh.model.frame_step(state, 3, 64, kind))
        TapeCapturer().capture(lambda: fresh.frames._decode(Bucket(3)))
    assert addresses() == before


def read_value(hidden: Tensor) -> None:
    assert bool(hidden.isfinite().all())


def create_from_host(hidden: Tensor) -> None:
    torch.tensor([1, 2])


@pytest.mark.parametrize("operation", [read_value, create_from_host])
def test_the_tape_rejects_reading_or_creating_values_on_the_host(
    fresh: ModelRunner, monkeypatch: pytest.MonkeyPatch, operation: Callable[[Tensor], None]
) -> None:
    original = fresh.model._codes

    def patched(hidden: Tensor, *rest: Any) -> Tensor:
        operation(hidden)
        return original(hidden, *rest)

    monkeypatch.setattr(fresh.model, "_codes", patched)
    with pytest.raises(HostSynchronization), torch.inference_mode():
        TapeCapturer().capture(lambda: fresh.model.frame_step(fresh.state, 2, 64, CAPTURED_MODE))


@pytest.fixture
def overlapped(load: Load, checkpoint: Path) -> CsmEngine:
    """An engine that runs as on a GPU: replayed frames, each emitted while the next is computed."""
    engine = load(checkpoint)
    runner = engine._runner
    runner.frames = ModelRunner(runner.model, runner.codec, 4, BUCKETS).frames
    runner.frames._state = runner.state
    capture(runner)
    runner.overlaps = True
    return engine


def test_overlapped_frames_equal_eager_ones(overlapped: CsmEngine, engine: CsmEngine, voice: VoicePrompt) -> None:
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
def test_a_stop_frame_ends_overlapped_speech_before_it(
    overlapped: CsmEngine, monkeypatch: pytest.MonkeyPatch, offset: int
) -> None:
    request = SpeechRequest("Stop when you are done.", seed=12, max_frames=9)
    full = overlapped.generate(request)
    model = overlapped._runner.model
    original = model._codes
    overlapped._runner.frames._clear_graphs()

    def codes(hidden: Any, state: Any, rows: int, kind: Any) -> Any:
        made = original(hidden, state, rows, kind)
        made[state.sampling.frame[:rows] == offset] = 0
        return made

    monkeypatch.setattr(model, "_codes", codes)
    np.testing.assert_array_equal(overlapped.generate(request).codes, full.codes[:offset])


class Unfinished(StreamEvent):
    """The event of a frame that the device still computes."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()

    @property
    def completed(self) -> bool:
        return self.reached.is_set()

    def wait(self) -> None:
        assert self.reached.wait(60)


def test_a_request_is_prefilled_beside_the_frame_that_is_being_computed(
    overlapped: CsmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, late = overlapped, SpeechRequest("I come late.", seed=8, max_frames=5)
    expected = engine.generate(late).codes
    monkeypatch.setattr(PrefillBudget, "step_seconds", 60.0)
    runner, computing, prefilled = engine._runner, Unfinished(), threading.Event()
    launch, prefill = runner.launch, runner.prefill
    frames: list[Frame] = []

    def launch_and_take_long(rows: list[int]) -> Frame:
        frame = launch(rows)
        frames.append(frame)
        if len(frames) == 3:
            frame._codes_event = computing
        return frame

    def recording_prefill(pieces: Any) -> None:
        prefill(pieces)
        if len(frames) == 3:
            prefilled.set()

    monkeypatch.setattr(runner, "launch", launch_and_take_long)
    monkeypatch.setattr(runner, "prefill", recording_prefill)
    first = engine.stream(SpeechRequest("I speak first.", seed=1, max_frames=8))
    eventually(lambda: len(frames) == 3)
    second = engine.stream(late)
    assert prefilled.wait(60)  # though the third frame is not computed
    assert len(frames) == 3
    computing.reached.set()
    engine._wake()
    np.testing.assert_array_equal(second.collect().codes, expected)
    assert len(first.collect().codes) == 8
