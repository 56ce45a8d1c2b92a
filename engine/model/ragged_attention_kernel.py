"""Ragged decode attention in Triton (split-KV): one query per row, reading only the positions the row has filled.

A row's positions are divided into splits of fixed length from position 0. One program computes one split of a KV head
for all queries of its group; a second kernel combines a row's splits in order. A long row is thus spread over the whole
GPU, and a row's arithmetic depends only on the row: other rows and the bucket size do not change a bit of its result.

No tensor values are read on the host: programs without filled positions return at once. Under CUDA graph capture the
temporary buffers come from the graph's memory pool. Imported only where there is a GPU.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

SPLIT = 128  # positions per program
_MIN_QUERIES = 16  # smallest tile of tensor cores
_INTERPRETED = triton.knobs.runtime.interpret


def attend(q: Tensor, keys: Tensor, values: Tensor, positions: Tensor) -> Tensor:
    """Implements kv_cache.RaggedAttention."""
    rows, kv_heads, groups, head_dim = q.shape
    context = keys.shape[2]
    splits = triton.cdiv(context, SPLIT)
    q = q if q.stride(3) == 1 else q.contiguous()
    assert keys.stride(3) == values.stride(3) == positions.stride(0) == 1
    parts = torch.empty(rows, kv_heads, splits, groups, head_dim, device=q.device, dtype=torch.float32)
    logs = torch.empty(rows, kv_heads, splits, groups, device=q.device, dtype=torch.float32)
    y = torch.empty_like(q, memory_format=torch.contiguous_format)
    sizes: dict[str, Any] = {"GROUPS": groups, "HEAD_DIM": head_dim, "SPLIT": SPLIT}
    dims = triton.next_power_of_2(head_dim)
    # Triton's interpreter multiplies bfloat16 bit patterns as integers.
    operands = tl.float32 if _INTERPRETED else getattr(tl, str(q.dtype).removeprefix("torch."))
    _attend_to_split[rows, kv_heads, splits](
        *(q, keys, values, positions, parts, logs),
        *(context, math.log2(math.e) / math.sqrt(head_dim)),
        *(*q.stride()[:3], *keys.stride()[:3], *values.stride()[:3]),
        **sizes,
        QUERIES=max(triton.next_power_of_2(groups), _MIN_QUERIES),
        DIMS=max(dims, 16),
        OPERANDS=operands,
        num_warps=4,
    )
    _join_splits[rows, kv_heads](
        *(parts, logs, positions, y),
        *(context, splits),
        **sizes,
        QUERIES=triton.next_power_of_2(groups),
        DIMS=dims,
        num_warps=1,
    )
    return y


# Not specialized on `context`: separate builds per bucket could round differently.
@triton.jit(do_not_specialize=["context"])
def _attend_to_split(
    q: tl.tensor,  # (rows, kv_heads, groups, head_dim); q, keys and values have any strides except 1 in the last
    keys: tl.tensor,  # (rows, kv_heads, context, head_dim)
    values: tl.tensor,
    positions: tl.tensor,  # int64 (rows,)
    parts: tl.tensor,  # float32 (rows, kv_heads, splits, groups, head_dim): attention output of each split
    logs: tl.tensor,  # float32 (rows, kv_heads, splits, groups): log2 of the softmax denominator
    context: tl.tensor,
    scale: tl.tensor,  # of scores, including log2(e) for exp2
    q_row: tl.tensor,
    q_head: tl.tensor,
    q_group: tl.tensor,
    k_row: tl.tensor,
    k_head: tl.tensor,
    k_position: tl.tensor,
    v_row: tl.tensor,
    v_head: tl.tensor,
    v_position: tl.tensor,
    GROUPS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SPLIT: tl.constexpr,
    QUERIES: tl.constexpr,
    DIMS: tl.constexpr,
    OPERANDS: tl.constexpr,
) -> None:
    row, head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    last = tl.load(positions + row)
    live = tl.where(last < context, last + 1, 0)  # 0: the row is inactive
    if split * SPLIT < live:
        group, dim = tl.arange(0, QUERIES)[:, None], tl.arange(0, DIMS)
        position = split * SPLIT + tl.arange(0, SPLIT)
        query_mask = (group < GROUPS) & (dim < HEAD_DIM)
        filled = (position < live)[:, None] & (dim < HEAD_DIM)

        query = tl.load(q + row * q_row + head * q_head + group * q_group + dim, mask=query_mask, other=0.0)
        key_at = keys + row * k_row + head * k_head + position[:, None] * k_position + dim
        value_at = values + row * v_row + head * v_head + position[:, None] * v_position + dim
        key, value = tl.load(key_at, mask=filled, other=0.0), tl.load(value_at, mask=filled, other=0.0)

        scores = tl.dot(query.to(OPERANDS), tl.trans(key.to(OPERANDS)), input_precision="ieee") * scale
        scores = tl.where(position < live, scores, float("-inf"))
        peak = tl.max(scores, 1)
        weights = tl.exp2(scores - peak[:, None])
        total = tl.sum(weights, 1)
        mixed = tl.dot(weights.to(value.dtype).to(OPERANDS), value.to(OPERANDS), input_precision="ieee")

        place = ((row * tl.num_programs(1) + head) * tl.num_programs(2) + split) * GROUPS + group
        tl.store(parts + place * HEAD_DIM + dim, mixed / total[:, None], mask=query_mask)
        tl.store(logs + place, (peak + tl.log2(total))[:, None], mask=group < GROUPS)


@triton.jit(do_not_specialize=["context", "splits"])
def _join_splits(
    parts: tl.tensor,
    logs: tl.tensor,
    positions: tl.tensor,
    y: tl.tensor,  # (rows, kv_heads, groups, head_dim), contiguous
    context: tl.tensor,
    splits: tl.tensor,
    GROUPS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SPLIT: tl.constexpr,
    QUERIES: tl.constexpr,
    DIMS: tl.constexpr,
) -> None:
    """Average a row's splits weighted by their softmax denominators, one at a time (online softmax)."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    last = tl.load(positions + row)
    live = tl.where(last < context, last + 1, 0)
    group, dim = tl.arange(0, QUERIES)[:, None], tl.arange(0, DIMS)
    query_mask = (group < GROUPS) & (dim < HEAD_DIM)
    first = row * tl.num_programs(1) + head

    peak = tl.full((QUERIES, 1), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES, 1), tl.float32)
    mixed = tl.zeros((QUERIES, DIMS), tl.float32)
    split = 0
    while split * SPLIT < live:  # not `range`: Triton 3.6's interpreter fails on its bound with NumPy 2.4
        place = (first * splits + split) * GROUPS + group
        log = tl.load(logs + place, mask=group < GROUPS, other=0.0)
        part = tl.load(parts + place * HEAD_DIM + dim, mask=query_mask, other=0.0)
        higher = tl.maximum(peak, log)
        old_scale, new_scale = tl.exp2(peak - higher), tl.exp2(log - higher)
        mixed = mixed * old_scale + part * new_scale
        total = total * old_scale + new_scale
        peak = higher
        split += 1
    mixed /= tl.where(live > 0, total, 1.0)  # inactive rows have no splits
    tl.store(y + (first * GROUPS + group) * HEAD_DIM + dim, mixed.to(y.dtype.element_ty), mask=query_mask)
