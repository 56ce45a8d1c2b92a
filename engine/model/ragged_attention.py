"""Selects the ragged attention kernel: uses it only if its error against masked attention is within tolerance."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from .config import TransformerConfig
from .kv_cache import DecodeView, KvCache, RaggedAttention

log = logging.getLogger(__name__)

# Largest accepted error relative to the largest value: the kernel rounds its softmax weights and output to the dtype.
_TOLERANCES = {torch.float32: 2**-14, torch.float16: 2**-9, torch.bfloat16: 2**-7}


def verified_ragged_attention(
    config: TransformerConfig, device: torch.device, dtype: torch.dtype
) -> RaggedAttention | None:
    """The kernel if it agrees with masked attention on this device, otherwise None with a logged reason.

    Always None on a CPU, which does not need it. Raises torch.OutOfMemoryError.
    """
    if device.type != "cuda":
        return None
    try:
        from .ragged_attention_kernel import SPLIT, attend

        error = relative_error(attend, config, device, dtype, SPLIT)
    except torch.OutOfMemoryError:
        raise
    except Exception as reason:  # no Triton, no compiler, an unknown GPU: masked attention gives the same result
        log.warning("ragged attention is not available, using masked attention over the longest context: %r", reason)
        return None
    if not error <= _TOLERANCES[dtype]:
        log.warning(
            "ragged attention has a relative error of %.2g, above the tolerance of %.2g, using masked attention over "
            "the longest context",
            *(error, _TOLERANCES[dtype]),
        )
        return None
    return attend


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
