"""Keys and values of every row at fixed addresses."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import TransformerConfig


class KvCache:
    """One transformer's keys and values, each (layers, rows, kv_heads, positions + 1, head_dim).

    The last position is scratch: a row that is held in a step writes there, so the step changes nothing
    that it will ever read.
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
        """A row's first positions, (2, layers, kv_heads, length, head_dim)."""
        return torch.stack((self.keys[:, row, :, :length], self.values[:, row, :, :length]))

    def copy_in(self, row: int, saved: Tensor) -> None:
        """Put back what `copy_out` gave, into any row."""
        length = saved.shape[3]
        self.keys[:, row, :, :length] = saved[0]
        self.values[:, row, :, :length] = saved[1]


class RaggedAttention(Protocol):
    """Attention of one query a row that reads no position which the row has not filled."""

    def __call__(self, q: Tensor, keys: Tensor, values: Tensor, positions: Tensor) -> Tensor:
        """q: (rows, kv_heads, groups, head_dim); keys, values: (rows, kv_heads, context, head_dim); positions: int64
        (rows,), the last that each row reads -> (rows, kv_heads, groups, head_dim).

        A row whose position is not within the context is held: it reads nothing, and gets zeros. All others get bit
        for bit the same in any context that holds them, and whatever the other rows are.
        """
        ...


class DecodeView:
    """The first `rows` rows for one frame step: each writes one position and sees what it has filled.

    The plain way reads the whole context of every row, and masks what is not the row's own. live: does without.
    """

    def __init__(self, cache: KvCache, positions: Tensor, context: int, live: RaggedAttention | None = None) -> None:
        rows = positions.shape[0]
        _, _, kv_heads, _, head_dim = cache.keys.shape
        self._cache = cache
        self._rows, self._context = rows, context
        self._write_at = positions.view(rows, 1, 1, 1).expand(rows, kv_heads, 1, head_dim)
        self._positions, self._live = positions, live
        if live is None:
            self._mask = (torch.arange(context, device=positions.device) <= positions[:, None])[:, None, None]

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v: (rows, kv_heads, 1, head_dim) -> (rows, kv_heads, context, head_dim)."""
        keys, values = self._cache.keys[layer, : self._rows], self._cache.values[layer, : self._rows]
        keys.scatter_(2, self._write_at, k)
        values.scatter_(2, self._write_at, v)
        return keys[:, :, : self._context], values[:, :, : self._context]

    def attend(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if self._live is not None:
            return self._live(q, keys, values, self._positions)
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=self._mask)


class PrefillView:
    """One row that takes several positions at once: a prefill."""

    def __init__(self, cache: KvCache, row: int, start: int, length: int, groups: int) -> None:
        self._cache, self._row = cache, row
        self._start, self._end = start, start + length
        device = cache.keys.device
        causal = torch.arange(self._end, device=device) <= torch.arange(start, self._end, device=device)[:, None]
        self._mask = causal.repeat(groups, 1)[None, None]  # (1, 1, groups * length, end): queries lie by group

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v: (1, kv_heads, length, head_dim) -> (1, kv_heads, end, head_dim)."""
        keys, values = self._cache.keys[layer, self._row], self._cache.values[layer, self._row]
        keys[:, self._start : self._end] = k[0]
        values[:, self._start : self._end] = v[0]
        return keys[None, :, : self._end], values[None, :, : self._end]

    def attend(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=self._mask)


class DepthView:
    """The depth decoder's: all rows at positions start to end - 1, begun anew with every frame."""

    def __init__(self, cache: KvCache, rows: int, start: int, end: int, groups: int) -> None:
        self._cache, self._rows = cache, rows
        self._start, self._end = start, end
        self._mask: Tensor | None = None  # one query sees all that is there
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
