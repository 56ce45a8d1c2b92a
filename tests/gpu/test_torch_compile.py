"""The engine as served on a GPU, compiled and with CUDA graphs. Last in this folder, because it compiles for long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from engine import SpeechRequest
from engine.engine_core import CsmEngine
from engine.model.transformer import Compilable

from .requests import REQUESTS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    # PyTorch's own, from torch.compile; as errors they would make the engine run uncompiled
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.* is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),
    pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning"),
]

Load = Callable[..., CsmEngine]


def load_compiled(load: Load, **changes: Any) -> CsmEngine:
    engine = load(compile="on", **changes)
    assert engine.status().detail["graphs"] not in ("none", None)
    modules = [module for module in engine._runner.model.modules() if isinstance(module, Compilable)]
    assert modules
    assert all(module._compiled_call_impl is not None for module in modules)
    return engine


def generate(engine: CsmEngine) -> list[Any]:
    """Requests that join one another, and one that leaves."""
    streams = [engine.stream(replace(request, seed=5)) for request in REQUESTS]
    left = engine.stream(SpeechRequest("I shall not get far. " * 5, seed=1))
    next(left)
    left.close()
    return [stream.collect() for stream in streams]


@pytest.mark.parametrize("depth_weights", ["auto", "int8"])
def test_overlapped_graphs_equal_plain_kernels_and_the_cpu(load: Load, depth_weights: str) -> None:
    engine = load_compiled(load, depth_weights=depth_weights)
    captured = generate(engine)
    if depth_weights == "auto":
        cpu = load("cpu")
        for request in REQUESTS[:2]:
            actual, expected = engine.generate(request), cpu.generate(request)
            np.testing.assert_array_equal(actual.codes, expected.codes)
            scale = np.abs(expected.samples).max()
            np.testing.assert_allclose(actual.samples / scale, expected.samples / scale, atol=1e-3)
    engine._runner.frames._clear_graphs()
    assert engine._runner.frames.graph_summary == "none"
    for one, other in zip(captured, generate(engine), strict=True):
        np.testing.assert_array_equal(one.codes, other.codes)
        np.testing.assert_allclose(one.samples, other.samples, atol=1e-4 * np.abs(other.samples).max())
