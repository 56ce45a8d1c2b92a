"""Memory arithmetic: the rows that are said to fit do fit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from engine.capacity import cpu_slots_that_fit, kv_cache_bytes, prefill_bytes, row_bytes, rows_that_fit
from engine.config import CPU_SLOTS, MAX_SLOTS
from engine.model.config import CsmConfig, TransformerConfig
from engine.model.kv_cache import KvCache
from engine.prefill_pipeline import MAX_PASS_TOKENS

GIB = 1 << 30
BACKBONE = TransformerConfig(2048, 8192, 16, 32, 8, 64, 1e-5, 500_000.0, None)
DEPTH = TransformerConfig(1024, 8192, 4, 8, 2, 128, 1e-5, 500_000.0, None)
CSM = CsmConfig(BACKBONE, DEPTH, 32, 2051, 128_256, 2048, 0, True, None)


@pytest.mark.parametrize("shape", [BACKBONE, DEPTH])
def test_kv_cache_bytes_is_the_allocated_size(shape: TransformerConfig) -> None:
    cache = KvCache(shape, 3, 20, torch.device("meta"), torch.bfloat16)
    assert cache.nbytes == 3 * kv_cache_bytes(shape, 20, 2)


def test_rows_fit_beside_the_reserved_memory() -> None:
    row = row_bytes(CSM, 2, 9 << 20)
    assert row > kv_cache_bytes(BACKBONE, 2048, 2) + (9 << 20)
    for total in (8, 16, 24, 48, 80):
        free = total * GIB - 4 * GIB
        rows = rows_that_fit(free, total * GIB, row, GIB, 2)
        assert rows * row + GIB + total * GIB // 10 <= free or rows == 2
        assert (rows + 8) * row + GIB + total * GIB // 10 > free or rows == MAX_SLOTS
        assert rows % 8 == 0


def test_prefill_bytes_cover_the_largest_tensors() -> None:
    embeddings = torch.empty(
        MAX_PASS_TOKENS["cuda"], CSM.codebooks, BACKBONE.hidden, dtype=torch.bfloat16, device="meta"
    )
    gate_up = torch.empty(MAX_PASS_TOKENS["cuda"], 2 * BACKBONE.intermediate, dtype=torch.bfloat16, device="meta")
    mask = torch.empty(4 * MAX_PASS_TOKENS["cuda"], CSM.positions, dtype=torch.bfloat16, device="meta")
    assert prefill_bytes(CSM, 2, MAX_PASS_TOKENS["cuda"]) > embeddings.nbytes + gate_up.nbytes + mask.nbytes


def test_minimum_maximum_and_multiples_of_eight() -> None:
    assert rows_that_fit(1000 * GIB, 1000 * GIB, 1 << 20, GIB, 2) == MAX_SLOTS
    assert rows_that_fit(GIB // 2, 8 * GIB, 1 << 20, GIB, 2) == 2
    assert [rows_that_fit(rows, 0, 1, 0, 2) for rows in (1, 7, 8, 15, 16)] == [2, 7, 8, 8, 16]


def test_the_table_in_the_docs_is_computed() -> None:
    """docs/sizing.md: the slots of CSM-1B on a GPU of each size, beside 4.3 GB of weights and CUDA context."""
    row = row_bytes(CSM, 2, round(7.9 * (1 << 20)))
    prompts = prefill_bytes(CSM, 2, MAX_PASS_TOKENS["cuda"])
    table = (Path(__file__).parents[2] / "docs" / "sizing.md").read_text(encoding="utf-8")
    for size, slots in re.findall(r"^\| (\d+) GB[^|]*\| `auto` \((?:about )?(\d+)\)", table, re.MULTILINE):
        total = int(size) * GIB if int(size) <= 80 else int(size) * 10**9
        assert rows_that_fit(total - 43 * 10**8, total, row, GIB + prompts, 2) == int(slots), size
    assert f"{row >> 20} MiB each" in table


@pytest.mark.parametrize(
    ("available", "slots"),
    [(1000, CPU_SLOTS), (386, CPU_SLOTS), (385, 3), (346, 2), (345, 1), (168, 1), (167, 0), (0, 0)],
)
def test_slots_on_a_cpu_leave_work_memory_free_then_one_then_none(available: int, slots: int) -> None:
    # rows of 20 MiB; 50 MiB for voice cache and prefill; 256 MiB for work, or 128 at least
    assert cpu_slots_that_fit(available << 20, 20 << 20, 50 << 20, min_rows=2) == slots
