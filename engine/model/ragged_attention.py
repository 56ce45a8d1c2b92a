"""Selects the kernels on filled positions: attention of frames and of prompts, and restored voices.

A kernel is used only if its error against its plain twin is within tolerance on this device.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from .config import TransformerConfig
from .kv_cache import DecodeView, KvCache, KvRestore, PackedView, PromptAttention, RaggedAttention, SegmentView
from .prompt_tokens import POSITION, ROW, Segment

log = logging.getLogger(__name__)

# Largest accepted error relative to the largest value: the kernel rounds its softmax weights and output to the dtype.
_TOLERANCES = {torch.float32: 2**-14, torch.float16: 2**-9, torch.bfloat16: 2**-7}


def verified_ragged_attention(
    config: TransformerConfig, device: torch.device, dtype: torch.dtype
) -> RaggedAttention | None:
    """The kernel if it agrees with masked attention on this device, otherwise None with a logged reason.

    Always None on a CPU, which does not need it. Raises torch.OutOfMemoryError.
    """

    def measured() -> tuple[RaggedAttention, float]:
        from .ragged_attention_kernel import SPLIT, attend

        return attend, relative_error(attend, config, device, dtype, SPLIT)

    return _verified(measured, device, dtype, "ragged attention", "masked attention over the longest context")


def verified_prompt_attention(
    config: TransformerConfig, device: torch.device, dtype: torch.dtype
) -> PromptAttention | None:
    """The kernel of packed prompts, under the same conditions as `verified_ragged_attention`."""

    def measured() -> tuple[PromptAttention, float]:
        from .prompt_attention_kernel import SPLIT, PackedAttention

        return PackedAttention(), prompt_error(PackedAttention(), config, device, dtype, SPLIT)

    return _verified(measured, device, dtype, "attention of packed prompts", "masked attention, one prompt at a time")


def verified_kv_restore(config: TransformerConfig, device: torch.device, dtype: torch.dtype) -> KvRestore | None:
    """The kernel that restores voices, under the same conditions as `verified_ragged_attention`."""

    def measured() -> tuple[KvRestore, float]:
        from .kv_restore_kernel import restore

        return restore, 0.0 if restores_equally(restore, config, device, dtype) else math.inf

    return _verified(measured, device, dtype, "restoring voices together", "one copy for each voice")


Kernel = TypeVar("Kernel")


def _verified(
    measured: Callable[[], tuple[Kernel, float]], device: torch.device, dtype: torch.dtype, name: str, otherwise: str
) -> Kernel | None:
    """The kernel if its measured error is within tolerance, otherwise None with a logged reason."""
    if device.type != "cuda":
        return None
    try:
        kernel, error = measured()
    except torch.OutOfMemoryError:
        raise
    except Exception as reason:  # no Triton, no compiler, an unknown GPU: masked attention gives the same result
        log.warning("%s is not available, using %s: %r", name, otherwise, reason)
        return None
    if not error <= _TOLERANCES[dtype]:
        log.warning(
            "%s has a relative error of %.2g, above the tolerance of %.2g, using %s",
            *(name, error, _TOLERANCES[dtype], otherwise),
        )
        return None
    return kernel


def relative_error(
    attend: RaggedAttention, config: TransformerConfig, device: torch.device, dtype: torch.dtype, split: int
) -> float:
    """Largest error against masked attention in float64, relative to the largest value; NaN if any output is NaN.

    The tested rows end on both sides of a split boundary, at the first position and at the last.
    split: positions per program of the kernel.
    """
    context = 3 * split - 7
    lasts = [0, 1, split - 2, split - 1, split, 2 * split + 5, context - 1]
    positions = torch.tensor(lasts, device=device)
    generator = torch.Generator(device).manual_seed(0)
    cache = KvCache(replace(config, layers=1), len(lasts), context, device, dtype)
    for tensor in (cache.keys, cache.values):
        tensor.normal_(generator=generator)
    shape = (len(lasts), config.kv_heads, config.heads // config.kv_heads, config.head_dim)
    q = 2 * torch.randn(shape, generator=generator, device=device).to(dtype)
    keys, values = cache.keys[0, :, :, :context], cache.values[0, :, :, :context]
    expected = DecodeView(cache, positions, context).attend(q.double(), keys.double(), values.double())
    actual = DecodeView(cache, positions, context, attend).attend(q, keys, values)
    return float((actual - expected).abs().max() / values.abs().max())


def prompt_error(
    attention: PromptAttention, config: TransformerConfig, device: torch.device, dtype: torch.dtype, split: int
) -> float:
    """`relative_error` of attention of packed prompts, against their plain twin.

    The tested segments begin and end on both sides of a split boundary, in two rows out of order, with padding between.
    """
    spans = ((2, 0, split + 6), (0, split - 3, 7), (1, 2 * split - 1, 1), (2, split + 6, 5))  # row, start, length
    cache = KvCache(replace(config, layers=1), 3, 3 * split, device, dtype)
    generator = torch.Generator(device).manual_seed(0)
    for tensor in (cache.keys, cache.values):
        tensor.normal_(generator=generator)
    segments, first = [], 0
    for row, start, length in spans:
        segments.append(Segment(row, start, first, length))
        first += -(-length // attention.align) * attention.align
    groups = config.heads // config.kv_heads
    q = 2 * torch.randn(1, config.kv_heads, groups * first, config.head_dim, generator=generator, device=device)
    tokens = torch.full((first, POSITION + 1), cache.scratch, device=device)
    for each in segments:
        tokens[each.first : each.first - (-each.length // attention.align) * attention.align, ROW] = each.row
        positions = torch.arange(each.start, each.start + each.length, device=device)
        tokens[each.first : each.first + each.length, POSITION] = positions
    keys, values = cache.keys[0, :, :, : cache.scratch], cache.values[0, :, :, : cache.scratch]
    expected = SegmentView(cache, segments, groups, split).attend(q.to(dtype).double(), keys.double(), values.double())
    actual = PackedView(cache, tokens, attention).attend(q.to(dtype), keys, values)
    return float((actual - expected).abs().max() / values.abs().max())


def restores_equally(restore: KvRestore, config: TransformerConfig, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel leaves every bit of a cache as the plain twin does, for rows out of order."""
    generator = torch.Generator(device).manual_seed(0)
    lengths = {3: 40, 0: 1, 2: 151}
    saved = [
        (row, torch.randn(shape, generator=generator, device=device).to(dtype))
        for row, shape in ((row, (2, 2, config.kv_heads, each, config.head_dim)) for row, each in lengths.items())
    ]
    caches = [KvCache(replace(config, layers=2), 5, 160, device, dtype) for _ in range(2)]
    caches[0].restore(saved)
    caches[1].restore(saved, restore)
    plain, together = caches
    return torch.equal(plain.keys, together.keys) and torch.equal(plain.values, together.values)
