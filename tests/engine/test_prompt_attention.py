"""Attention of packed prompts without a GPU: interpreted kernel, compilation for GPUs, and the plain twin."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from engine.model import ragged_attention
from engine.model.kv_cache import KvCache

from .test_ragged_attention import CONFIG, ROOT, AbsentGpu, CompileOnly, FakeCudaDevice


def test_the_interpreted_kernel_passes_the_gpu_tests() -> None:
    pytest.importorskip("triton")
    program = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu/test_prompt_attention.py"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "11 passed" in ran.stdout


@pytest.mark.parametrize(
    ("capability", "dtype", "head_dim"), [(80, torch.bfloat16, 64), (90, torch.bfloat16, 64), (90, torch.float32, 8)]
)
def test_one_build_serves_every_pass(
    capability: int, dtype: torch.dtype, head_dim: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Compiling needs no GPU, and the compiler rejects some code that the interpreter accepts."""
    pytest.importorskip("triton")
    from triton.runtime import driver

    from engine.model import prompt_attention_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    builds: list[Any] = []
    kernel = prompt_attention_kernel._attend_to_rows
    monkeypatch.setattr(prompt_attention_kernel, "_attend_to_rows", CompileOnly(kernel, builds))
    cache = KvCache(replace(CONFIG, layers=1, head_dim=head_dim), 5, 2048, torch.device("cpu"), dtype)
    monkeypatch.setattr(driver, "_active", AbsentGpu(capability))
    for tokens in (1024, 32, 8):
        q = torch.zeros(tokens, 2, 4, head_dim, dtype=dtype)
        rows = torch.zeros(tokens, dtype=torch.int64)
        keys, values = cache.keys[0, :, :, :2048], cache.values[0, :, :, :2048]
        prompt_attention_kernel.PackedAttention()(q, keys, values, rows, rows)
    assert len(builds) == 3
    (built,) = set(builds)
    assert built.asm["cubin"]
    assert built.metadata.shared <= 48 << 10  # available to a block on every GPU
    assert built.metadata.global_scratch_size == 0  # otherwise every launch would allocate


class ReferenceAttention:
    """Reference implementation of PromptAttention, off by `shift` positions."""

    align = 4

    def __init__(self, shift: int = 0) -> None:
        self.shift = shift

    def __call__(self, q: Tensor, keys: Tensor, values: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        y = torch.zeros_like(q)
        for token, (row, last) in enumerate(zip(rows.tolist(), positions.tolist(), strict=True)):
            if last < keys.shape[2]:
                end = max(last + 1 + self.shift, 1)
                y[token] = scaled_dot_product_attention(q[token], keys[row, :, :end], values[row, :, :end])
        return y


def test_a_kernel_that_is_off_by_one_position_exceeds_the_tolerance() -> None:
    device = torch.device("cpu")
    for dtype, allowed in ragged_attention._TOLERANCES.items():
        for shift in (-1, 0, 1):
            error = ragged_attention.prompt_error(ReferenceAttention(shift), CONFIG, device, dtype, 64)
            assert (error <= allowed) == (shift == 0)


def test_a_missing_kernel_is_logged_and_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "engine.model.prompt_attention_kernel", None)
    found = ragged_attention.verified_prompt_attention(CONFIG, FakeCudaDevice(), torch.bfloat16)  # type: ignore[arg-type]
    assert found is None
    assert "one prompt at a time" in caplog.text
    assert ragged_attention.verified_prompt_attention(CONFIG, torch.device("cpu"), torch.float32) is None
