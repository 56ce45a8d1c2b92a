"""CUDA graphs of every bucket give bit for bit what the plain kernels give, and allocate no memory when replayed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import AUTO_SLOTS, EngineConfig
from engine.context import Prefill
from engine.cuda_streams import StreamPriority
from engine.frame_pipeline import CAPTURED_MODE
from engine.loading import load
from engine.model.graphs import Bucket, CudaGraphCapturer
from engine.model.ragged_attention import verified_ragged_attention
from engine.model_runner import PREFILL_STREAMS, ModelRunner, SamplingParams
from engine.random_checkpoint import TINY, build_model, write_checkpoint

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]

ROWS = 6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), build_model(TINY))


@pytest.fixture(autouse=True)
def restore_precision() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")


def runner_of(checkpoint: Path, dtype: Any, graphs: bool, live: bool = True) -> ModelRunner:
    config = EngineConfig(str(checkpoint), "cuda", dtype, slots=ROWS, compile="off")
    runner = load(config, lambda share, what: None).runner
    model = runner.model
    assert model.ragged_attention is None  # not with compile="off"
    if live:
        model.ragged_attention = verified_ragged_attention(model.config.backbone, model.device, model.dtype)
        assert model.ragged_attention is not None
    if graphs:
        runner.frames.record(
            *(CudaGraphCapturer(runner.device, StreamPriority.FRAMES) for _ in range(2)), lambda done, of: None
        )
        count = len(runner.frames.buckets.largest_first()) + 2 * len(runner.frames.buckets.rows)
        assert runner.frames.recorded == f"{count} of {count}"
    return runner


def conversation(runner: ModelRunner) -> list[np.ndarray[Any, Any]]:
    """Rows that join and leave, at contexts on both sides of a bucket's edge; one frame read behind the next."""
    said: list[np.ndarray[Any, Any]] = []

    def begin(row: int, position: int, **changes: Any) -> None:
        settings = {"seed": row, "temperature_first": 0.9, "temperature": 0.8, "top_k": 50} | changes
        runner.reset_row(row, SamplingParams(**settings))
        runner.start_row(row, position)

    def speak(rows: list[int], count: int) -> None:
        before = None
        for _ in range(count):
            frame = runner.launch(rows)
            if before is not None:
                said.append(before.samples[rows])
            said.extend((frame.codes[rows], frame.stopped[rows]))
            before = frame
        assert before is not None
        said.append(before.samples[rows])

    begin(0, 250)
    speak([0], 12)
    begin(3, 20, temperature=0.0, temperature_first=0.0)
    speak([0, 3], 9)
    speak([3], 3)
    begin(5, 400, top_k=3)
    begin(1, 0)
    speak([0, 1, 3, 5], 15)
    begin(0, 2, seed=11)
    speak([0], 5)
    return said


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_replayed_is_plain_bit_for_bit(checkpoint: Path, dtype: str, live: bool) -> None:
    plain = conversation(runner_of(checkpoint, dtype, graphs=False, live=live))
    replayed = conversation(runner_of(checkpoint, dtype, graphs=True, live=live))
    for one, other in zip(plain, replayed, strict=True):
        if one.dtype == np.float32:
            np.testing.assert_allclose(one, other, atol=1e-4 * max(float(np.abs(one).max()), 1e-6))
        else:
            np.testing.assert_array_equal(one, other)


def test_a_guided_frame_is_replayed(checkpoint: Path) -> None:
    runner = runner_of(checkpoint, "float32", graphs=True)
    runner.reset_row(0, SamplingParams(0, 0.9, 0.8, 50, guidance=1.5, unconditional=1))
    runner.reset_row(1, SamplingParams(0, 0.9, 0.8, 50, sampler=0))
    for row in (0, 1):
        runner.start_row(row, 30)
    runner.step([0, 1])
    runner.frames._eager_step = None  # type: ignore[method-assign, assignment]
    codes = runner.step([0, 1]).codes
    np.testing.assert_array_equal(codes[0], codes[1])


def test_frames_and_prompts_take_no_memory(checkpoint: Path) -> None:
    runner = runner_of(checkpoint, "bfloat16", graphs=True)
    conversation(runner)
    torch.cuda.synchronize()
    before = torch.cuda.memory_reserved()
    conversation(runner)
    torch.cuda.synchronize()
    assert torch.cuda.memory_reserved() == before
    runner.preallocate_prefill()  # once more, since recording gave back what the start had taken
    before = torch.cuda.memory_reserved()
    codes = np.zeros((runner.model.config.positions, runner.model.config.codebooks), np.int64)
    for row in range(ROWS):
        assert runner.prefill(row, Prefill(0, [[1] * 9, codes[9:]]), codes.shape[0]) is None
    torch.cuda.synchronize()
    # the smallest block of PyTorch's allocator for small tensors is 2 MiB
    assert torch.cuda.memory_reserved() - before <= PREFILL_STREAMS * (2 << 20)


def test_neither_a_frame_nor_a_prompt_is_waited_for(checkpoint: Path) -> None:
    """What the engine's thread sets off makes no call that waits for the device."""
    runner = runner_of(checkpoint, "float32", graphs=True)
    settings = SamplingParams(seed=0, temperature_first=1.0, temperature=1.0, top_k=50)
    runner.reset_row(0, settings)
    runner.start_row(0, 10)
    runner.step([0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        frame = runner.launch([0])
        runner.frames._eager_step(Bucket(2, 256), CAPTURED_MODE)
        runner.reset_row(1, settings)
        codes = np.zeros((20, runner.model.config.codebooks), np.int64)
        rest = runner.prefill(1, Prefill(0, [[1] * 10, codes]), 16)
        assert rest is not None
        assert runner.prefill(1, rest, 16) is None
        runner.restore_kv(2, runner.copy_kv(1, 20))
        runner.start_row(1, 30)
        runner.is_prefilled(1, wait=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(frame.samples) == 2


def test_slots_are_worked_out_from_memory(checkpoint: Path) -> None:
    loaded = load(EngineConfig(str(checkpoint), "cuda", slots=AUTO_SLOTS), lambda share, what: None)
    assert 2 <= loaded.slots <= loaded.runner.rows
    assert loaded.runner.step([loaded.slots - 1]).codes.shape[0] >= loaded.slots
