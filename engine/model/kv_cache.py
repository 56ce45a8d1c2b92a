"""Static KV cache and its views for decoding, prefill and the depth decoder."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import TransformerConfig


class KvCache:
    """Keys and values of one transformer at fixed addresses, each (layers, rows, kv_heads, positions + 1, head_dim).

    The last position is scratch space: rows that a step does not advance write there, so their context is unchanged.
    """

    def __init__(
        self, config: TransformerConfig, rows: int, positions: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (config.layers, rows, config.kv_heads, positions + 1, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.scratch = positions

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def copy_out(self, row: int, length: int) -> Tensor:
        """Copy a row's first `length` positions: (2, layers, kv_heads, length, head_dim)."""
        return torch.stack((self.keys[:, row, :, :length], self.values[:, row, :, :length]))

    def copy_in(self, row: int, saved: Tensor) -> None:
        """Write the result of `copy_out` to the start of any row."""
        length = saved.shape[3]
        self.keys[:, row, :, :length] = saved[0]
        self.values[:, row, :, :length] = saved[1]


class RaggedAttention(Protocol):
    """Decode attention (one query per row) that reads only the positions each row has filled."""

    def __call__(self, q: Tensor, keys: Tensor, values: Tensor, positions: Tensor) -> Tensor:
        """q: (rows, kv_heads, groups, head_dim); keys, values: (rows, kv_heads, context, head_dim); positions: int64
        (rows,), the last position that each row attends to -> (rows, kv_heads, groups, head_dim).

        A row whose position is outside the context is inactive: it reads nothing and returns zeros. Every other row's
        result is bit-identical whatever the context size and the other rows are.
        """
        ...


class DecodeView:
    """Cache view of a decode step: each of the first `rows` rows writes one position and attends to its filled ones.

    ragged: attention kernel over the filled positions. None: masked attention over the whole context of every row.
    """

    def __init__(self, cache: KvCache, positions: Tensor, context: int, ragged: RaggedAttention | None = None) -> None:
        rows = positions.shape[0]
        _, _, kv_heads, _, head_dim = cache.keys.shape
        self._cache = cache
        self._rows, self._context = rows, context
        self._write_at = positions.view(rows, 1, 1, 1).expand(rows, kv_heads, 1, head_dim)
        self._positions, self._ragged = positions, ragged
        if ragged is None:
            self._mask = (torch.arange(context, device=positions.device) <= positions[:, None])[:, None, None]

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v: (rows, kv_heads, 1, head_dim) -> (rows, kv_heads, context, head_dim)."""
        keys, values = self._cache.keys[layer, : self._rows], self._cache.values[layer, : self._rows]
        keys.scatter_(2, self._write_at, k)
        values.scatter_(2, self._write_at, v)
        return keys[:, :, : self._context], values[:, :, : self._context]

    def attend(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if self._ragged is not None:
            return self._ragged(q, keys, values, self._positions)
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=self._mask)


class PrefillView:
    """Cache view of a prefill: one row writes positions start to start + length - 1 with causal attention."""

    def __init__(self, cache: KvCache, row: int, start: int, length: int, groups: int) -> None:
        self._cache, self._row = cache, row
        self._start, self._end = start, start + length
        device = cache.keys.device
        causal = torch.arange(self._end, device=device) <= torch.arange(start, self._end, device=device)[:, None]
        self._mask = causal.repeat(groups, 1)[None, None]  # (1, 1, groups * length, end), group-major

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v: (1, kv_heads, length, head_dim) -> (1, kv_heads, end, head_dim)."""
        keys, values = self._cache.keys[layer, self._row], self._cache.values[layer, self._row]
        keys[:, self._start : self._end] = k[0]
        values[:, self._start : self._end] = v[0]
        return keys[None, :, : self._end], values[None, :, : self._end]

    def attend(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=self._mask)


class DepthView:
    """Cache view of the depth decoder: all rows write positions start to end - 1. Every frame restarts at 0."""

    def __init__(self, cache: KvCache, rows: int, start: int, end: int, groups: int) -> None:
        self._cache, self._rows = cache, rows
        self._start, self._end = start, end
        self._mask: Tensor | None = None  # a single query attends to every position
        if end - start > 1:
            causal = torch.ones(end - start, end, dtype=torch.bool, device=cache.keys.device).tril(start)
            self._mask = causal.repeat(groups, 1)[None, None]

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self._cache.keys[layer, : self._rows], self._cache.values[layer, : self._rows]
        keys[:, :, self._start : self._end] = k
        values[:, :, self._start : self._end] = v
        return keys[:, :, : self._end], values[:, :, : self._end]

    def attend(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=self._mask)
