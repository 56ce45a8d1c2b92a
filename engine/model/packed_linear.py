"""Linear layers on a CPU, with weights laid out once as oneDNN reads them.

A plain product of a few rows lays the whole weight out anew each time, which takes longer than the product.

oneDNN chooses a kernel by the shape of the weight, the number of rows, the CPU and its own version, and kernels round
differently. A row must say the same alone and among others, so each layer multiplies only numbers of rows that are
known to round alike, from a test at load: other numbers are padded with zeros or cut.
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

# The numbers of rows that are ever multiplied at once. Close together where frames are made; a prompt has more rows,
# and beyond the last one a product takes as long as the sum of its parts.
ROW_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)

Product = Callable[[Tensor], Tensor]


class PackedLinear(nn.Module):
    """Stands in for an nn.Linear without bias: x (..., in) -> (..., out), float32."""

    def __init__(self, weight: Tensor, row_counts: tuple[int, ...] | None = None) -> None:
        """weight: float32 (out, in), on a CPU. row_counts: those that round alike, ascending; None: find them out."""
        super().__init__()
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)  # for any number of rows
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.row_counts = row_counts or alike(self.product, weight.shape[1], weight.shape[0])

    def product(self, x: Tensor) -> Tensor:
        """(rows, in) -> (rows, out), rounded as oneDNN does it for so many rows."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], "")
        return y

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        most = self.row_counts[-1]
        y = (
            self._padded(flat)
            if len(flat) <= most
            else torch.cat([self._padded(part) for part in torch.split(flat, most)])
        )
        return y.view(*x.shape[:-1], -1)

    def _padded(self, x: Tensor) -> Tensor:
        rows = len(x)
        count = self.row_counts[bisect_left(self.row_counts, rows)]
        return self.product(x) if count == rows else self.product(F.pad(x, (0, 0, 0, count - rows)))[:rows]


def alike(product: Product, size: int, out: int) -> tuple[int, ...]:
    """The most of ROW_COUNTS among which a row's product, wherever the row stands, is the same bit for bit.

    product: (rows, size) -> (rows, out). One row at a time is always the same, so the least that comes back is (1,).
    """
    probes = max(1, 1024 // out)  # enough numbers that another order of summing shows in some of them
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
    """oneDNN is there and takes this dtype. Only float32 is known to gain."""
    there: bool = torch._C._has_mkldnn
    return there and weight.device.type == "cpu" and weight.dtype == torch.float32


def pack(module: nn.Module) -> None:
    """Put a PackedLinear in the place of every nn.Linear inside that can be packed; one weight at a time.

    Call it when the number of threads is set: the choice of a kernel depends on that too.
    """
    found: dict[torch.Size, tuple[int, ...]] = {}
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and getattr(child, "bias", None) is None and can_pack(child.weight):
                shape = child.weight.shape
                packed = PackedLinear(child.weight.detach(), found.get(shape))
                found[shape] = packed.row_counts
                setattr(parent, name, packed)
    _log_choices(found)


def _log_choices(found: dict[torch.Size, tuple[int, ...]]) -> None:
    shapes_by_counts: defaultdict[tuple[int, ...], list[str]] = defaultdict(list)
    for shape, counts in found.items():
        shapes_by_counts[counts].append("x".join(map(str, shape)))
    for counts, shapes in shapes_by_counts.items():
        if counts == ROW_COUNTS:
            continue
        level = logging.WARNING if counts == (1,) else logging.INFO
        log.log(
            level,
            "products of %s go by %s rows, others padded or cut: here oneDNN rounds those differently%s",
            ", ".join(shapes),
            " or ".join(map(str, counts)),
            ", and one row at a time is slow with several listeners" if level == logging.WARNING else "",
        )
