"""Int8 weights on a CUDA device: error bounds of the plain product, and no weight copy in the fused kernels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from engine.model.config import CsmConfig, TransformerConfig
from engine.model.csm import CsmModel
from engine.model.int8_linear import Int8Linear, quantize

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]

PART = TransformerConfig(1024, 8192, 1, 8, 2, 128, 1e-5, 5e5, None)  # the depth decoder's size


def layer_of(outputs: int, inputs: int) -> tuple[Int8Linear, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(outputs, inputs, generator=generator) * 0.02).to("cuda", torch.bfloat16)
    return Int8Linear(weight), weight


def test_products_are_within_the_error_bound() -> None:
    layer, weight = layer_of(320, 192)
    for rows in (4, 2, 33, 130):
        x = torch.randn(rows, 1, 192, generator=torch.Generator().manual_seed(rows)).to("cuda", torch.bfloat16)
        with torch.inference_mode():
            y = layer(x)
        expected = nn.functional.linear(x.double(), weight.double())
        bound = x.double().abs().sum(-1, keepdim=True) * layer.product.scale.double() / 2
        rounding = 2**-6 * expected.abs() + 2**-8 * float(expected.abs().max())
        assert y.shape == (rows, 1, 320)
        assert bool(((y.double() - expected).abs() <= bound + rounding).all())


def test_a_fused_step_does_not_copy_the_weights() -> None:
    pytest.importorskip("triton")
    from engine.model.fused.step import FusedStep

    with torch.device("cuda"):
        model = CsmModel(CsmConfig(PART, replace(PART), 2, 2051, 300, 64, 0, True, None), 5, 2048)
    model = model.to(torch.bfloat16).eval()
    for parameter in model.parameters():
        parameter.data.normal_(1, 0.02) if parameter.ndim == 1 else parameter.data.normal_(0, 0.02)
    model.build_tables()
    quantize(model.depth, "depth")
    weight = model.depth.layers[0].mlp.down.product.weight  # the smaller of the large ones: 8 MB
    step = FusedStep(model, model.allocate(4))
    with torch.inference_mode():
        step.frame(4, 64)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step.frame(4, 64)
        torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before < weight.nbytes // 4
