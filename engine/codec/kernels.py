"""The decoder's operators in Triton: a convolution's windows, and attention over the ring, each in one kernel.

A program computes elements or a head of a single row, so other rows do not change a bit of its result. Arithmetic is
float32 without tensor cores. Imported only where there is a GPU.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .ring import KvRing
from .windows import WindowShape

_TILE = 1 << 16 if triton.knobs.runtime.interpret else 1024  # elements of a program of `_windows`
_SLOTS = 64  # read at a time by a program of `_attend`


def windows(x: Tensor, update: Tensor | None, past: Tensor, fresh: Tensor, shape: WindowShape) -> Tensor:
    """Implements windows.Windows."""
    rows, step, channels = x.shape
    assert x.is_contiguous()
    assert update is None or update.is_contiguous()
    assert past.stride(1) == fresh.stride(1) == 1
    y = torch.empty(rows * step, shape.taps * channels, device=x.device, dtype=torch.float32)
    elements = (step * shape.taps + shape.past) * channels
    _windows[rows, triton.cdiv(elements, _TILE)](
        *(x, x if update is None else update, past, fresh, y),
        *(step, channels, past.stride(0), fresh.stride(0)),
        TAPS=shape.taps,
        DILATION=shape.dilation,
        ELU=shape.elu,
        UPDATE=update is not None,
        TILE=_TILE,
        num_warps=4,
    )
    return y


# `step` is not specialized, so that one build serves convolutions of every length.
@triton.jit(do_not_specialize=["step", "past_row", "fresh_row"])
def _windows(
    x: tl.tensor,  # float32 (rows, step, channels), contiguous
    update: tl.tensor,  # the same
    past: tl.tensor,  # float32 (rows, (taps - 1) * dilation, channels)
    fresh: tl.tensor,  # the same
    y: tl.tensor,  # float32 (rows, step, taps, channels), contiguous
    step: tl.tensor,
    channels: tl.tensor,
    past_row: tl.tensor,
    fresh_row: tl.tensor,
    TAPS: tl.constexpr,
    DILATION: tl.constexpr,
    ELU: tl.constexpr,
    UPDATE: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """Each element of the windows, then each of the state that the next frame reads."""
    PAST: tl.constexpr = (TAPS - 1) * DILATION
    row = tl.program_id(0).to(tl.int64)
    element = tl.program_id(1) * TILE + tl.arange(0, TILE)
    channel, place = element % channels, element // channels
    in_windows = place < step * TAPS
    kept = place - step * TAPS
    # position in the past and the frame laid end to end
    position = tl.where(in_windows, place // TAPS + place % TAPS * DILATION, step + kept)
    wanted = kept < PAST
    from_past = position < PAST
    old = tl.load(past + row * past_row + position * channels + channel, mask=wanted & from_past, other=0.0)
    at = (row * step + position - PAST) * channels + channel
    new = tl.load(x + at, mask=wanted & (position >= PAST), other=0.0)
    if UPDATE:
        new += tl.load(update + at, mask=wanted & (position >= PAST), other=0.0)
    if ELU:
        new = tl.where(new > 0, new, tl.exp(new) - 1)
    value = tl.where(from_past, old, new)
    tl.store(y + row * step * TAPS * channels + element, value, mask=in_windows)
    tl.store(fresh + row * fresh_row + kept * channels + channel, value, mask=wanted & (kept >= 0))


class RingKernel:
    """Implements ring.RingAttention: rotates, writes and attends in one kernel, and reads only filled slots.

    The number of a frame's positions must be a power of two.
    """

    def __init__(self, ring: KvRing, rotation: Tensor) -> None:
        self._ring, self._rotation = ring, torch.view_as_real(rotation)

    def __call__(self, layer: int, qkv: Tensor) -> Tensor:
        shape, (rows, step, _, heads, head_dim) = self._ring.shape, qkv.shape
        assert qkv.is_contiguous()
        y = torch.empty(rows * step, heads * head_dim, device=qkv.device, dtype=torch.float32)
        _attend[rows, heads](
            *(qkv, self._rotation, self._ring.slots[layer], self._ring.position, y),
            *(shape.context, shape.capacity, math.log2(math.e) / math.sqrt(head_dim)),
            HEADS=heads,
            HEAD_DIM=head_dim,
            DIMS=triton.next_power_of_2(head_dim),
            STEP=step,
            SLOTS=_SLOTS,
            num_warps=4,
        )
        return y


@triton.jit(do_not_specialize=["context"])
def _attend(
    qkv: tl.tensor,  # float32 (rows, step, 3, heads, head_dim), contiguous
    rotation: tl.tensor,  # float32 (rows, step, head_dim / 2, 2), contiguous: cosine and sine of each pair's angle
    slots: tl.tensor,  # float32 (rows, capacity, 2, heads, head_dim), contiguous
    positions: tl.tensor,  # int64 (rows,)
    y: tl.tensor,  # float32 (rows, step, heads, head_dim), contiguous
    context: tl.tensor,
    capacity: tl.tensor,
    scale: tl.tensor,  # of scores, including log2(e) for exp2
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIMS: tl.constexpr,
    STEP: tl.constexpr,
    SLOTS: tl.constexpr,
) -> None:
    """One head of one row. Positions of earlier frames are read from their slots, this frame's from `qkv`."""
    HIDDEN: tl.constexpr = HEADS * HEAD_DIM
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    position = tl.load(positions + row)
    slots += row * capacity * 2 * HIDDEN + head * HEAD_DIM
    dim, step = tl.arange(0, DIMS), tl.arange(0, STEP)
    inside = dim < HEAD_DIM

    at = (row * STEP + step)[:, None] * 3 * HIDDEN + head * HEAD_DIM + dim  # (STEP, DIMS)
    angle = (row * STEP + step)[:, None] * HEAD_DIM + dim // 2 * 2
    cosine = tl.load(rotation + angle, mask=inside[None], other=0.0)
    sine = tl.load(rotation + angle + 1, mask=inside[None], other=0.0)
    sine = tl.where((dim % 2 == 0)[None], -sine, sine)
    partner = at - dim + (dim ^ 1)
    q = tl.load(qkv + at, mask=inside[None], other=0.0) * cosine
    q += tl.load(qkv + partner, mask=inside[None], other=0.0) * sine
    k = tl.load(qkv + HIDDEN + at, mask=inside[None], other=0.0) * cosine
    k += tl.load(qkv + HIDDEN + partner, mask=inside[None], other=0.0) * sine
    v = tl.load(qkv + 2 * HIDDEN + at, mask=inside[None], other=0.0)
    new_at = ((position + step) % capacity)[:, None] * 2 * HIDDEN + dim
    tl.store(slots + new_at, k, mask=inside[None])
    tl.store(slots + HIDDEN + new_at, v, mask=inside[None])

    # this frame's positions: (queries, keys)
    own = tl.sum(q[:, None, :] * k[None, :, :], 2) * scale
    own = tl.where(step[None, :] <= step[:, None], own, float("-inf"))
    peak = tl.max(own, 1)
    shares = tl.exp2(own - peak[:, None])
    total = tl.sum(shares, 1)
    mixed = tl.sum(shares[:, :, None] * v[None, :, :], 1)

    live = tl.minimum(position, capacity)
    first = live * 0  # not `range`: Triton 3.6's interpreter fails on its bound with NumPy 2.4
    while first < live:
        slot = first + tl.arange(0, SLOTS)
        # before the frame's first position; the slot holds none of this frame's
        age = (position - slot + capacity * SLOTS) % capacity
        age = tl.where(age == 0, capacity, age)
        visible = (slot < live)[None, :] & ((age[None, :] + step[:, None]) < context)
        read = ((slot < live) & (age < context))[:, None] & inside[None, :]
        old_at = slot[:, None] * 2 * HIDDEN + dim
        old_k = tl.load(slots + old_at, mask=read, other=0.0)
        old_v = tl.load(slots + HIDDEN + old_at, mask=read, other=0.0)
        scores = tl.sum(q[:, None, :] * old_k[None, :, :], 2) * scale
        scores = tl.where(visible, scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        shrink = tl.exp2(peak - higher)
        weights = tl.exp2(scores - higher[:, None])
        total = total * shrink + tl.sum(weights, 1)
        mixed = mixed * shrink[:, None] + tl.sum(weights[:, :, None] * old_v[None, :, :], 1)
        peak = higher
        first += SLOTS
    out = (row * STEP + step)[:, None] * HIDDEN + head * HEAD_DIM + dim
    tl.store(y + out, mixed / total[:, None], mask=inside[None])
