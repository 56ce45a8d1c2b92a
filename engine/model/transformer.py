"""Llama transformer, used as CSM's backbone and depth decoder: fused projections, KV cache passed in as a view."""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import TransformerConfig


class CacheView(Protocol):
    """The part of a KV cache that one forward pass writes and attends to."""

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k, v (rows, kv_heads, length, head_dim) -> the context's, (rows, kv_heads, context, head_dim)."""
        ...

    def attend(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """q: (rows, kv_heads, groups * length, head_dim), group-major -> the same shape."""
        ...


class Compilable(nn.Module):
    """Marker for modules that ModelRunner.compile passes to torch.compile: the small kernels between matrix products.

    torch.compile specializes on the number of dimensions and on dimensions of size 1, and keeps at most eight
    specializations per class. Inputs are therefore shaped (tokens, size) where possible, and `ModelRunner.warm_up` runs
    every specialization, because compiling one later would stall all active rows.
    """


class RMSNorm(Compilable):
    """Fused residual addition and RMS norm: (x, update) -> (x + update, normalized), each (tokens, size)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor, update: Tensor | None) -> tuple[Tensor, Tensor]:
        if update is not None:
            x = x + update
        # float32 for the norm, cast back before the weight, as in Llama
        return x, self.weight * F.rms_norm(x.float(), self.weight.shape, eps=self.eps).to(x.dtype)


class Rotary(Compilable):
    """Splits a fused projection (rows, length, q + k + v) and rotates q, k: each (rows, heads, length, head_dim)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim

    def forward(self, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, length, _ = qkv.shape
        heads = qkv.view(rows, length, self.heads + 2 * self.kv_heads, self.head_dim).transpose(1, 2)
        rotated = rotate(heads[:, : self.heads + self.kv_heads], cos, sin)
        return rotated[:, : self.heads], rotated[:, self.heads :], heads[:, self.heads + self.kv_heads :]


class Gate(Compilable):
    """SwiGLU gate: (tokens, 2 * intermediate) -> (tokens, intermediate)"""

    def forward(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up


class Attention(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.kv_heads, self.head_dim = config.kv_heads, config.head_dim
        self.qkv = nn.Linear(config.hidden, (config.heads + 2 * config.kv_heads) * config.head_dim, bias=False)
        self.rotary = Rotary(config)
        self.out = nn.Linear(config.heads * config.head_dim, config.hidden, bias=False)

    def forward(self, x: Tensor, rows: int, cos: Tensor, sin: Tensor, layer: int, view: CacheView) -> Tensor:
        """x: (rows * length, hidden) -> the same shape"""
        length = x.shape[0] // rows
        q, k, v = self.rotary(self.qkv(x).view(rows, length, -1), cos, sin)
        keys, values = view.update(layer, k, v)
        # Grouped-query attention: queries sharing a KV head go on the query axis, so keys and values are not repeated.
        q = q.reshape(rows, self.kv_heads, -1, self.head_dim)
        y = view.attend(q, keys, values)
        y = y.reshape(rows, -1, length, self.head_dim).transpose(1, 2).reshape(rows * length, -1)
        attended: Tensor = self.out(y)
        return attended


class Mlp(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.hidden, 2 * config.intermediate, bias=False)
        self.gate = Gate()
        self.down = nn.Linear(config.intermediate, config.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.gate(self.gate_up(x)))
        return y


class Layer(nn.Module):
    """(x, update) -> (x, update), each (rows * length, hidden).

    The MLP's output is returned as `update`; the next norm adds it in the same kernel.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden, config.norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.hidden, config.norm_eps)
        self.mlp = Mlp(config)

    def forward(
        self, x: Tensor, update: Tensor | None, rows: int, cos: Tensor, sin: Tensor, index: int, view: CacheView
    ) -> tuple[Tensor, Tensor]:
        x, normed = self.attention_norm(x, update)
        x, normed = self.mlp_norm(x, self.attention(normed, rows, cos, sin, index, view))
        return x, self.mlp(normed)


class Transformer(nn.Module):
    """Decoder layers and final norm over hidden states (rows, length, hidden)."""

    cos: Tensor  # (positions, head_dim), in the weights' dtype
    sin: Tensor  # the same; the first half of the head dimension is negated, see `rotate`

    def __init__(self, config: TransformerConfig, positions: int) -> None:
        super().__init__()
        self.config = config
        self.groups = config.heads // config.kv_heads
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.hidden, config.norm_eps)
        self.positions = positions
        if not self.norm.weight.is_meta:  # else they follow with the weights: on that device they import a compiler
            self.build_tables()

    def build_tables(self) -> None:
        """Compute the rotary tables. Call again when the weights are loaded or change device or dtype."""
        weight = self.norm.weight
        steps = torch.arange(self.positions, dtype=torch.float32, device=weight.device)
        angles = torch.outer(steps, rope_frequencies(self.config).to(weight.device))
        cos, sin = angles.cos(), angles.sin()
        self.register_buffer("cos", torch.cat((cos, cos), dim=-1).to(weight.dtype), persistent=False)
        self.register_buffer("sin", torch.cat((-sin, sin), dim=-1).to(weight.dtype), persistent=False)

    def forward(self, x: Tensor, positions: Tensor | slice, view: CacheView) -> Tensor:
        """x: (rows, length, hidden); positions: (rows, length), or a slice shared by all rows. Returns x's shape."""
        cos, sin = self.cos[positions], self.sin[positions]
        if cos.ndim == 3:
            cos, sin = cos[:, None], sin[:, None]  # add the head axis
        shape, rows = x.shape, x.shape[0]
        x, update = x.flatten(0, 1), None
        for index, layer in enumerate(self.layers):
            x, update = layer(x, update, rows, cos, sin, index, view)
        _, normed = self.norm(x, update)
        result: Tensor = normed.view(shape)
        return result


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary position embedding in transformers' half-split layout.

    `sin` carries the sign of the subtracted half, so one multiply-add does both halves.
    """
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


def rope_frequencies(config: TransformerConfig) -> Tensor:
    """Radians per position, float32 (head_dim / 2,).

    Llama 3 scaling as in transformers' modeling_rope_utils.
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    frequencies = 1.0 / (config.rope_theta**exponents)
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    wavelengths = 2 * math.pi / frequencies
    low = scaling.original_positions / scaling.low_freq_factor
    high = scaling.original_positions / scaling.high_freq_factor
    blend = (scaling.original_positions / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    stretched = frequencies / scaling.factor
    between = (1 - blend) * stretched + blend * frequencies
    return torch.where(wavelengths > low, stretched, torch.where(wavelengths < high, frequencies, between))
