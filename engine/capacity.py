"""How many rows a device has room for. Pure arithmetic, no torch."""

from __future__ import annotations

from .config import CPU_SLOTS, MAX_SLOTS
from .model.config import CsmConfig, TransformerConfig

_SHARE_LEFT_FREE = 0.1  # of all memory: recordings that are encoded, fragmentation
_NOISE_BYTES = 40  # for each token of each codebook, while a frame is drawn
_OTHER_WORK = 6 << 20  # what else a row needs in a frame: logits, and the codec's convolutions at 24 kHz
_CPU_WORK = 256 << 20  # the process beside the model; encoding a recording of 30 s takes 220 MiB of them
CPU_LEAST_WORK = 128 << 20  # ... of a few seconds, 80 MiB


def bytes_of_cache(config: TransformerConfig, positions: int, element: int) -> int:
    """Keys and values of one row, `element` bytes each number; one position is scratch."""
    return 2 * config.layers * config.kv_heads * (positions + 1) * config.head_dim * element


def bytes_of_row(config: CsmConfig, element: int, codec: int) -> int:
    """All that a row takes. codec: bytes of its streaming state.

    Work counts twice: graphs keep memory of their own, beside that of steps which are not recorded.
    """
    cache = bytes_of_cache(config.backbone, config.positions, element)
    cache += bytes_of_cache(config.depth, config.codebooks, element)
    work = _NOISE_BYTES * config.codebooks * config.audio_vocab + _OTHER_WORK
    return cache + codec + 2 * work


def bytes_of_prefill(config: CsmConfig, element: int, positions: int) -> int:
    """What a pass of so many positions takes beside the weights: of frames, every codebook's embedding at once; then
    what a layer has in work, and its mask over the whole context."""
    backbone = config.backbone
    embeddings = config.codebooks * backbone.hidden
    layer = 3 * backbone.intermediate + 8 * backbone.hidden
    mask = 2 * backbone.heads // backbone.kv_heads * config.positions
    return positions * element * (embeddings + layer + mask)


def rows_that_fit(free: int, total: int, row: int, kept: int, fewest: int) -> int:
    """How many rows of `row` bytes fit into `free`, when `kept` bytes (voice cache, prefill) and a share of all stay.

    By eights, as matrix products have them, where there are so many. Not over MAX_SLOTS and not under `fewest`, which
    may be too many: then allocating them says so.
    """
    fit = min(MAX_SLOTS, (free - kept - int(total * _SHARE_LEFT_FREE)) // row)
    return max(fewest, fit - fit % 8 if fit >= 8 else fit)


def cpu_slots_that_fit(available: int, row: int, kept: int, fewest: int) -> int:
    """How many slots a CPU engine gets, of CPU_SLOTS at the most, when `kept` bytes and room for work stay.

    1 where the `fewest` rows, which it allocates anyway, fit beside the least work alone. 0 where they do not fit: the
    kernel would end the process at the limit of its container.
    """
    rows = (available - kept - _CPU_WORK) // row
    if rows >= fewest:
        return min(CPU_SLOTS, rows)
    return 1 if available >= fewest * row + CPU_LEAST_WORK else 0
