"""The ragged attention kernel against masked attention, on a CUDA device or in Triton's interpreter on a CPU.

tests/engine/test_ragged_attention.py runs this file in the interpreter. On a GPU Triton compiles each size of group and
head, and each dtype, for seconds: there the tests share CSM-1B's, and few others are tested.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.cuda_streams import StreamPriority
from engine.model.config import TransformerConfig
from engine.model.graphs import CudaGraphCapturer
from engine.model.kv_cache import DecodeView, KvCache
from engine.model.ragged_attention import _TOLERANCES, relative_error

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CUDA = torch.cuda.is_available() and not INTERPRETED
DEVICE = torch.device("cuda" if CUDA else "cpu")

pytest.importorskip("triton")
from engine.model.ragged_attention_kernel import SPLIT, attend  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (CUDA or INTERPRETED), reason="no CUDA device here"),
]


def shape_of(heads: int, kv_heads: int, head_dim: int) -> TransformerConfig:
    return TransformerConfig(64, 96, 1, heads, kv_heads, head_dim, 1e-5, 1e4, None)


def filled(rows: int, context: int, dtype: torch.dtype = torch.float32, **shape: Any) -> tuple[Tensor, KvCache]:
    """Random queries, and a random cache with more positions than `context`."""
    config = shape_of(**({"heads": 8, "kv_heads": 2, "head_dim": 64} | shape))
    generator = torch.Generator().manual_seed(rows)
    cache = KvCache(config, rows, context + 9, DEVICE, dtype)
    for tensor in (cache.keys, cache.values):
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    q = torch.randn(rows, config.kv_heads, config.heads // config.kv_heads, config.head_dim, generator=generator)
    return q.to(DEVICE, dtype), cache


def attended(q: Tensor, cache: KvCache, positions: list[int], context: int, ragged: bool = True) -> Tensor:
    rows = len(positions)
    view = DecodeView(cache, torch.tensor(positions, device=DEVICE), context, attend if ragged else None)
    return view.attend(q[:rows], cache.keys[0, :rows, :, :context], cache.values[0, :rows, :, :context])


_INTERPRETED_SHAPES = [(3, 3, 16, torch.float32), (4, 2, 24, torch.float32), (32, 1, 128, torch.float16)]


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "dtype"),
    [
        *((8, 2, 64, dtype) for dtype in _TOLERANCES),
        (8, 2, 8, torch.float32),
        (6, 2, 80, torch.bfloat16),
        *(_INTERPRETED_SHAPES if INTERPRETED else ()),
    ],
)
def test_the_error_is_within_the_tolerance(heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> None:
    assert relative_error(attend, shape_of(heads, kv_heads, head_dim), DEVICE, dtype, SPLIT) <= _TOLERANCES[dtype]


def test_rows_of_every_length() -> None:
    """Every fourth length in the interpreter, which is slow."""
    context = SPLIT + 5
    q, cache = filled(context, context, kv_heads=1, heads=4)
    positions = list(range(0, context, 1 if CUDA else 4))
    actual, expected = (attended(q, cache, positions, context, ragged) for ragged in (True, False))
    assert torch.allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize("dtype", list(_TOLERANCES), ids=str)
def test_a_row_is_bit_identical_in_any_batch_and_bucket(dtype: torch.dtype) -> None:
    positions = [SPLIT - 40, 3, SPLIT + 50, 0, 2 * SPLIT - 1]
    q, cache = filled(5, 3 * SPLIT, dtype)
    together = attended(q, cache, positions, 2 * SPLIT)
    assert torch.equal(attended(q, cache, positions, 3 * SPLIT), together)
    assert torch.equal(attended(q, cache, positions[:2], SPLIT), together[:2])
    cache.keys[:, 1:] = 5.0
    assert torch.equal(attended(q, cache, [positions[0], 99, 2 * SPLIT - 2], 2 * SPLIT)[0], together[0])


def test_unfilled_positions_are_not_read() -> None:
    positions = [4, SPLIT, 70]
    q, cache = filled(3, 2 * SPLIT)
    expected = attended(q, cache, positions, 2 * SPLIT)
    for row, last in enumerate(positions):
        cache.keys[:, row, :, last + 1 :] = torch.nan
        cache.values[:, row, :, last + 1 :] = torch.nan
    assert torch.equal(attended(q, cache, positions, 2 * SPLIT), expected)


def test_an_inactive_row_reads_nothing_and_returns_zeros() -> None:
    q, cache = filled(3, SPLIT + 8)
    expected = attended(q, cache, [3, 5, 90], SPLIT + 8)
    cache.keys[:, 1] = torch.nan
    actual = attended(q, cache, [3, cache.scratch, 90], SPLIT + 8)
    assert torch.equal(actual[[0, 2]], expected[[0, 2]])
    assert not actual[1].any()


@pytest.mark.skipif(not CUDA, reason="needs CUDA graphs")
def test_one_graph_serves_rows_of_any_length() -> None:
    q, cache = filled(4, 4 * SPLIT, torch.bfloat16, heads=32, kv_heads=8)
    context = 4 * SPLIT
    positions = torch.zeros(4, dtype=torch.int64, device=DEVICE)
    view = DecodeView(cache, positions, context, attend)
    output: list[Tensor] = []

    def work() -> None:
        output[:] = [view.attend(q, cache.keys[0, :, :, :context], cache.values[0, :, :, :context])]

    replay = CudaGraphCapturer(DEVICE, StreamPriority.FRAMES).capture(work)
    reserved = torch.cuda.memory_reserved()
    for lengths in ([0, 1, 2, 3], [context - 1, 0, SPLIT, SPLIT - 1], [5, 5, cache.scratch, 5]):
        positions.copy_(torch.tensor(lengths))
        replay()
        torch.cuda.synchronize()
        assert torch.cuda.memory_reserved() == reserved
        assert torch.equal(output[0], attended(q, cache, lengths, context))
