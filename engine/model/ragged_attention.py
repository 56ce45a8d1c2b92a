"""Whether a device has the attention that reads each row's live positions alone: asked once, at the start."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from .config import TransformerConfig
from .kv_cache import DecodeView, KvCache, RaggedAttention

log = logging.getLogger(__name__)

# How far a kernel may be off, as a share of the largest value: it rounds its weights and what it gives to the dtype.
_TOLERANCES = {torch.float32: 2**-14, torch.float16: 2**-9, torch.bfloat16: 2**-7}


def verified_ragged_attention(
    config: TransformerConfig, device: torch.device, dtype: torch.dtype
) -> RaggedAttention | None:
    """The kernel, if it says on this device what its plain twin says. Else None, and the log says why.

    None on a CPU too, which has no need of it. Raises torch.OutOfMemoryError.
    """
    if device.type != "cuda":
        return None
    try:
        from .ragged_attention_kernel import SPLIT, attend

        off = relative_error(attend, config, device, dtype, SPLIT)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no Triton, no compiler, an unknown GPU: the plain way says the same
        log.warning("attention to live positions does not work here, so every row reads the longest's: %r", error)
        return None
    if not off <= _TOLERANCES[dtype]:
        log.warning(
            "attention to live positions is off by %.2g of the largest value, and may be by %.2g, so every row reads "
            "the longest's",
            *(off, _TOLERANCES[dtype]),
        )
        return None
    return attend


def relative_error(
    attend: RaggedAttention, config: TransformerConfig, device: torch.device, dtype: torch.dtype, split: int
) -> float:
    """How far it is at most from the plain way in float64, as a share of the largest value; NaN if it gives any.

    Over rows that end on both sides of a split's edge, at the first position and at the last.
    """
    context = 3 * split - 7
    lasts = [0, 1, split - 2, split - 1, split, 2 * split + 5, context - 1]
    positions = torch.tensor(lasts, device=device)
    generator = torch.Generator(device).manual_seed(0)
    cache = KvCache(replace(config, layers=1), len(lasts), context, device, dtype)
    for filled in (cache.keys, cache.values):
        filled.normal_(generator=generator)
    shape = (len(lasts), config.kv_heads, config.heads // config.kv_heads, config.head_dim)
    q = 2 * torch.randn(shape, generator=generator, device=device).to(dtype)
    keys, values = cache.keys[0, :, :, :context], cache.values[0, :, :, :context]
    expected = DecodeView(cache, positions, context).attend(q.double(), keys.double(), values.double())
    given = DecodeView(cache, positions, context, attend).attend(q, keys, values)
    return float((given - expected).abs().max() / values.abs().max())
