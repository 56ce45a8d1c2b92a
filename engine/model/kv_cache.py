"""Static KV cache and its views for decoding, prefill and the depth decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import TransformerConfig
from .prompt_tokens import POSITION, ROW, Segment


class KvCache:
    """Keys and values of one transformer at fixed addresses, each (layers, rows, kv_heads, positions + 1, head_dim).

    The last position is scratch space: rows that a step does not advance write there, so their context is unchanged.
    """

    def __init__(
        self, config: TransformerConfig, rows: int, positions: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (config.layers, rows, config.kv_heads, positions + 1, config.head_dim)
        self._both = torch.zeros(2, *shape, device=device, dtype=dtype)
        self.keys, self.values = self._both[0], self._both[1]
        self.scratch = positions

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def copy_out(self, row: int, length: int) -> Tensor:
        """Copy a row's first `length` positions: (2, layers, kv_heads, length, head_dim)."""
        return self._both[:, :, row, :, :length].clone(memory_format=torch.contiguous_format)

    def restore(self, saved: Sequence[tuple[int, Tensor]], together: KvRestore | None = None) -> None:
        """Write results of `copy_out` to the starts of any different rows. together: None copies one by one."""
        if together is not None:
            together(self._both, saved)
        else:
            for row, tensor in saved:
                self._both[:, :, row, :, : tensor.shape[3]] = tensor


class KvRestore(Protocol):
    """Copies saved keys and values to the starts of several rows in one launch."""

    def __call__(self, both: Tensor, saved: Sequence[tuple[int, Tensor]]) -> None:
        """both: (2, layers, rows, kv_heads, positions, head_dim); saved: for each row (2, layers, kv_heads, length,
        head_dim), contiguous. The rows are different ones.
        """
        ...


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


class PromptAttention(Protocol):
    """Attention of packed prompt tokens, each over the positions that its row has filled up to its own.

    align: tokens of a block, which all belong to one row: segments begin at multiples of it.
    """

    align: int

    def __call__(self, q: Tensor, keys: Tensor, values: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        """q: (tokens, kv_heads, groups, head_dim); keys, values: (rows, kv_heads, positions, head_dim); rows,
        positions: int64 (tokens,) -> (tokens, kv_heads, groups, head_dim).

        A token whose position is outside of `keys` is padding: it reads nothing and its result is zeros. Any other
        token's result is bit-identical whatever else is packed.
        """
        ...


class PackedView:
    """Cache view of a prefill pass: every token writes its own row and position; `attend` reads what each row filled.

    tokens: int64 (tokens, columns), see model.prompt_tokens. Reads no tensor values on the host, and shapes follow
    from the number of tokens, so a pass can be captured in a CUDA graph.
    """

    def __init__(self, cache: KvCache, tokens: Tensor, attention: PromptAttention) -> None:
        self._cache, self._attention = cache, attention
        self._rows, self._positions = tokens[:, ROW].contiguous(), tokens[:, POSITION].contiguous()

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v: (1, kv_heads, tokens, head_dim) -> the layer's keys and values of all rows, without scratch."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        keys[self._rows, :, self._positions] = k[0].transpose(0, 1)
        values[self._rows, :, self._positions] = v[0].transpose(0, 1)
        return keys[:, :, : self._cache.scratch], values[:, :, : self._cache.scratch]

    def attend(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        _, kv_heads, _, head_dim = q.shape
        by_token = q.view(kv_heads, -1, len(self._rows), head_dim).permute(2, 0, 1, 3)
        y = self._attention(by_token, keys, values, self._rows, self._positions)
        return y.permute(1, 2, 0, 3).reshape(q.shape)


class SegmentView:
    """The plain twin of PackedView: one row's segment after the other, each in blocks of queries.

    Blocks end at multiples of `block` positions. Prompts are cut nowhere else, so a token's result is bit-identical
    whatever else is packed and however its prompt is cut.
    """

    def __init__(self, cache: KvCache, segments: Sequence[Segment], groups: int, block: int) -> None:
        self._cache, self._segments, self._groups = cache, segments, groups
        self._blocks: list[tuple[int, slice, int, Tensor]] = []  # row, tokens, end of the context, causal mask
        for each in segments:
            start, shift = each.start, each.first - each.start
            while start < each.start + each.length:
                end = min(start // block * block + block, each.start + each.length)
                device = cache.keys.device
                causal = torch.arange(end, device=device) <= torch.arange(start, end, device=device)[:, None]
                mask = causal.repeat(groups, 1)[None, None]  # (1, 1, groups * length, end), group-major
                self._blocks.append((each.row, slice(start + shift, end + shift), end, mask))
                start = end

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v: (1, kv_heads, tokens, head_dim) -> the layer's keys and values of all rows."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        for each in self._segments:
            tokens, positions = (slice(at, at + each.length) for at in (each.first, each.start))
            keys[each.row, :, positions] = k[0, :, tokens]
            values[each.row, :, positions] = v[0, :, tokens]
        return keys, values

    def attend(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        _, kv_heads, queries, head_dim = q.shape
        by_group = q.view(kv_heads, self._groups, queries // self._groups, head_dim)
        y = torch.zeros_like(by_group)
        for row, tokens, end, mask in self._blocks:
            part = by_group[:, :, tokens].reshape(1, kv_heads, -1, head_dim)
            attended = F.scaled_dot_product_attention(
                part, keys[row : row + 1, :, :end], values[row : row + 1, :, :end], mask
            )
            y[:, :, tokens] = attended.view(kv_heads, self._groups, -1, head_dim)
        return y.view(q.shape)


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
