"""Which stream a prompt is prefilled on, and what that stream waits for: on streams that complete when told to."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from engine import EngineConfig, SpeechRequest, prefill_streams
from engine.context import Prefill
from engine.cuda_streams import StreamEvent
from engine.engine_core import CsmEngine
from engine.loading import load
from engine.model.graphs import BucketGrid
from engine.model_runner import ModelRunner, SamplingParams
from engine.prefill_streams import open_streams
from engine.prompt_packing import PromptPiece

from .tape import TapeCapturer

ROWS = 8
CPU = torch.device("cpu")


class FakeEvent(StreamEvent):
    def __init__(self, stream: FakeStream) -> None:
        super().__init__()
        self.stream, self.done = stream, False

    @property
    def completed(self) -> bool:
        return self.done


class FakeStream:
    """Implements DeviceStream on a CPU; its events complete when `finish` is called."""

    handles: ClassVar[list[int]] = []
    opened: ClassVar[list[FakeStream]] = []

    def __init__(self, device: torch.device, priority: int) -> None:
        if not self.handles:
            raise RuntimeError("out of streams")
        self.handle = self.handles.pop(0)
        self.events: list[FakeEvent] = []
        self.waited: list[StreamEvent] = []
        self.opened.append(self)

    def as_current(self) -> Any:
        return contextlib.nullcontext()

    def wait_event(self, event: StreamEvent) -> None:
        self.waited.append(event)

    def record_event(self) -> StreamEvent:
        self.events.append(FakeEvent(self))
        return self.events[-1]

    def record_use(self, tensor: torch.Tensor) -> None:
        pass

    def finish(self) -> None:
        for event in self.events:
            event.done = True


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> list[FakeStream]:
    monkeypatch.setattr(FakeStream, "handles", list(range(100, 132)))
    monkeypatch.setattr(FakeStream, "opened", [])
    monkeypatch.setattr(prefill_streams, "DeviceStream", FakeStream)
    return FakeStream.opened


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> ModelRunner:
    return load(EngineConfig(str(checkpoint), "cpu", "float32", slots=2), lambda share, what: None).runner


def runner_of(loaded: ModelRunner, streams: int) -> ModelRunner:
    return ModelRunner(loaded.model, loaded.codec, ROWS, BucketGrid((ROWS,), (512,)), streams)


def prompt(row: int, start: int = 0) -> PromptPiece:
    return PromptPiece(row, Prefill(start, [list(range(1, 20))]))


def stream_of(runner: ModelRunner, row: int) -> Any:
    return runner.prefills._pipeline_of[row].stream


def test_a_round_shares_a_stream_and_the_next_takes_an_idle_one(loaded: ModelRunner, fakes: list[FakeStream]) -> None:
    runner = runner_of(loaded, 3)
    first, second, third = fakes
    for row in (0, 1):
        runner.assign_stream([row])
    runner.prefill([prompt(0), prompt(1)])
    runner.assign_stream([2, 3])  # the two rows of a request with guidance
    runner.prefill([prompt(2), prompt(3)])
    runner.assign_stream([4])
    runner.prefill([prompt(4)])
    assert [stream_of(runner, row) for row in range(5)] == [first, first, second, second, third]
    assert [len(each.events) for each in fakes] == [1, 1, 1]  # one launch for each round
    runner.assign_stream([5])
    assert stream_of(runner, 5) is third  # all are busy: it has the fewest tokens in flight
    first.finish()
    runner.assign_stream([5])
    assert stream_of(runner, 5) is first


def test_a_prompt_stays_on_its_stream(loaded: ModelRunner, fakes: list[FakeStream]) -> None:
    runner = runner_of(loaded, 2)
    runner.assign_stream([0])
    runner.prefill([prompt(0)])
    runner.assign_stream([1])
    runner.prefill([prompt(0, start=32), prompt(1)])  # one pass on each stream
    assert [len(each.events) for each in fakes] == [2, 1]
    assert fakes[0].events[0] in fakes[0].waited


def test_a_row_waits_for_the_stream_that_wrote_it_last(loaded: ModelRunner, fakes: list[FakeStream]) -> None:
    runner = runner_of(loaded, 2)
    first, second = fakes
    runner.assign_stream([0])
    runner.prefill([prompt(0)])
    runner.assign_stream([0])  # its request was cancelled: the row has a new one, on the other stream
    runner.prefill([prompt(0)])
    assert stream_of(runner, 0) is second
    assert first.events[0] in second.waited
    runner.assign_stream([1])
    assert stream_of(runner, 1) is first
    runner.prefill([prompt(1)])
    assert not set(second.events) & set(first.waited)
    assert runner.prefills.prefilled([0]) == {second.events[-1]}


def test_a_restored_voice_waits_until_it_is_saved(loaded: ModelRunner, fakes: list[FakeStream]) -> None:
    runner = runner_of(loaded, 2)
    first, second = fakes
    runner.assign_stream([0])
    runner.prefill([prompt(0)])
    saved = runner.copy_kv(0, 10)
    runner.assign_stream([1])
    runner.restore_kv(1, saved)
    runner.prefill([])
    assert saved.written in first.events
    assert saved.written in second.waited
    keys = runner.state.backbone.keys
    assert torch.equal(keys[:, 0, :, :10], keys[:, 1, :, :10])
    assert runner.prefills.prefilled([1]) == {second.events[-1]}


def test_frames_wait_for_the_prompts_of_their_new_rows_alone(
    loaded: ModelRunner, fakes: list[FakeStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = runner_of(loaded, 2)
    waited: list[StreamEvent] = []
    monkeypatch.setattr(runner.frames.model_stream, "wait_event", waited.append)
    params = SamplingParams(seed=0, temperature_first=0.9, temperature=0.8, top_k=50)
    for row in (0, 1):
        runner.reset_row(row, params)
        runner.assign_stream([row])
        runner.prefill([prompt(row)])
    runner.start_row(1, 19)
    runner.apply_changes()
    assert [each for each in waited if isinstance(each, FakeEvent)] == fakes[1].events


def test_codes_do_not_depend_on_the_number_of_streams(
    checkpoint: Path, fakes: list[FakeStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [SpeechRequest(f"Number {n} of several.", seed=n, max_frames=6) for n in range(6)]
    codes = []
    for count in (1, 3):
        monkeypatch.setattr("engine.loading._streams", lambda device, config, count=count: count)
        engine = CsmEngine.load(EngineConfig(str(checkpoint), "cpu", "float32", slots=4), lambda share, what: None)
        streams = [engine.stream(request) for request in requests]
        codes.append([each.collect().codes.tolist() for each in streams])
        engine.close()
    assert codes[0] == codes[1]
    assert len(fakes) == 4
    assert all(each.events for each in fakes)  # every stream was used


def test_streams_are_no_more_than_rows(loaded: ModelRunner, fakes: list[FakeStream]) -> None:
    assert len(runner_of(loaded, 32).prefills.pipelines) == ROWS


def test_a_card_with_fewer_streams_says_so(
    fakes: list[FakeStream], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    FakeStream.handles[:] = [1, 2, 1]  # the driver hands out the first again
    assert [each.handle for each in open_streams(CPU, 4)] == [1, 2]
    assert "2 of the 4 prefill streams asked for: cpu gives no more" in caplog.text
    FakeStream.handles[:] = [1]
    assert [each.handle for each in open_streams(CPU, 2)] == [1]
    assert "out of streams" in caplog.text
    caplog.clear()
    FakeStream.handles[:] = [1, 2]
    assert len(open_streams(CPU, 2)) == 2
    assert not caplog.text
    FakeStream.handles.clear()
    with pytest.raises(RuntimeError, match="out of streams"):
        open_streams(CPU, 1)


def test_a_stream_without_memory_for_its_graphs_is_not_used(
    loaded: ModelRunner, fakes: list[FakeStream], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loaded.model, "prompt_attention", _Attention())
    runner = runner_of(loaded, 2)
    capturers = iter((TapeCapturer(), _NoMemory()))
    with caplog.at_level(logging.WARNING):
        seen = list(runner.prefills.record_graphs(lambda: next(capturers)))
    assert [each.stream for each in runner.prefills.pipelines] == fakes[:1]
    assert seen[-1] == (len(seen), len(seen))
    assert "1 prefill streams are not used" in caplog.text
    runner.assign_stream([0])
    runner.prefill([prompt(0)])
    runner.assign_stream([1])
    assert stream_of(runner, 1) is fakes[0]


class _NoMemory(TapeCapturer):
    def capture(self, work: Any) -> Any:
        raise torch.OutOfMemoryError("full")


class _Attention:
    """Implements PromptAttention: a masked copy of its row for each token."""

    align = 4

    def __call__(self, q: Any, keys: Any, values: Any, rows: Any, positions: Any) -> Any:
        mask = (torch.arange(keys.shape[2]) <= positions[:, None])[:, None, None]
        y = torch.nn.functional.scaled_dot_product_attention(q, keys[rows], values[rows], mask)
        return y.masked_fill((positions >= keys.shape[2])[:, None, None, None], 0.0)
