"""Linear layers with prepacked weights for oneDNN on a CPU.

A plain product of a few rows repacks the whole weight on every call, which takes longer than the product.

oneDNN selects a kernel by the weight's shape, the number of rows, the CPU and its version, and kernels round
differently. A row's result must not depend on the batch, so each layer multiplies only row counts that a test at load
found to round identically: other batches are padded with zeros or split.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

log = logging.getLogger(__name__)

# Candidate row counts of a single product. Dense for the batch sizes of frames; prompts have more rows, and beyond the
# last count a product takes as long as the sum of its parts.
ROW_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)

Product = Callable[[Tensor], Tensor]


class PackedLinear(nn.Module):
    """Replaces an nn.Linear without bias: x (..., in) -> (..., out), float32."""

    def __init__(self, weight: Tensor, row_counts: tuple[int, ...] | None = None) -> None:
        """weight: float32 (out, in) on a CPU. row_counts: those that round identically, ascending; None: test them."""
        super().__init__()
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)  # for any number of rows
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.row_counts = row_counts or identically_rounding_counts(self.product, weight.shape[1], weight.shape[0])

    def product(self, x: Tensor) -> Tensor:
        """(rows, in) -> (rows, out) with the rounding of oneDNN's kernel for this number of rows."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], "")
        return y

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        max_rows = self.row_counts[-1]
        y = (
            self._padded(flat)
            if len(flat) <= max_rows
            else torch.cat([self._padded(part) for part in torch.split(flat, max_rows)])
        )
        return y.view(*x.shape[:-1], -1)

    def _padded(self, x: Tensor) -> Tensor:
        rows = len(x)
        count = self.row_counts[bisect_left(self.row_counts, rows)]
        return self.product(x) if count == rows else self.product(F.pad(x, (0, 0, 0, count - rows)))[:rows]


def identically_rounding_counts(product: Product, size: int, out: int) -> tuple[int, ...]:
    """The largest subset of ROW_COUNTS for which a row's product is bit-identical at every position.

    product: (rows, size) -> (rows, out). A single row is always identical to itself, so at least (1,) is returned.
    """
    probes = max(1, 1024 // out)  # enough outputs for a different summation order to show in some
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(probes, 1, size, generator=generator)
    counts_by_bits: defaultdict[bytes, tuple[int, ...]] = defaultdict(tuple)
    with torch.inference_mode():
        for count in ROW_COUNTS:
            products = torch.stack([product(row.repeat(count, 1)) for row in rows])
            if torch.equal(products, products[:, :1].expand_as(products)):
                counts_by_bits[products[:, 0].numpy().tobytes()] += (count,)
    return max(counts_by_bits.values(), key=len, default=(1,))


def can_pack(weight: Tensor) -> bool:
    """True if oneDNN is available and the weight is float32 on a CPU, the only dtype known to gain."""
    available: bool = torch._C._has_mkldnn
    return available and weight.device.type == "cpu" and weight.dtype == torch.float32


def pack(module: nn.Module) -> None:
    """Replace every nn.Linear inside the module that can be packed with a PackedLinear, one weight at a time.

    Call it after the number of threads is set: the choice of kernel depends on it too.
    """
    counts_by_shape: dict[torch.Size, tuple[int, ...]] = {}
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and getattr(child, "bias", None) is None and can_pack(child.weight):
                shape = child.weight.shape
                packed = PackedLinear(child.weight.detach(), counts_by_shape.get(shape))
                counts_by_shape[shape] = packed.row_counts
                setattr(parent, name, packed)
    _log_row_counts(counts_by_shape)


def _log_row_counts(counts_by_shape: dict[torch.Size, tuple[int, ...]]) -> None:
    shapes_by_counts: defaultdict[tuple[int, ...], list[str]] = defaultdict(list)
    for shape, counts in counts_by_shape.items():
        shapes_by_counts[counts].append("x".join(map(str, shape)))
    for counts, shapes in shapes_by_counts.items():
        if counts == ROW_COUNTS:
            continue
        level = logging.WARNING if counts == (1,) else logging.INFO
        log.log(
            level,
            "oneDNN rounds products of %s identically only for %s rows: other batches are padded or split%s",
            ", ".join(shapes),
            " or ".join(map(str, counts)),
            ", and one row at a time is slow with concurrent requests" if level == logging.WARNING else "",
        )
