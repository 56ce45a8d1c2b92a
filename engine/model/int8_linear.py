"""Weight-only int8 linear layers: half the weight bytes of bfloat16, activations and arithmetic unchanged.

Symmetric quantization with one scale per output channel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError

_MAX_LEVEL = 127  # -128 is unused: symmetric quantization has no zero point


class Int8Product(nn.Module):
    """Matrix product with weights dequantized on the fly: x (rows, in) -> (rows, out).

    On a CPU one operator does both. On a GPU the fused kernels (engine.model.fused) read int8. This module is their
    plain twin there, which first copies the weights to x's dtype: slower than weights that are stored in it. Compiling
    it is no better: with torch 2.11 on an H200, Inductor multiplied such a copy too.
    """

    def __init__(self, weight: Tensor) -> None:
        """weight: float (out, in), finite."""
        super().__init__()
        max_abs = weight.abs().amax(dim=1, keepdim=True).float()
        # Rounded to the weights' dtype before use, so that no weight is off by more than half a step.
        scale = (max_abs / _MAX_LEVEL).to(weight.dtype).clamp(min=torch.finfo(weight.dtype).tiny)
        quantized = (weight.float() / scale.float()).round().clamp(-_MAX_LEVEL, _MAX_LEVEL)
        self.weight = nn.Parameter(quantized.to(torch.int8), requires_grad=False)  # (out, in)
        self.scale = nn.Parameter(scale[:, 0].contiguous(), requires_grad=False)  # (out,)

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda:
            return F.linear(x, self.weight.to(x.dtype)) * self.scale
        return torch._weight_int8pack_mm(x, self.weight, self.scale)


class Int8Linear(nn.Module):
    """Replaces an nn.Linear without bias: x (..., in) -> (..., out)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.product = Int8Product(weight)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.product(x.reshape(-1, x.shape[-1]).contiguous())
        return y.view(*x.shape[:-1], y.shape[-1])


def quantize(module: nn.Module, name: str) -> None:
    """Replace every nn.Linear inside the module with an Int8Linear.

    name: the module's name in error messages. Raises CheckpointError if a weight is not finite.
    """
    for path, parent in list(module.named_modules(prefix=name)):
        for child_name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                if not child.weight.isfinite().all():
                    raise CheckpointError(
                        f"{path}.{child_name}: some weights are not finite, so they cannot be quantized to int8; "
                        "use depth_weights 'auto', or another checkpoint"
                    )
                setattr(parent, child_name, Int8Linear(child.weight.detach()))
