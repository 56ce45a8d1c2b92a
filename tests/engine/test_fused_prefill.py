"""Fused prefill passes without a GPU: interpreted kernels, compilation ahead, and when they are used."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.model import fused_prefill
from engine.model.csm import CsmModel, StepState
from engine.model.kv_cache import PackedView
from engine.model.prompt_tokens import POSITION
from engine.prefill_streams import PrefillStreams

from .test_fused_step import KERNELS, ROOT, Builds, DirectCapturer, model
from .test_prompt_attention import ReferenceAttention

__all__ = ["model"]


@pytest.mark.timeout(300)
def test_the_interpreted_kernels_pass_the_gpu_tests() -> None:
    pytest.importorskip("triton")
    program = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu/test_fused_prefill.py"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 passed" in ran.stdout


def test_all_kernels_are_compiled_ahead(model: CsmModel, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from engine.model import fused
    from engine.model.fused.prefill import FusedPrefill

    launched: set[Any] = set()
    compiled: set[Any] = set()
    for module, names in KERNELS.items():
        for name in names:
            monkeypatch.setattr(getattr(fused, module), name, Builds(name, launched, compiled))
    step = FusedPrefill(model, model.allocate(2).backbone, lambda q, *others: q, 128)  # type: ignore[arg-type]
    step.compile_ahead((32, 128), 2)
    for size in (32, 64, 128):
        step.run(torch.zeros(size, 6, dtype=torch.int64))
    assert launched
    assert launched <= compiled  # a model of one layer needs only its keys


class PlainPrefill:
    """Implements FusedPrefill with the plain model, with positions shifted."""

    def __init__(self, model: CsmModel, state: StepState, shift: int = 0) -> None:
        self.passes: list[int] = []
        self._model, self._state, self._shift = model, state, shift

    def run(self, tokens: Tensor) -> None:
        self.passes.append(len(tokens))
        moved = tokens.clone()
        moved[:, POSITION] = (tokens[:, POSITION] + self._shift).clamp(max=self._state.backbone.scratch)
        self._model.prefill(moved, PackedView(self._state.backbone, moved, ReferenceAttention()))


@pytest.mark.parametrize(
    ("shift", "seconds", "fault"),
    [(0, (1.0, 1.9), ""), (0, (1.0, 2.1), "take 2100.00 ms"), (1, (1.0, 1.0), "relative error")],
)
def test_a_pass_is_used_if_it_is_right_and_not_much_slower(
    shift: int, seconds: tuple[float, float], fault: str, model: CsmModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(seconds * 2)
    monkeypatch.setattr(fused_prefill, "best_seconds", lambda work, device: next(times))
    state = model.allocate(2)
    found = fused_prefill.prefill_fault(
        model, state, PlainPrefill(model, state, shift), ReferenceAttention(), (32,), DirectCapturer()
    )
    assert fault in found
    assert bool(fault) == bool(found)


def test_a_missing_kernel_is_logged(
    model: CsmModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "engine.model.fused.prefill", None)
    monkeypatch.setattr(model, "prompt_attention", ReferenceAttention())
    state = model.allocate(2)
    assert fused_prefill.verified_fused_prefills(model, state, (32,), False, 2, 1, DirectCapturer) == []
    assert "a seed may depend on the prompts of others" in caplog.text
    monkeypatch.setattr(model, "prompt_attention", None)
    assert fused_prefill.verified_fused_prefills(model, state, (32,), False, 2, 1, DirectCapturer) == []


def test_the_pipeline_hands_passes_over(model: CsmModel) -> None:
    state = model.allocate(2)
    streams = PrefillStreams(model, state, 2, 1)
    streams.use_fused([])
    assert not streams.fused
    fused = PlainPrefill(model, state)
    streams.use_fused([fused])
    assert streams.fused
    with torch.inference_mode():
        streams.pipelines[0]._eager_pass(torch.zeros(8, 6, dtype=torch.int64), ())
    assert fused.passes == [8]
