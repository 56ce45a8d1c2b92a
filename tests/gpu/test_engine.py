"""The engine on a CUDA device, without compilation and graphs: the codes and audio of the CPU, batched or alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine import SpeechRequest
from engine.engine_core import CsmEngine

from .requests import REQUESTS, voice

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]

Load = Callable[..., CsmEngine]


def test_codes_and_samples_equal_those_of_the_cpu(load: Load) -> None:
    gpu, cpu = load(), load("cpu")
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
