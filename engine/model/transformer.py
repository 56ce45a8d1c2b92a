"""The Llama transformer that both halves of CSM are, written for serving: fused projections, a given cache."""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import TransformerConfig


class CacheView(Protocol):
    """Where keys and values of this pass go, and what its queries may see."""

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v: (rows, kv_heads, length, head_dim) -> those of the context, (rows, kv_heads, context, head_dim)."""
        ...

    def attend(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """q: (rows, kv_heads, groups * length, head_dim), by group -> the same shape."""
        ...


class Compilable(nn.Module):
    """Kernels between the large products: what torch.compile is for. A marker, see ModelRunner.compile.

    A build is for so many dimensions, and for none of length one unless it was made with one; there may be eight of
    each class. So what can be is laid out as (tokens, size), and `ModelRunner.warm_up` goes through all there are: the
    first to need another build would wait for it, and with it everybody who speaks.
    """


class RMSNorm(Compilable):
    """Takes in what the part before gave, and norms: (x, update) -> (x + update, its norm), each (tokens, size)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor, update: Tensor | None) -> tuple[Tensor, Tensor]:
        if update is not None:
            x = x + update
        # in float32 and back before the weight, as Llama does it
        return x, self.weight * F.rms_norm(x.float(), self.weight.shape, eps=self.eps).to(x.dtype)


class Rotary(Compilable):
    """One fused projection (rows, length, all) -> q and k, turned, and v, each (rows, heads, length, head_dim)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim

    def forward(self, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, length, _ = qkv.shape
        heads = qkv.view(rows, length, self.heads + 2 * self.kv_heads, self.head_dim).transpose(1, 2)
        turned = rotate(heads[:, : self.heads + self.kv_heads], cos, sin)
        return turned[:, : self.heads], turned[:, self.heads :], heads[:, self.heads + self.kv_heads :]


class Gate(Compilable):
    """(tokens, 2 * intermediate) -> (tokens, intermediate)"""

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
        """x: (rows * length, hidden)"""
        length = x.shape[0] // rows
        q, k, v = self.rotary(self.qkv(x).view(rows, length, -1), cos, sin)
        keys, values = view.update(layer, k, v)
        # Queries of one group share a KV head: laid along the query axis, nothing has to be repeated.
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

    What a layer gives is added by the norm behind it, in one kernel with its work.
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
    """Layers and final norm over hidden states (rows, length, hidden)."""

    cos: Tensor  # (positions, head_dim), in the weights' dtype
    sin: Tensor  # the same; the first half of a head's is negative, see `rotate`

    def __init__(self, config: TransformerConfig, positions: int) -> None:
        super().__init__()
        self.config = config
        self.groups = config.heads // config.kv_heads
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.hidden, config.norm_eps)
        self.positions = positions
        self.build_tables()

    def build_tables(self) -> None:
        """Make the rotary tables; once more after a model got its weights, on another device or in another dtype."""
        weight = self.norm.weight
        steps = torch.arange(self.positions, dtype=torch.float32, device=weight.device)
        angles = torch.outer(steps, rope_frequencies(self.config).to(weight.device))
        cos, sin = angles.cos(), angles.sin()
        self.register_buffer("cos", torch.cat((cos, cos), dim=-1).to(weight.dtype), persistent=False)
        self.register_buffer("sin", torch.cat((-sin, sin), dim=-1).to(weight.dtype), persistent=False)

    def forward(self, x: Tensor, positions: Tensor | slice, view: CacheView) -> Tensor:
        """x: (rows, length, hidden); positions: (rows, length), or the same for all rows -> (rows, length, hidden)."""
        cos, sin = self.cos[positions], self.sin[positions]
        if cos.ndim == 3:
            cos, sin = cos[:, None], sin[:, None]  # one head axis
        shape, rows = x.shape, x.shape[0]
        x, update = x.flatten(0, 1), None
        for index, layer in enumerate(self.layers):
            x, update = layer(x, update, rows, cos, sin, index, view)
        _, normed = self.norm(x, update)
        result: Tensor = normed.view(shape)
        return result


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in the half-split order of Llama in transformers: (left, right) -> the angle's turn of it.

    What it subtracts carries its sign in `sin`.
    """
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


def rope_frequencies(config: TransformerConfig) -> Tensor:
    """Radians per position, float32 (head_dim / 2,).

    The scaling is Llama 3's, after transformers' modeling_rope_utils.
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
