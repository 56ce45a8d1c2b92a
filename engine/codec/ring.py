"""Attention of Mimi's decoder over a ring of the newest positions of each row, which it reads where they lie.

A row's position p lies in slot p % capacity. A frame writes its positions before it attends, inactive rows too: their
position does not advance, so their next frame writes the same slots again. The capacity is at least the context and one
frame less one position, so that a frame overwrites nothing that its first position attends to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class RingShape:
    layers: int
    heads: int
    head_dim: int
    context: int  # positions that a position attends to, itself included
    step: int  # positions of a frame
    period: float  # of the slowest rotation, in positions

    @property
    def capacity(self) -> int:
        """Slots of a row: a multiple of 8, which masked attention on a GPU would otherwise pad each mask to."""
        return -(-(self.context + self.step - 1) // 8) * 8


class KvRing:
    """Keys and values of all layers, and every row's position."""

    def __init__(self, shape: RingShape, rows: int, device: torch.device) -> None:
        self.shape = shape
        size = 2 * shape.heads * shape.head_dim
        self.slots = torch.zeros(shape.layers, rows, shape.capacity, size, device=device)  # keys, then values
        self.position = torch.zeros(rows, dtype=torch.int64, device=device)  # that the row's next frame begins with


class FrameAttention(Protocol):
    """The attention of one frame's positions, for all layers."""

    def __call__(self, layer: int, qkv: Tensor) -> Tensor:
        """Write the frame's keys and values and attend: (rows, step, 3, heads, head_dim) -> (rows * step, hidden).

        May overwrite qkv.
        """
        ...


class RingAttention(Protocol):
    def __call__(self, ring: KvRing, rotation: Tensor) -> FrameAttention:
        """Prepare what all layers share. rotation: as of `frame_rotation`, of the first rows."""
        ...


def rotation_speeds(shape: RingShape, device: torch.device) -> Tensor:
    """Radians per position of each pair of a head's dimensions: (head_dim / 2,)"""
    pairs = torch.arange(shape.head_dim // 2, device=device, dtype=torch.float32)
    return torch.pow(shape.period, -2 * pairs / shape.head_dim)


def frame_rotation(ring: KvRing, speeds: Tensor, rows: int) -> Tensor:
    """The rotation of each pair at the positions of the next frame: complex64 (rows, step, head_dim / 2)"""
    positions = ring.position[:rows, None] + torch.arange(ring.shape.step, device=speeds.device)
    angles = positions[:, :, None] * speeds
    return torch.polar(torch.ones_like(speeds), angles)


class MaskedAttention:
    """Implements RingAttention with PyTorch's own operators: attention to all slots, masked."""

    def __init__(self, ring: KvRing, rotation: Tensor) -> None:
        self._ring, self._rotation = ring, rotation[:, :, None, None]
        shape, device = ring.shape, rotation.device
        rows = rotation.shape[0]
        self._row = torch.arange(rows, device=device)[:, None]
        position = ring.position[:rows, None] + torch.arange(shape.step, device=device)
        self._slot = position % shape.capacity
        # Slot s holds the position that is `age` before this one, or one too old to attend to.
        age = (position[:, :, None] - torch.arange(shape.capacity, device=device)) % shape.capacity
        visible = age < (position + 1).clamp(max=shape.context)[:, :, None]
        self._mask = torch.where(visible, 0.0, float("-inf"))[:, None]  # (rows, 1, step, capacity)

    def __call__(self, layer: int, qkv: Tensor) -> Tensor:
        rows, step, _, heads, head_dim = qkv.shape
        pairs = torch.view_as_complex(qkv.view(rows, step, 3, heads, head_dim // 2, 2)[:, :, :2])
        pairs *= self._rotation
        slots = self._ring.slots[layer]
        slots[self._row, self._slot] = qkv[:, :, 1:].reshape(rows, step, -1)
        keys, values = slots[:rows].view(rows, -1, 2, heads, head_dim).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(qkv[:, :, 0].transpose(1, 2), keys, values, self._mask)
        return y.transpose(1, 2).reshape(rows * step, -1)
