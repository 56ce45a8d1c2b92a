"""Fused prefill passes against plain ones, on a CUDA device or in Triton's interpreter on a CPU.

tests/engine/test_fused_prefill.py runs this file in the interpreter.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from engine.model import fused_prefill
from engine.model.graphs import Work

from .test_fused_step import CONFIG, CUDA, INTERPRETED, exact, model_of

pytest.importorskip("triton")
from engine.model.fused.prefill import FusedPrefill
from engine.model.prompt_attention_kernel import PackedAttention

__all__ = ["exact"]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (CUDA or INTERPRETED), reason="no CUDA device here"),
]

# On a CPU the interpreter's products round by the size of a tile, which changes at 64 tokens.
SIZES = (32, 64, 128, 1024) if CUDA else (32, 36)


class DirectCapturer:
    def capture(self, work: Work) -> Work:
        return work


def fault_of(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, sizes: tuple[int, ...]) -> str:
    monkeypatch.setattr(fused_prefill, "best_seconds", lambda work, device: work() or 1.0)
    config = replace(CONFIG, backbone=replace(CONFIG.backbone, layers=2))
    model = model_of(dtype, config=config)
    state = model.allocate(3)
    attention = PackedAttention()
    fused = FusedPrefill(model, state.backbone, attention, sizes[-1])
    fault = fused_prefill.prefill_fault(model, state, fused, attention, sizes, DirectCapturer())
    assert not state.backbone.keys[..., : state.backbone.scratch, :].any()
    return fault


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16] if CUDA else [torch.float32])
def test_passes_have_the_plain_keys_and_a_prompt_the_same_in_any(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fault_of(monkeypatch, dtype, SIZES) == ""


def test_a_pass_that_leaves_a_layer_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FusedPrefill, "_layer", lambda self, index, tokens: None)
    assert "32 tokens: the relative error" in fault_of(monkeypatch, torch.float32, (32,))
