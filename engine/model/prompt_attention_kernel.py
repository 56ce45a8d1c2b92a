"""Attention of packed prompts in Triton: each token reads the positions of its row up to its own, and no others.

One program computes one KV head for a block of consecutive tokens of one row, all queries of its group at once, and
walks through the row in splits of fixed length from position 0 with an online softmax. A token's arithmetic depends
only on its row and position: splits beyond its position leave its sums unchanged to the bit, so whatever else is packed
does not matter. No tensor values are read on the host. Imported only where there is a GPU.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

SPLIT = 64  # positions that are read at once
BLOCK = 4  # tokens of a program: with groups of four a tile of tensor cores, of 16 queries, is full
_MIN_QUERIES = 16
_INTERPRETED = triton.knobs.runtime.interpret


class PackedAttention:
    """Implements kv_cache.PromptAttention."""

    align = BLOCK

    def __call__(self, q: Tensor, keys: Tensor, values: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        tokens, kv_heads, groups, head_dim = q.shape
        q = q if q.stride(3) == 1 else q.contiguous()
        assert keys.stride(3) == values.stride(3) == rows.stride(0) == positions.stride(0) == 1
        assert tokens % BLOCK == 0
        y = torch.empty(q.shape, device=q.device, dtype=q.dtype)
        # Triton's interpreter multiplies bfloat16 bit patterns as integers.
        operands = tl.float32 if _INTERPRETED else getattr(tl, str(q.dtype).removeprefix("torch."))
        _attend_to_rows[tokens // BLOCK, kv_heads](
            *(q, keys, values, rows, positions, y),
            *(keys.shape[2], math.log2(math.e) / math.sqrt(head_dim)),
            *(*q.stride()[:3], *keys.stride()[:3], *values.stride()[:3]),
            GROUPS=groups,
            HEAD_DIM=head_dim,
            TOKENS=BLOCK,
            POSITIONS=SPLIT,
            QUERIES=max(triton.next_power_of_2(groups * BLOCK), _MIN_QUERIES),
            DIMS=max(triton.next_power_of_2(head_dim), 16),
            OPERANDS=operands,
            num_warps=4,
        )
        return y


@triton.jit(do_not_specialize=["context"])
def _attend_to_rows(
    q: tl.tensor,  # (tokens, kv_heads, groups, head_dim); q, keys and values have any strides except 1 in the last
    keys: tl.tensor,  # (rows, kv_heads, context, head_dim)
    values: tl.tensor,
    rows: tl.tensor,  # int64 (tokens,), the same within a block
    positions: tl.tensor,  # int64 (tokens,); from `context` on: padding
    y: tl.tensor,  # (tokens, kv_heads, groups, head_dim), contiguous
    context: tl.tensor,
    scale: tl.tensor,  # of scores, including log2(e) for exp2
    q_token: tl.tensor,
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
    TOKENS: tl.constexpr,
    POSITIONS: tl.constexpr,
    QUERIES: tl.constexpr,
    DIMS: tl.constexpr,
    OPERANDS: tl.constexpr,
) -> None:
    first, head = tl.program_id(0).to(tl.int64) * TOKENS, tl.program_id(1)
    row = tl.load(rows + first)
    query, dim = tl.arange(0, QUERIES)[:, None], tl.arange(0, DIMS)[None, :]
    token, group = first + query // GROUPS, query % GROUPS
    within = query < TOKENS * GROUPS
    mask = within & (dim < HEAD_DIM)
    last = tl.load(positions + token, mask=within, other=context)
    live = tl.where(last < context, last + 1, 0)  # (QUERIES, 1): positions that each query reads
    longest = tl.max(live)
    queries = tl.load(q + token * q_token + head * q_head + group * q_group + dim, mask=mask, other=0.0)

    peak = tl.full((QUERIES, 1), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES, 1), tl.float32)
    mixed = tl.zeros((QUERIES, DIMS), tl.float32)
    start = longest * 0
    while start < longest:
        position = start + tl.arange(0, POSITIONS)
        filled = (position < longest)[:, None] & (dim < HEAD_DIM)
        key_at = keys + row * k_row + head * k_head + position[:, None] * k_position + dim
        value_at = values + row * v_row + head * v_head + position[:, None] * v_position + dim
        key, value = tl.load(key_at, mask=filled, other=0.0), tl.load(value_at, mask=filled, other=0.0)

        scores = tl.dot(queries.to(OPERANDS), tl.trans(key.to(OPERANDS)), input_precision="ieee") * scale
        scores = tl.where(position[None, :] < live, scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1)[:, None])
        base = tl.where(live > 0, higher, 0.0)  # padding has no peak
        weights = tl.exp2(scores - base)
        old_scale = tl.exp2(peak - base)
        total = total * old_scale + tl.sum(weights, 1)[:, None]
        part = tl.dot(weights.to(value.dtype).to(OPERANDS), value.to(OPERANDS), input_precision="ieee")
        mixed = mixed * old_scale + part
        peak = higher
        start += POSITIONS

    mixed /= tl.where(live > 0, total, 1.0)
    place = ((token * tl.num_programs(1) + head) * GROUPS + group) * HEAD_DIM + dim
    tl.store(y + place, mixed.to(y.dtype.element_ty), mask=mask)
