"""Int8 linear layers on a CUDA device: error bounds eager and compiled, and no weight copy when compiled."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from engine.model.int8_linear import Int8Linear
from engine.model.transformer import Compilable

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]

MIN_MULTIPROCESSORS = 68  # torch.compile generates its own matmuls only on GPUs with at least this many


def layer_of(outputs: int, inputs: int, compiled: bool) -> tuple[Int8Linear, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(outputs, inputs, generator=generator) * 0.02).to("cuda", torch.bfloat16)
    layer = Int8Linear(weight)
    for module in layer.modules():
        if compiled and isinstance(module, Compilable):
            module.compile(dynamic=True)  # type: ignore[no-untyped-call]
    return layer, weight


def inputs_of(rows: int, inputs: int) -> Tensor:
    return torch.randn(rows, 1, inputs, generator=torch.Generator().manual_seed(rows)).to("cuda", torch.bfloat16)


@pytest.mark.parametrize("compiled", [False, True])
def test_products_are_within_the_error_bound(compiled: bool) -> None:
    layer, weight = layer_of(320, 192, compiled)
    for rows in (4, 2, 33, 130):
        x = inputs_of(rows, 192)
        with torch.inference_mode():
            y = layer(x)
        expected = nn.functional.linear(x.double(), weight.double())
        bound = x.double().abs().sum(-1, keepdim=True) * layer.product.scale.double() / 2
        rounding = 2**-6 * expected.abs() + 2**-8 * float(expected.abs().max())
        assert y.shape == (rows, 1, 320)
        assert bool(((y.double() - expected).abs() <= bound + rounding).all())


def test_the_compiled_layer_does_not_copy_the_weights() -> None:
    if torch.cuda.get_device_properties(0).multi_processor_count < MIN_MULTIPROCESSORS:
        pytest.skip("torch.compile generates no matmuls on a GPU this small")
    layer, weight = layer_of(4096, 4096, compiled=True)
    x = inputs_of(4, 4096)
    with torch.inference_mode():
        layer(x)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        layer(x)
        torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before < weight.nbytes // 8
