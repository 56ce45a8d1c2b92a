"""Attention of a frame step in Triton: one query a row, and of the cache only what that row has filled.

A row's positions are cut into splits of a fixed length, counted from position 0. One program takes a split of a KV
head, with all queries that share the head; a second kernel joins a row's splits in their order. So one long row is
shared out over the whole GPU, and the arithmetic of a row follows from the row alone: who else speaks and how large the
bucket is change no bit of it.

Nothing here asks for a tensor's values: programs without live positions end at once. What is allocated lies in the pool
of the graph that is being recorded. Imported only where there is a GPU.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

SPLIT = 128  # positions that one program of the kernel takes
_FEWEST_QUERIES = 16  # what tensor cores multiply at once
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
    # The interpreter multiplies bfloat16 by its bit patterns.
    operands = tl.float32 if _INTERPRETED else getattr(tl, str(q.dtype).removeprefix("torch."))
    _attend_to_split[rows, kv_heads, splits](
        *(q, keys, values, positions, parts, logs),
        *(context, math.log2(math.e) / math.sqrt(head_dim)),
        *(*q.stride()[:3], *keys.stride()[:3], *values.stride()[:3]),
        **sizes,
        QUERIES=max(triton.next_power_of_2(groups), _FEWEST_QUERIES),
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


# Not specialized for `context`: a build for each bucket might round differently.
@triton.jit(do_not_specialize=["context"])
def _attend_to_split(
    q: tl.tensor,  # (rows, kv_heads, groups, head_dim), as keys and values with any strides but the last
    keys: tl.tensor,  # (rows, kv_heads, context, head_dim)
    values: tl.tensor,
    positions: tl.tensor,  # int64 (rows,)
    parts: tl.tensor,  # float32 (rows, kv_heads, splits, groups, head_dim): each split's own attention
    logs: tl.tensor,  # float32 (rows, kv_heads, splits, groups): log2 of what its softmax divided by
    context: tl.tensor,
    scale: tl.tensor,  # of scores, so that 2 to their power is taken
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
    live = tl.where(last < context, last + 1, 0)  # else the row is held
    if split * SPLIT < live:
        group, dim = tl.arange(0, QUERIES)[:, None], tl.arange(0, DIMS)
        position = split * SPLIT + tl.arange(0, SPLIT)
        asked = (group < GROUPS) & (dim < HEAD_DIM)
        held = (position < live)[:, None] & (dim < HEAD_DIM)

        query = tl.load(q + row * q_row + head * q_head + group * q_group + dim, mask=asked, other=0.0)
        key_at = keys + row * k_row + head * k_head + position[:, None] * k_position + dim
        value_at = values + row * v_row + head * v_head + position[:, None] * v_position + dim
        key, value = tl.load(key_at, mask=held, other=0.0), tl.load(value_at, mask=held, other=0.0)

        scores = tl.dot(query.to(OPERANDS), tl.trans(key.to(OPERANDS)), input_precision="ieee") * scale
        scores = tl.where(position < live, scores, float("-inf"))
        peak = tl.max(scores, 1)
        weights = tl.exp2(scores - peak[:, None])
        total = tl.sum(weights, 1)
        mixed = tl.dot(weights.to(value.dtype).to(OPERANDS), value.to(OPERANDS), input_precision="ieee")

        place = ((row * tl.num_programs(1) + head) * tl.num_programs(2) + split) * GROUPS + group
        tl.store(parts + place * HEAD_DIM + dim, mixed / total[:, None], mask=asked)
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
    """The mean of a row's splits by what their softmaxes divided by, taken in as they come: an online softmax."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    last = tl.load(positions + row)
    live = tl.where(last < context, last + 1, 0)
    group, dim = tl.arange(0, QUERIES)[:, None], tl.arange(0, DIMS)
    asked = (group < GROUPS) & (dim < HEAD_DIM)
    first = row * tl.num_programs(1) + head

    peak = tl.full((QUERIES, 1), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES, 1), tl.float32)
    mixed = tl.zeros((QUERIES, DIMS), tl.float32)
    for split in range(tl.cdiv(live, SPLIT)):
        place = (first * splits + split) * GROUPS + group
        log = tl.load(logs + place, mask=group < GROUPS, other=0.0)
        part = tl.load(parts + place * HEAD_DIM + dim, mask=asked, other=0.0)
        higher = tl.maximum(peak, log)
        kept, added = tl.exp2(peak - higher), tl.exp2(log - higher)
        mixed = mixed * kept + part * added
        total = total * kept + added
        peak = higher
    mixed /= tl.where(live > 0, total, 1.0)  # a row that is held has read nothing
    tl.store(y + (first * GROUPS + group) * HEAD_DIM + dim, mixed.to(y.dtype.element_ty), mask=asked)
