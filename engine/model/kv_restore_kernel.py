"""Puts the saved keys and values of any number of voices into their rows, in Triton: one launch for a whole burst.

Copies bits, so it needs no tolerance. Each saved tensor has memory of its own; their addresses are read from a table.
Imported only where there is a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 2048  # elements of a program


def restore(both: Tensor, saved: Sequence[tuple[int, Tensor]]) -> None:
    """Implements kv_cache.KvRestore."""
    _, layers, _, kv_heads, _, head_dim = both.shape
    table = torch.tensor([(tensor.data_ptr(), row, tensor.shape[3]) for row, tensor in saved])
    if both.is_cuda:  # from pageable memory the host would wait for the whole stream
        table = table.pin_memory().to(both.device, non_blocking=True)
    longest = max(tensor.shape[3] for _, tensor in saved) * head_dim
    assert all(tensor.is_contiguous() and tensor.dtype == both.dtype for _, tensor in saved)
    _copy_in[len(saved), 2 * layers * kv_heads, triton.cdiv(longest, _BLOCK)](
        *(table, both, *(both.stride(dim) for dim in (1, 2, 3))),
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        BLOCK=_BLOCK,
        ALIGNED=head_dim * both.element_size() % 16 == 0,
    )


@triton.jit
def _copy_in(
    table: tl.tensor,  # int64 (saved, 3): address, row, length
    both: tl.tensor,  # (2, layers, rows, kv_heads, positions, head_dim), contiguous
    layer_stride: int,
    row_stride: int,
    head_stride: int,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGNED: tl.constexpr,
) -> None:
    entry, plane = table + 3 * tl.program_id(0), tl.program_id(1).to(tl.int64)  # plane: keys or values, layer, KV head
    size = tl.load(entry + 2) * HEAD_DIM
    source = tl.load(entry).to(tl.pointer_type(both.dtype.element_ty)) + plane * size
    if ALIGNED:
        source = tl.multiple_of(source, 16)  # bytes, which are then read at once
    target = both + plane // KV_HEADS * layer_stride + tl.load(entry + 1) * row_stride + plane % KV_HEADS * head_stride
    offsets = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target + offsets, tl.load(source + offsets, mask=offsets < size), mask=offsets < size)
