"""The engine on a CUDA device: the same codes and audio as on the CPU, batched or alone, with or without graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import EngineConfig, SpeechRequest, VoicePrompt, load_engine
from engine.engine_core import CsmEngine
from engine.random_checkpoint import TINY, build_model, write_checkpoint

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]

Load = Callable[..., CsmEngine]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), build_model(TINY))


@pytest.fixture
def load(checkpoint: Path) -> Iterator[Load]:
    opened: list[CsmEngine] = []

    def load_one(device: str = "cuda", **changes: Any) -> CsmEngine:
        config = {"dtype": "float32", "compile": "off", "slots": 8} | changes
        engine = load_engine(EngineConfig(model=str(checkpoint), device=device, **config))
        assert isinstance(engine, CsmEngine)
        opened.append(engine)
        return engine

    yield load_one
    for engine in opened:
        engine.close()


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable TF32, which rounds to ten bits: cuDNN uses it by default and loading on a GPU enables it.

    Graphs keep the setting they were captured with, so loading is prevented from enabling it.
    """
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)


def voice() -> VoicePrompt:
    rng = np.random.default_rng(5)
    return VoicePrompt(rng.normal(0, 0.1, 30_000).astype(np.float32), transcript="These are my words.")


REQUESTS = [
    SpeechRequest("Greedy and alone.", temperature=0, max_frames=30),
    SpeechRequest("With a voice.", voice=voice(), temperature=0, max_frames=25),
    SpeechRequest("Drawn from a seed.", seed=3, max_frames=20),
]


@pytest.mark.parametrize("compiled", ["off", "on"])  # on: graphs as well
def test_codes_and_samples_equal_those_of_the_cpu(load: Load, compiled: str) -> None:
    gpu, cpu = load(compile=compiled), load("cpu")
    for request in REQUESTS[:2]:
        actual, expected = gpu.generate(request), cpu.generate(request)
        np.testing.assert_array_equal(actual.codes, expected.codes)
        scale = np.abs(expected.samples).max()
        np.testing.assert_allclose(actual.samples / scale, expected.samples / scale, atol=1e-3)


def test_concurrent_requests_get_the_codes_of_single_ones(load: Load) -> None:
    engine = load()
    alone = [engine.generate(request).codes for request in REQUESTS]
    streams = [engine.stream(request) for request in REQUESTS]
    cancelled = engine.stream(SpeechRequest("I shall not get far. " * 5, seed=1))
    next(cancelled)
    cancelled.close()
    for stream, codes in zip(streams, alone, strict=True):
        np.testing.assert_array_equal(stream.collect().codes, codes)


def test_a_cached_voice_gives_the_codes_of_a_new_one(load: Load) -> None:
    engine = load()
    cold = engine.generate(REQUESTS[1]).codes
    for _ in range(3):  # in any row and on any stream
        np.testing.assert_array_equal(engine.generate(REQUESTS[1]).codes, cold)


def test_guidance_in_bfloat16_is_reproducible(load: Load) -> None:
    engine = load(dtype="bfloat16")
    request = replace(REQUESTS[2], guidance=1.5)
    np.testing.assert_array_equal(engine.generate(request).codes, engine.generate(request).codes)


def test_int8_depth_weights_give_the_codes_of_the_cpu(load: Load) -> None:
    gpu, cpu = load(depth_weights="int8"), load("cpu", depth_weights="int8")
    np.testing.assert_array_equal(gpu.generate(REQUESTS[0]).codes, cpu.generate(REQUESTS[0]).codes)


def test_memory_does_not_grow(load: Load) -> None:
    engine = load()
    request = SpeechRequest("Round and round. " * 6, voice=voice(), seed=1, max_frames=60)
    engine.generate(request)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(5):
        engine.generate(request)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() - before < 1 << 20


@pytest.mark.parametrize("depth_weights", ["auto", "int8"])
def test_overlapped_graphs_equal_plain_kernels(load: Load, depth_weights: str) -> None:
    """Requests join and leave, with and without graphs, both compiled."""
    captured, plain = (load(compile="on", depth_weights=depth_weights) for _ in range(2))
    plain._runner.frames._clear_graphs()
    assert captured.status().detail["graphs"] not in ("none", None)

    def generate(engine: CsmEngine) -> list[Any]:
        streams = [engine.stream(replace(request, seed=5)) for request in REQUESTS]
        left = engine.stream(SpeechRequest("I shall not get far. " * 5, seed=1))
        next(left)
        left.close()
        return [stream.collect() for stream in streams]

    for one, other in zip(generate(captured), generate(plain), strict=True):
        np.testing.assert_array_equal(one.codes, other.codes)
        np.testing.assert_allclose(one.samples, other.samples, atol=1e-4 * np.abs(other.samples).max())
