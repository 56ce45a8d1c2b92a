"""The attention kernel of packed prompts against its plain twin, on a CUDA device or in Triton's interpreter on a CPU.

tests/engine/test_prompt_attention.py runs this file in the interpreter.
"""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from engine.model.config import TransformerConfig
from engine.model.kv_cache import KvCache
from engine.model.ragged_attention import _TOLERANCES, prompt_error

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CUDA = torch.cuda.is_available() and not INTERPRETED
DEVICE = torch.device("cuda" if CUDA else "cpu")

pytest.importorskip("triton")
from engine.model.prompt_attention_kernel import BLOCK, SPLIT, PackedAttention  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (CUDA or INTERPRETED), reason="no CUDA device here"),
    pytest.mark.filterwarnings(
        "ignore:Conversion of an array with ndim:DeprecationWarning"
    ),  # raised by the interpreter
]


def shape_of(heads: int, kv_heads: int, head_dim: int) -> TransformerConfig:
    return TransformerConfig(64, 96, 1, heads, kv_heads, head_dim, 1e-5, 1e4, None)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "dtype"),
    [
        *((8, 2, 64, dtype) for dtype in _TOLERANCES),
        (8, 2, 8, torch.float32),
        (3, 3, 16, torch.float32),
        (4, 2, 24, torch.float32),
        (6, 1, 80, torch.bfloat16),
    ],
)
def test_the_error_is_within_the_tolerance(heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> None:
    shape = shape_of(heads, kv_heads, head_dim)
    assert prompt_error(PackedAttention(), shape, DEVICE, dtype, SPLIT) <= _TOLERANCES[dtype]


def filled(dtype: torch.dtype, rows: int = 3) -> KvCache:
    cache = KvCache(shape_of(4, 1, 16), rows, 3 * SPLIT, DEVICE, dtype)
    generator = torch.Generator().manual_seed(1)
    for tensor in (cache.keys, cache.values):
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return cache


def query(row: int, position: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * row + position)
    return torch.randn(1, 4, 16, generator=generator).to(DEVICE, dtype)


def attended(cache: KvCache, blocks: list[tuple[int, list[int]]]) -> dict[tuple[int, int], Tensor]:
    """Results by (row, position). blocks: row and positions, at most BLOCK; the rest of a block is padding."""
    dtype = cache.keys.dtype
    tokens = [(row, at) for row, found in blocks for at in (*found, *[cache.scratch] * (BLOCK - len(found)))]
    q = torch.stack([query(row, at, dtype) for row, at in tokens])
    rows, positions = (torch.tensor(column, device=DEVICE) for column in zip(*tokens, strict=True))
    y = PackedAttention()(
        q, cache.keys[0, :, :, : cache.scratch], cache.values[0, :, :, : cache.scratch], rows, positions
    )
    for token, result in zip(tokens, y, strict=True):
        assert token[1] < cache.scratch or not result.any()  # padding
    return dict(zip(tokens, y, strict=True))


@pytest.mark.parametrize("dtype", list(_TOLERANCES), ids=str)
def test_a_token_is_bit_identical_whatever_is_packed_with_it(dtype: torch.dtype) -> None:
    cache = filled(dtype)
    alone = attended(cache, [(1, [5]), (0, [SPLIT + 1]), (2, [0]), (2, [2 * SPLIT])])
    together = attended(
        cache, [(2, [2 * SPLIT, 9]), (1, [4, 5, 6, 7]), (2, [0, 1, SPLIT, 2 * SPLIT + 1]), (0, [SPLIT + 1, 3])]
    )
    for token, result in alone.items():
        if token[1] < cache.scratch:
            assert torch.equal(result, together[token])


def test_positions_beyond_a_token_are_not_used() -> None:
    cache = filled(torch.float32)
    blocks = [(1, [4, 5]), (0, [SPLIT - 1])]
    expected = attended(cache, blocks)
    cache.keys[:, 1, :, 6:] = torch.nan
    cache.values[:, 0, :, SPLIT:] = torch.nan
    cache.keys[:, 2] = torch.nan
    actual = attended(cache, blocks)
    for token, result in expected.items():
        assert torch.equal(actual[token], result)
