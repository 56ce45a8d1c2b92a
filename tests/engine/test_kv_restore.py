"""Restoring saved voices without a GPU: the interpreted kernel, compilation for GPUs, and one launch for a burst."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.model import ragged_attention
from engine.model.kv_cache import KvCache

from .test_ragged_attention import CONFIG, ROOT, AbsentGpu, CompileOnly, FakeCudaDevice


def test_the_interpreted_kernel_passes_the_gpu_tests() -> None:
    pytest.importorskip("triton")
    program = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu/test_kv_restore.py"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "6 passed" in ran.stdout


@pytest.mark.parametrize(("capability", "dtype", "head_dim"), [(80, torch.bfloat16, 64), (90, torch.float32, 8)])
def test_one_build_serves_every_burst(
    capability: int, dtype: torch.dtype, head_dim: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("triton")
    from triton.runtime import driver

    from engine.model import kv_restore_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    builds: list[Any] = []
    monkeypatch.setattr(kv_restore_kernel, "_copy_in", CompileOnly(kv_restore_kernel._copy_in, builds))
    config = replace(CONFIG, layers=2, head_dim=head_dim)
    cache = KvCache(config, 5, 2048, torch.device("cpu"), dtype)
    saved = [torch.zeros(2, 2, config.kv_heads, length, head_dim, dtype=dtype) for length in (1, 150, 700)]
    monkeypatch.setattr(driver, "_active", AbsentGpu(capability))
    for rows in ((0,), (1, 4), (4, 2, 3)):
        cache.restore([(row, saved[number]) for number, row in enumerate(rows)], kv_restore_kernel.restore)
    assert len(builds) == 3
    (built,) = set(builds)
    assert built.asm["cubin"]
    assert built.metadata.shared <= 48 << 10  # available to a block on every GPU
    if dtype == torch.bfloat16:
        assert "ld.global.v4" in built.asm["ptx"]  # 16 bytes at once
        assert "st.global.v4" in built.asm["ptx"]


def test_a_kernel_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr("engine.model.ragged_attention.restores_equally", lambda *_: False)
    device: Any = FakeCudaDevice()
    assert ragged_attention.verified_kv_restore(CONFIG, device, torch.float32) is None
    assert "restoring voices together" in caplog.text
    assert ragged_attention.verified_kv_restore(CONFIG, torch.device("cpu"), torch.float32) is None
