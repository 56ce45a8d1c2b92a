"""The codec's kernels without a GPU: interpreted, compiled for GPUs, counted, and replaced where they do not work."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.codec import fused
from engine.codec.decoder import PLAIN, Operators
from engine.codec.ring import MaskedAttention
from engine.codec.windows import unfolded_windows

from .codec_decoder import tiny_decoder
from .test_kernel_budget import kernels_of
from .test_ragged_attention import AbsentGpu, CompileOnly

ROOT = Path(__file__).resolve().parent.parent.parent
CPU = torch.device("cpu")
GPU_CODEC_BUDGET = 108  # kernels of a frame at Mimi's depth: only lower it


def test_the_interpreted_kernels_pass_the_gpu_tests() -> None:
    pytest.importorskip("triton")
    program = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu/test_codec_kernels.py"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "14 passed" in ran.stdout


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile_and_a_frame_stays_within_its_budget(
    capability: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every operator of PyTorch's and every launch of ours is a kernel. Compiling needs no GPU."""
    pytest.importorskip("triton")
    from triton.runtime import driver

    from engine.codec import kernels

    decoder = tiny_decoder(CPU, codec_num_hidden_layers=8)
    decoder.operators = fused.kernel_operators()
    state = decoder.allocate(3)
    codes, active = torch.zeros(3, 4, dtype=torch.int64), torch.ones(3, dtype=torch.bool)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    builds: list[Any] = []
    for name in ("_windows", "_attend"):
        monkeypatch.setattr(kernels, name, CompileOnly(getattr(kernels, name), builds))
    monkeypatch.setattr(driver, "_active", AbsentGpu(capability))
    counts = kernels_of(lambda: decoder(codes, active, state))
    launches = len(builds) // 2  # `kernels_of` runs a frame twice
    assert counts.total() + launches <= GPU_CODEC_BUDGET, (launches, counts.most_common())
    assert launches == 8 + 1 + 1 + 4 * 2 + 1  # layers; upsampling, convolutions
    assert len(set(map(id, builds))) <= 9
    for built in builds:
        assert built.asm["cubin"]
        assert built.metadata.shared <= 48 << 10  # available to a block on every GPU
        assert built.metadata.global_scratch_size == 0  # otherwise every launch would allocate


def test_an_operator_that_is_off_by_one_exceeds_the_tolerance() -> None:
    decoder = tiny_decoder(CPU)

    class LateAttention(MaskedAttention):
        def __call__(self, layer: int, qkv: Tensor) -> Tensor:
            return super().__call__(layer, qkv.roll(1, 1))

    assert fused.operators_error(decoder, Operators()) == 0
    for wrong in (
        Operators(windows=lambda *given: unfolded_windows(*given).roll(1, 0)),
        Operators(attention=LateAttention),
    ):
        assert fused.operators_error(decoder, wrong) > 2 * fused.TOLERANCE


def test_a_cpu_uses_plain_operators() -> None:
    assert fused.verified_operators(tiny_decoder(CPU)) is PLAIN


@pytest.mark.parametrize(
    ("result", "message"), [(0.01, "relative error of 0.01"), (float("nan"), "nan"), (OSError("no ptxas"), "no ptxas")]
)
def test_kernels_that_fail_or_differ_are_not_used(
    result: Any, message: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def operators_error(decoder: Any, operators: Operators) -> float:
        if isinstance(result, Exception):
            raise result
        return float(result)

    on_gpu: Any = SimpleNamespace(table=SimpleNamespace(device=SimpleNamespace(type="cuda")))
    monkeypatch.setattr(fused, "operators_error", operators_error)
    monkeypatch.setattr(fused, "kernel_operators", Operators)
    with caplog.at_level(logging.WARNING):
        assert fused.verified_operators(on_gpu) is PLAIN
    assert message in caplog.text
