"""Linear layers on a CPU, with weights laid out once as oneDNN reads them.

A plain product of a few rows lays the whole weight out anew each time, which takes longer than the product. And it
goes other ways for other numbers of rows, which round differently; laid out once, a row's product is the same bit for
bit among any number of rows from two on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """Stands in for an nn.Linear without bias: x (..., in) -> (..., out), float32."""

    def __init__(self, weight: Tensor) -> None:
        """weight: float32 (out, in), on a CPU."""
        super().__init__()
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)  # for any number of rows
        self.weight = nn.Parameter(packed, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], "")
        return y


def can_pack(weight: Tensor) -> bool:
    """oneDNN is there and takes this dtype. Only float32 is known to gain."""
    there: bool = torch._C._has_mkldnn
    return there and weight.device.type == "cpu" and weight.dtype == torch.float32


def pack(module: nn.Module) -> None:
    """Put a PackedLinear in the place of every nn.Linear inside that can be packed; one weight at a time."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and getattr(child, "bias", None) is None and can_pack(child.weight):
                setattr(parent, name, PackedLinear(child.weight.detach()))
