"""Ragged attention without a GPU: interpreted kernel, compilation for GPUs, and fallback to masked attention."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from engine import EngineConfig
from engine.loading import load
from engine.model import ragged_attention
from engine.model.config import TransformerConfig
from engine.model.graphs import BucketGrid
from engine.model.kv_cache import KvCache
from engine.model_runner import ModelRunner, SamplingParams

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG = TransformerConfig(64, 96, 3, 8, 2, 8, 1e-5, 1e4, None)


def test_the_interpreted_kernel_passes_the_gpu_tests() -> None:
    pytest.importorskip("triton")
    program = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu/test_ragged_attention.py"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "14 passed, 1 skipped" in ran.stdout


class AbsentGpu:
    """A Triton driver for compiling without a GPU."""

    def __init__(self, capability: int) -> None:
        from triton.backends.compiler import GPUTarget

        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> Any:
        return self._target

    def get_current_device(self) -> int:
        return int(self._target.arch)  # the kernel cache is keyed by device

    def get_current_stream(self, device: int) -> int:
        return 0


class CompileOnly:
    """Wraps a kernel and compiles it instead of launching it."""

    def __init__(self, kernel: Any, builds: list[Any]) -> None:
        self._kernel, self._builds = kernel, builds

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def build(*tensors: Any, **constants: Any) -> None:
            self._builds.append(self._kernel.warmup(*tensors, grid=grid, **constants))

        return build


@pytest.mark.parametrize(
    ("capability", "dtype", "head_dim"), [(80, torch.bfloat16, 64), (90, torch.bfloat16, 64), (90, torch.float32, 8)]
)
def test_one_build_serves_every_bucket(
    capability: int, dtype: torch.dtype, head_dim: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Compiling needs no GPU, and the compiler rejects some code that the interpreter accepts."""
    pytest.importorskip("triton")
    from triton.runtime import driver

    from engine.model import ragged_attention_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    builds: list[Any] = []
    for name in ("_attend_to_split", "_join_splits"):
        monkeypatch.setattr(ragged_attention_kernel, name, CompileOnly(getattr(ragged_attention_kernel, name), builds))
    cache = KvCache(replace(CONFIG, layers=1, head_dim=head_dim), 5, 2048, torch.device("cpu"), dtype)
    monkeypatch.setattr(driver, "_active", AbsentGpu(capability))
    for rows, context in ((5, 2048), (2, 256), (3, 128), (1, 100)):
        keys, values = cache.keys[0, :rows, :, :context], cache.values[0, :rows, :, :context]
        q = torch.zeros(rows, 2, 4, head_dim, dtype=dtype)
        ragged_attention_kernel.attend(q, keys, values, torch.zeros(rows, dtype=torch.int64))
    assert len(builds) == 8
    assert len(set(map(id, builds))) == 2
    for built in builds[:2]:
        assert built.asm["cubin"]
        assert built.metadata.shared <= 48 << 10  # available to a block on every GPU
        assert built.metadata.global_scratch_size == 0  # otherwise every launch would allocate


def reference_attention(q: Tensor, keys: Tensor, values: Tensor, positions: Tensor) -> Tensor:
    """Reference implementation of RaggedAttention."""
    y = torch.zeros_like(q)
    for row, last in enumerate(positions.tolist()):
        if last < keys.shape[2]:
            y[row] = scaled_dot_product_attention(q[row], keys[row, :, : last + 1], values[row, :, : last + 1])
    return y


def test_ragged_and_masked_attention_give_the_same_codes(checkpoint: Path) -> None:
    runner = load(EngineConfig(str(checkpoint), "cpu", "float32", slots=4), lambda share, what: None).runner
    assert runner.model.ragged_attention is None

    def generate() -> list[Any]:
        fresh = ModelRunner(runner.model, runner.codec, 4, BucketGrid((2, 4), (64, 512)))
        codes: list[Any] = []
        for row, position in ((0, 60), (2, 5), (1, 300)):
            fresh.reset_row(row, SamplingParams(seed=row, temperature_first=0.9, temperature=0.8, top_k=50))
            fresh.start_row(row, position)
            codes += [fresh.step(rows).codes[rows] for rows in ([row], [row], list(range(row + 1)))]
        return codes

    masked = generate()
    runner.model.ragged_attention = reference_attention
    for one, other in zip(masked, generate(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_cpu_uses_masked_attention() -> None:
    assert ragged_attention.verified_ragged_attention(CONFIG, torch.device("cpu"), torch.float32) is None


class FakeCudaDevice:
    """A device object of type "cuda" that has no GPU."""

    type = "cuda"


@pytest.mark.parametrize(
    ("result", "message"),
    [(0.5, "relative error of 0.5"), (float("nan"), "relative error of nan"), (ImportError("no triton"), "no triton")],
)
def test_an_inexact_or_missing_kernel_is_logged_and_not_used(
    result: float | Exception, message: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def relative_error(*args: object) -> float:
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(ragged_attention, "relative_error", relative_error)
    with caplog.at_level(logging.WARNING):
        assert ragged_attention.verified_ragged_attention(CONFIG, FakeCudaDevice(), torch.bfloat16) is None  # type: ignore[arg-type]
    assert message in caplog.text


def test_a_kernel_that_is_off_by_one_position_exceeds_the_tolerance() -> None:
    def shifted(by: int) -> Any:
        return lambda q, keys, values, positions: reference_attention(q, keys, values, (positions + by).clamp(min=0))

    device = torch.device("cpu")
    for dtype, allowed in ragged_attention._TOLERANCES.items():
        assert ragged_attention.relative_error(reference_attention, CONFIG, device, dtype, 128) <= allowed
        for by in (-1, 1):
            assert ragged_attention.relative_error(shifted(by), CONFIG, device, dtype, 128) > allowed
