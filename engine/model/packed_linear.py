"""Linear layers with prepacked weights for oneDNN on a CPU.

In float32 a plain product of a few rows repacks the whole weight on every call, which takes longer than the product.

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
    """Replaces an nn.Linear without bias: x (..., in) -> (..., out), float32 or bfloat16."""

    def __init__(self, weight: Tensor, row_counts: tuple[int, ...] | None = None) -> None:
        """weight: (out, in), see `can_pack`. row_counts: those that round identically, ascending; None: test them."""
        super().__init__()
        out, size = weight.shape
        self.row_counts = row_counts or measured_row_counts(out, size, weight.dtype)
        self.weight = nn.Parameter(_pack(weight), requires_grad=False)

    def product(self, x: Tensor) -> Tensor:
        """(rows, in) -> (rows, out) with the rounding of oneDNN's kernel for this number of rows."""
        return _product(x, self.weight)

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


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)  # for any number of rows
    return packed


def _product(x: Tensor, packed: Tensor) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    return y


def measured_row_counts(out: int, size: int, dtype: torch.dtype) -> tuple[int, ...]:
    """The row counts that round identically for a weight of this shape, tested on an artificial weight.

    The second half of its inputs cancels the first in another order, so that a product is nothing but rounding error:
    another order of summation shows in bfloat16 too, which rounds it away from most products of random weights.
    """
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(size // 2, generator=generator)
    weight, rows = torch.zeros(out, size, dtype=dtype), torch.zeros(max(1, 1024 // out), size, dtype=dtype)
    for tensor, sign in ((weight, -1), (rows, 1)):
        first = torch.randn(len(tensor), size // 2, generator=generator).to(dtype)
        tensor[:, : 2 * (size // 2)] = torch.cat((first, sign * first[:, order]), dim=1)
    with torch.inference_mode():
        packed = _pack(weight)
        return identically_rounding_counts(lambda x: _product(x, packed), rows)


def identically_rounding_counts(product: Product, rows: Tensor) -> tuple[int, ...]:
    """The largest subset of ROW_COUNTS for which a row's product is bit-identical at every position.

    rows: (probes, in), each tested by itself. A single row is always identical to itself, so at least (1,) is returned.
    """
    counts_by_bits: defaultdict[bytes, tuple[int, ...]] = defaultdict(tuple)
    with torch.inference_mode():
        for count in ROW_COUNTS:
            products = torch.stack([product(row.repeat(count, 1)) for row in rows])
            if torch.equal(products, products[:, :1].expand_as(products)):
                counts_by_bits[products[:, 0].contiguous().view(torch.uint8).numpy().tobytes()] += (count,)
    return max(counts_by_bits.values(), key=len, default=(1,))


def can_pack(weight: Tensor) -> bool:
    """True if oneDNN can prepack the weight: float32 on a CPU, or bfloat16 where the CPU has instructions for it."""
    if weight.device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    fast_bfloat16: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and fast_bfloat16)


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
