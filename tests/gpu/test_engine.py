"""The engine on a CUDA device: what it says there is what it says on the CPU."""

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
    """float32 as such: TF32, which cuDNN uses unasked and loading on a GPU turns on, rounds to ten bits.

    Graphs keep what was set when they were captured, so loading is kept from turning it on.
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
def test_codes_and_samples_are_those_of_the_cpu(load: Load, compiled: str) -> None:
    gpu, cpu = load(compile=compiled), load("cpu")
    for request in REQUESTS[:2]:
        here, there = gpu.generate(request), cpu.generate(request)
        np.testing.assert_array_equal(here.codes, there.codes)
        scale = np.abs(there.samples).max()
        np.testing.assert_allclose(here.samples / scale, there.samples / scale, atol=1e-3)


def test_each_says_among_others_what_it_says_alone(load: Load) -> None:
    engine = load()
    alone = [engine.generate(request).codes for request in REQUESTS]
    streams = [engine.stream(request) for request in REQUESTS]
    cancelled = engine.stream(SpeechRequest("I shall not get far. " * 5, seed=1))
    next(cancelled)
    cancelled.close()
    for stream, codes in zip(streams, alone, strict=True):
        np.testing.assert_array_equal(stream.collect().codes, codes)


def test_a_known_voice_says_what_a_new_one_says(load: Load) -> None:
    engine = load()
    cold = engine.generate(REQUESTS[1]).codes
    for _ in range(3):  # each time in whatever row, on whatever stream
        np.testing.assert_array_equal(engine.generate(REQUESTS[1]).codes, cold)


def test_guidance_and_bfloat16_run(load: Load) -> None:
    engine = load(dtype="bfloat16")
    request = replace(REQUESTS[2], guidance=1.5)
    np.testing.assert_array_equal(engine.generate(request).codes, engine.generate(request).codes)


def test_eight_bit_depth_weights_say_what_they_say_on_the_cpu(load: Load) -> None:
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
def test_overlapped_graphs_say_what_is_said_without(load: Load, depth_weights: str) -> None:
    """Joins and leaves, with and without graphs, compiled the same: code for code."""
    recorded, plain = (load(compile="on", depth_weights=depth_weights) for _ in range(2))
    plain._runner.frames._clear_graphs()
    assert recorded.status().detail["graphs"] not in ("none", None)

    def speak(engine: CsmEngine) -> list[Any]:
        streams = [engine.stream(replace(request, seed=5)) for request in REQUESTS]
        left = engine.stream(SpeechRequest("I shall not get far. " * 5, seed=1))
        next(left)
        left.close()
        return [stream.collect() for stream in streams]

    for one, other in zip(speak(recorded), speak(plain), strict=True):
        np.testing.assert_array_equal(one.codes, other.codes)
        np.testing.assert_allclose(one.samples, other.samples, atol=1e-4 * np.abs(other.samples).max())
