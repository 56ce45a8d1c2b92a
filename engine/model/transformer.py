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

    @property
    def mask(self) -> Tensor | None:
        """bool, broadcasts to (rows, kv_heads, groups * length, context)."""
        ...

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]: ...


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # in float32 and back before the weight, as Llama does it
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class Attention(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.qkv = nn.Linear(config.hidden, (config.heads + 2 * config.kv_heads) * config.head_dim, bias=False)
        self.out = nn.Linear(config.heads * config.head_dim, config.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, layer: int, view: CacheView) -> Tensor:
        rows, length, _ = x.shape
        qkv = self.qkv(x).view(rows, length, self.heads + 2 * self.kv_heads, self.head_dim).transpose(1, 2)
        qk, v = torch.split(qkv, [self.heads + self.kv_heads, self.kv_heads], dim=1)
        q, k = torch.split(rotate(qk, cos, sin), [self.heads, self.kv_heads], dim=1)
        k, v = view.update(layer, k, v)
        # Queries of one group share a KV head: laid along the query axis, nothing has to be repeated.
        q = q.reshape(rows, self.kv_heads, -1, self.head_dim)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=view.mask)
        y = y.reshape(rows, self.heads, length, self.head_dim).transpose(1, 2).reshape(rows, length, -1)
        attended: Tensor = self.out(y)
        return attended


class Mlp(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.hidden, 2 * config.intermediate, bias=False)
        self.down = nn.Linear(config.intermediate, config.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        y: Tensor = self.down(F.silu(gate) * up)
        return y


class Layer(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden, config.norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.hidden, config.norm_eps)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, index: int, view: CacheView) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, index, view)
        y: Tensor = x + self.mlp(self.mlp_norm(x))
        return y


class Transformer(nn.Module):
    """Layers and final norm over hidden states (rows, length, hidden)."""

    cos: Tensor  # (positions, head_dim)
    sin: Tensor

    def __init__(self, config: TransformerConfig, positions: int) -> None:
        super().__init__()
        self.config = config
        self.groups = config.heads // config.kv_heads
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.hidden, config.norm_eps)
        self.positions = positions
        self.tabulate(torch.get_default_device())

    def tabulate(self, device: torch.device) -> None:
        """Make the rotary tables; once more after a model that was built on the meta device got its weights."""
        steps = torch.arange(self.positions, dtype=torch.float32, device=device)
        angles = torch.outer(steps, rope_frequencies(self.config).to(device))
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor, positions: Tensor, view: CacheView) -> Tensor:
        """x: (rows, length, hidden); positions: (rows, length) or (length,) -> (rows, length, hidden)."""
        cos = self.cos[positions].to(x.dtype)
        sin = self.sin[positions].to(x.dtype)
        if positions.ndim == 2:
            cos, sin = cos[:, None], sin[:, None]  # one head axis
        for index, layer in enumerate(self.layers):
            x = layer(x, cos, sin, index, view)
        normed: Tensor = self.norm(x)
        return normed


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in the half-split order of Llama in transformers."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


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
