"""Products of weights that are laid out once: what plain ones say, and of each row the same among any others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.model.packed_linear import PackedLinear, can_pack, pack

pytestmark = pytest.mark.skipif(not can_pack(torch.zeros(1)), reason="PyTorch without oneDNN")


@pytest.mark.parametrize(("out", "size"), [(24, 16), (64, 33), (515, 256), (2051, 1024)])
def test_it_says_what_a_plain_product_says_and_the_same_among_any_others(out: int, size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(out, size, generator=generator), torch.randn(32, size, generator=generator)
    with torch.inference_mode():
        packed = PackedLinear(weight)
        whole = packed(x)
        torch.testing.assert_close(whole, x @ weight.T, atol=1e-3, rtol=1e-4)
        for rows in (2, 3, 4, 8, 16, 31):
            assert torch.equal(packed(x[:rows]), whole[:rows])
        assert torch.equal(packed(x[:, None])[:, 0], whole)


def test_only_what_can_be_packed_is() -> None:
    model = nn.ModuleDict(
        {
            "plain": nn.Linear(8, 8, bias=False),
            "biased": nn.Linear(8, 8),
            "coarse": nn.Linear(8, 8, bias=False, dtype=torch.bfloat16),
            "inner": nn.Sequential(nn.Linear(8, 4, bias=False)),
        }
    )
    before = sum(parameter.nbytes for parameter in model.parameters())
    pack(model)
    assert [type(model[name]) for name in ("plain", "biased", "coarse")] == [PackedLinear, nn.Linear, nn.Linear]
    assert isinstance(model["inner"][0], PackedLinear)
    assert sum(parameter.nbytes for parameter in model.parameters()) == before
