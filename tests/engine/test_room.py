"""Rows by memory: what is said to fit does."""

from __future__ import annotations

import pytest
import torch

from engine.model.config import CsmConfig, TransformerConfig
from engine.model.kv_cache import KvCache
from engine.room import MOST_ROWS, bytes_of_cache, bytes_of_prefill, bytes_of_row, rows_that_fit
from engine.runner import MOST_AT_ONCE

GIB = 1 << 30
BACKBONE = TransformerConfig(2048, 8192, 16, 32, 8, 64, 1e-5, 500_000.0, None)
DEPTH = TransformerConfig(1024, 8192, 4, 8, 2, 128, 1e-5, 500_000.0, None)
CSM = CsmConfig(BACKBONE, DEPTH, 32, 2051, 128_256, 2048, 0, True, None)


@pytest.mark.parametrize("shape", [BACKBONE, DEPTH])
def test_a_cache_is_as_large_as_said(shape: TransformerConfig) -> None:
    cache = KvCache(shape, 3, 20, torch.device("meta"), torch.bfloat16)
    assert cache.nbytes == 3 * bytes_of_cache(shape, 20, 2)


def test_rows_and_what_is_to_stay_free_fit() -> None:
    row = bytes_of_row(CSM, 2, 9 << 20)
    assert row > bytes_of_cache(BACKBONE, 2048, 2) + (9 << 20)
    for total in (8, 16, 24, 48, 80):
        free = total * GIB - 4 * GIB
        rows = rows_that_fit(free, total * GIB, row, GIB, 2)
        assert rows * row + GIB + total * GIB // 10 <= free or rows == 2
        assert (rows + 1) * row + GIB + total * GIB // 10 > free or rows == MOST_ROWS


def test_a_pass_of_prefill_has_room_for_its_largest_tensors() -> None:
    embeddings = torch.empty(MOST_AT_ONCE, CSM.codebooks, BACKBONE.hidden, dtype=torch.bfloat16, device="meta")
    gate_up = torch.empty(MOST_AT_ONCE, 2 * BACKBONE.intermediate, dtype=torch.bfloat16, device="meta")
    mask = torch.empty(4 * MOST_AT_ONCE, CSM.positions, dtype=torch.bfloat16, device="meta")
    assert bytes_of_prefill(CSM, 2, MOST_AT_ONCE) > embeddings.nbytes + gate_up.nbytes + mask.nbytes


def test_bounds() -> None:
    assert rows_that_fit(1000 * GIB, 1000 * GIB, 1 << 20, GIB, 2) == MOST_ROWS
    assert rows_that_fit(GIB // 2, 8 * GIB, 1 << 20, GIB, 2) == 2
