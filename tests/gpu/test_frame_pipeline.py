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
from engine.model_runner import ModelRunner, SamplingParams
from engine.prompt_packing import PromptPiece
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


def runner_of(checkpoint: Path, dtype: Any, graphs: bool, ragged: bool = True) -> ModelRunner:
    config = EngineConfig(str(checkpoint), "cuda", dtype, slots=ROWS, compile="off")
    runner = load(config, lambda share, what: None).runner
    model = runner.model
    assert model.ragged_attention is None  # not with compile="off"
    if ragged:
        model.ragged_attention = verified_ragged_attention(model.config.backbone, model.device, model.dtype)
        assert model.ragged_attention is not None
    if graphs:
        priorities = (StreamPriority.FRAMES, StreamPriority.CODEC)
        list(runner.frames.record_graphs(*(CudaGraphCapturer(runner.device, each) for each in priorities)))
        count = len(runner.frames.buckets.largest_first()) + 2 * len(runner.frames.buckets.rows) + 1
        assert runner.frames.graph_summary == f"{count} of {count}"
    return runner


def fill_cache(runner: ModelRunner) -> None:
    """Random keys and values at every position, in place of prompts: the same in every runner."""
    cache = runner.state.backbone
    generator = torch.Generator(runner.device).manual_seed(0)
    for tensor in (cache.keys, cache.values):
        tensor.normal_(generator=generator)
    torch.cuda.synchronize()  # the streams of frames do not wait for this one


def generate(runner: ModelRunner) -> list[np.ndarray[Any, Any]]:
    """Rows join and leave, with contexts on both sides of a bucket boundary. Frames are read one step late."""
    fill_cache(runner)
    outputs: list[np.ndarray[Any, Any]] = []

    def begin(row: int, position: int, **changes: Any) -> None:
        settings = {"seed": row, "temperature_first": 0.9, "temperature": 0.8, "top_k": 50} | changes
        runner.reset_row(row, SamplingParams(**settings))
        runner.start_row(row, position)

    def run(rows: list[int], count: int) -> None:
        before = None
        for _ in range(count):
            frame = runner.launch(rows)
            if before is not None:
                outputs.append(before.samples[rows])
            outputs.extend((frame.codes[rows], frame.stopped[rows]))
            before = frame
        assert before is not None
        outputs.append(before.samples[rows])

    begin(0, 250)
    run([0], 12)
    begin(3, 20, temperature=0.0, temperature_first=0.0)
    run([0, 3], 9)
    run([3], 3)
    begin(5, 400, top_k=3)
    begin(1, 0)
    run([0, 1, 3, 5], 15)
    begin(0, 2, seed=11)
    run([0], 5)
    return outputs


@pytest.mark.parametrize("ragged", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_replayed_graphs_equal_plain_kernels(checkpoint: Path, dtype: str, ragged: bool) -> None:
    plain = generate(runner_of(checkpoint, dtype, graphs=False, ragged=ragged))
    replayed = generate(runner_of(checkpoint, dtype, graphs=True, ragged=ragged))
    for one, other in zip(plain, replayed, strict=True):
        if one.dtype == np.float32:
            np.testing.assert_allclose(one, other, atol=1e-4 * max(float(np.abs(one).max()), 1e-6))
        else:
            np.testing.assert_array_equal(one, other)


def test_a_guided_frame_uses_a_graph(checkpoint: Path) -> None:
    runner = runner_of(checkpoint, "float32", graphs=True)
    runner.reset_row(0, SamplingParams(0, 0.9, 0.8, 50, guidance=1.5, unconditional=1))
    runner.reset_row(1, SamplingParams(0, 0.9, 0.8, 50, sampler=0))
    for row in (0, 1):
        runner.start_row(row, 30)
    runner.step([0, 1])
    runner.frames._eager_step = None  # type: ignore[method-assign, assignment]
    codes = runner.step([0, 1]).codes
    np.testing.assert_array_equal(codes[0], codes[1])


def test_frames_and_prefills_allocate_no_memory(checkpoint: Path) -> None:
    runner = runner_of(checkpoint, "bfloat16", graphs=True)
    generate(runner)
    torch.cuda.synchronize()
    before = torch.cuda.memory_reserved()
    generate(runner)
    torch.cuda.synchronize()
    assert torch.cuda.memory_reserved() == before
    runner.preallocate_prefill()  # again, because graph capture released the memory reserved at startup
    before = torch.cuda.memory_reserved()
    codes = np.zeros((runner.model.config.positions, runner.model.config.codebooks), np.int64)
    for row in range(ROWS):
        runner.prefill([PromptPiece(row, Prefill(0, [[1] * 9, codes[9:]]))])
    torch.cuda.synchronize()
    # the smallest block of PyTorch's allocator for small tensors is 2 MiB
    assert torch.cuda.memory_reserved() - before <= 2 << 20


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature:UserWarning")
def test_frames_and_prefills_do_not_synchronize(checkpoint: Path) -> None:
    """No call that the engine thread makes waits for the device."""
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
        runner.prefill([PromptPiece(1, Prefill(0, [[1] * 10, codes])), PromptPiece(3, Prefill(0, [[1] * 7]))])
        runner.restore_kv(2, runner.copy_kv(1, 20))
        runner.prefill([PromptPiece(2, Prefill(20, [[1] * 7]))])
        runner.start_row(1, 30)
        runner.reset_codec(2)
        runner.apply_changes()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(frame.samples) == 2


def test_automatic_slots_are_computed_from_memory(checkpoint: Path) -> None:
    loaded = load(EngineConfig(str(checkpoint), "cuda", slots=AUTO_SLOTS), lambda share, what: None)
    assert 2 <= loaded.slots <= loaded.runner.rows
    assert loaded.runner.step([loaded.slots - 1]).codes.shape[0] >= loaded.slots
