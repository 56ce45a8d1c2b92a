"""Linear layers with weights in 8 bits: half the bytes of bfloat16 to read, and the same arithmetic.

The weights alone are rounded, not what goes through them: symmetric, with a scale for each output.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError
from .transformer import Compilable

_LARGEST = 127  # not -128: what is symmetric needs no zero point


class Int8Product(Compilable):
    """x (rows, in) -> (rows, out). The weights leave their 8 bits on the way into the product.

    On a CPU one operator does both. On a GPU it takes compiling: Triton's products read int8 then, where plain ones
    have to be given a copy in x's dtype, which costs more than it saves.
    """

    def __init__(self, weight: Tensor) -> None:
        """weight: float (out, in), finite."""
        super().__init__()
        largest = weight.abs().amax(dim=1, keepdim=True).float()
        # In the weights' dtype before it is used, so that no weight is off by more than half of it.
        scale = (largest / _LARGEST).to(weight.dtype).clamp(min=torch.finfo(weight.dtype).tiny)
        steps = (weight.float() / scale.float()).round().clamp(-_LARGEST, _LARGEST)
        self.weight = nn.Parameter(steps.to(torch.int8), requires_grad=False)  # (out, in)
        self.scale = nn.Parameter(scale[:, 0].contiguous(), requires_grad=False)  # (out,)

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda:
            return F.linear(x, self.weight.to(x.dtype)) * self.scale
        return torch._weight_int8pack_mm(x, self.weight, self.scale)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        if self.weight.is_cuda:
            super().compile(*args, **kwargs, options={"max_autotune_gemm": True})


class Int8Linear(nn.Module):
    """Stands in for an nn.Linear without bias: x (..., in) -> (..., out)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.product = Int8Product(weight)

    def forward(self, x: Tensor) -> Tensor:
        # Rows laid in one line out here, so that one compiled product serves x of any number of dimensions.
        y: Tensor = self.product(x.reshape(-1, x.shape[-1]).contiguous())
        return y.view(*x.shape[:-1], y.shape[-1])


def quantize(module: nn.Module, name: str) -> None:
    """Put an Int8Linear in the place of every nn.Linear inside.

    name: the module's own, for messages. Raises CheckpointError if a weight is not finite: it has no scale.
    """
    for path, parent in list(module.named_modules(prefix=name)):
        for child_name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                if not child.weight.isfinite().all():
                    raise CheckpointError(
                        f"{path}.{child_name}: some weights are not finite, so they cannot be put into 8 bits; "
                        "use depth_weights 'auto', or another checkpoint"
                    )
                setattr(parent, child_name, Int8Linear(child.weight.detach()))
