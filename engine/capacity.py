"""Memory per row, and how many rows fit into a device's memory. Pure arithmetic, no torch."""

from __future__ import annotations

from .config import CPU_SLOTS, MAX_SLOTS
from .model.config import CsmConfig, TransformerConfig

_RESERVED_SHARE = 0.1  # of total memory: voice encoding, fragmentation
_NOISE_BYTES = 40  # per token of each codebook, while a frame is sampled
_OTHER_WORK_BYTES = 6 << 20  # other work per row and frame: logits, and the codec's convolutions at 24 kHz
_CPU_WORK_BYTES = 256 << 20  # the process beside the model; encoding a recording of 30 s takes 220 MiB of this
CPU_MIN_WORK_BYTES = 128 << 20  # the same for a recording of a few seconds, which takes 80 MiB


def kv_cache_bytes(config: TransformerConfig, positions: int, element: int) -> int:
    """Bytes of one row's keys and values. element: bytes per number. One position is scratch."""
    return 2 * config.layers * config.kv_heads * (positions + 1) * config.head_dim * element


def row_bytes(config: CsmConfig, element: int, codec: int) -> int:
    """Bytes that one row takes in all. codec: bytes of its streaming state.

    Work memory counts twice: graphs keep their own, beside that of eager steps.
    """
    cache = kv_cache_bytes(config.backbone, config.positions, element)
    cache += kv_cache_bytes(config.depth, config.codebooks, element)
    work = _NOISE_BYTES * config.codebooks * config.audio_vocab + _OTHER_WORK_BYTES
    return cache + codec + 2 * work


def prefill_bytes(config: CsmConfig, element: int, positions: int) -> int:
    """Bytes of work memory of a prefill pass of `positions` positions.

    The embeddings of all codebooks, the activations of one layer, and its mask over the whole context.
    """
    backbone = config.backbone
    embeddings = config.codebooks * backbone.hidden
    layer = 3 * backbone.intermediate + 8 * backbone.hidden
    mask = 2 * backbone.heads // backbone.kv_heads * config.positions
    return positions * element * (embeddings + layer + mask)


def rows_that_fit(free: int, total: int, row: int, reserved: int, min_rows: int) -> int:
    """Rows of `row` bytes that fit into `free` beside `reserved` bytes (voice cache, prefill) and a tenth of `total`.

    A multiple of eight, which suits matrix products, where at least eight fit. At most MAX_SLOTS and at least
    `min_rows`, even if those do not fit: then their allocation fails.
    """
    fit = min(MAX_SLOTS, (free - reserved - int(total * _RESERVED_SHARE)) // row)
    return max(min_rows, fit - fit % 8 if fit >= 8 else fit)


def cpu_slots_that_fit(available: int, row: int, reserved: int, min_rows: int) -> int:
    """How many slots a CPU engine gets, at most CPU_SLOTS, beside `reserved` bytes and work memory.

    1 if only the `min_rows` rows that it always allocates fit, beside the minimum of work memory. 0 if they do not fit:
    the kernel would kill the process at its container's memory limit.
    """
    rows = (available - reserved - _CPU_WORK_BYTES) // row
    if rows >= min_rows:
        return min(CPU_SLOTS, rows)
    return 1 if available >= min_rows * row + CPU_MIN_WORK_BYTES else 0
