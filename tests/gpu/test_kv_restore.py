"""The kernel that restores saved voices, on a CUDA device or in Triton's interpreter on a CPU.

tests/engine/test_kv_restore.py runs this file in the interpreter.
"""

from __future__ import annotations

import os

import pytest
import torch

from engine.model.config import TransformerConfig
from engine.model.kv_cache import KvCache
from engine.model.ragged_attention import restores_equally

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CUDA = torch.cuda.is_available() and not INTERPRETED
DEVICE = torch.device("cuda" if CUDA else "cpu")

pytest.importorskip("triton")
from engine.model.kv_restore_kernel import restore  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (CUDA or INTERPRETED), reason="no CUDA device here"),
    pytest.mark.filterwarnings(
        "ignore:Conversion of an array with ndim:DeprecationWarning"
    ),  # raised by the interpreter
]


@pytest.mark.parametrize(
    ("kv_heads", "head_dim", "dtype"),
    [(2, 64, torch.bfloat16), (1, 16, torch.float16), (2, 8, torch.float32), (3, 80, torch.bfloat16)],
)
def test_every_bit_is_where_the_plain_twin_puts_it(kv_heads: int, head_dim: int, dtype: torch.dtype) -> None:
    config = TransformerConfig(64, 96, 2, kv_heads, kv_heads, head_dim, 1e-5, 1e4, None)
    assert restores_equally(restore, config, DEVICE, dtype)


def test_a_copy_to_the_wrong_row_is_found() -> None:
    config = TransformerConfig(64, 96, 2, 2, 2, 8, 1e-5, 1e4, None)

    def wrong(both: torch.Tensor, saved: list[tuple[int, torch.Tensor]]) -> None:
        restore(both, [(row ^ 1, tensor) for row, tensor in saved])

    assert not restores_equally(wrong, config, DEVICE, torch.float32)


def test_other_rows_and_later_positions_stay() -> None:
    config = TransformerConfig(64, 96, 2, 2, 2, 8, 1e-5, 1e4, None)
    cache = KvCache(config, 3, 20, DEVICE, torch.float32)
    cache.keys.fill_(3.0)
    cache.restore([(1, torch.ones(2, 2, 2, 5, 8, device=DEVICE))], restore)
    assert cache.keys[:, 1, :, :5].eq(1).all()
    assert cache.keys[:, 1, :, 5:].eq(3).all()
    assert cache.keys[:, [0, 2]].eq(3).all()
