"""The codec's kernels against PyTorch's operators, on a CUDA device or in Triton's interpreter on a CPU.

tests/engine/test_codec_kernels.py runs this file in the interpreter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.codec.ring import FrameAttention, KvRing, MaskedAttention, RingShape, frame_rotation, rotation_speeds
from engine.codec.windows import Windows, WindowShape, unfolded_windows

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CUDA = torch.cuda.is_available() and not INTERPRETED
DEVICE = torch.device("cuda" if CUDA else "cpu")

pytest.importorskip("triton")
from engine.codec.kernels import RingKernel, windows  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (CUDA or INTERPRETED), reason="no CUDA device here"),
]

RING = RingShape(layers=2, heads=3, head_dim=8, context=20, step=2, period=100.0)
# positions behind each row: none, a few, on both sides of a full ring and of its next rounds
BEHIND = (0, 1, 2, 17, 19, 22, 23, 24, 25, 47, 48, 1000)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def filled_ring(shape: RingShape, behind: tuple[int, ...]) -> KvRing:
    ring = KvRing(shape, len(behind), DEVICE)
    ring.slots.copy_(torch.randn(ring.slots.shape, generator=torch.Generator().manual_seed(1)))
    ring.position.copy_(torch.tensor(behind))
    return ring


def attend(kind: Any, ring: KvRing, rows: int) -> tuple[Tensor, Tensor]:
    """Attention of the second layer, and all slots afterwards."""
    shape = ring.shape
    generator = torch.Generator().manual_seed(2)
    size = (len(ring.position), shape.step, 3, shape.heads, shape.head_dim)
    qkv = (2 * torch.randn(size, generator=generator))[:rows].to(DEVICE)
    frame: FrameAttention = kind(ring, frame_rotation(ring, rotation_speeds(shape, DEVICE), rows))
    return frame(1, qkv), ring.slots


@pytest.mark.parametrize(
    "shape",
    [
        RING,
        replace(RING, step=1, head_dim=24),
        replace(RING, step=4, heads=1),
        replace(RING, context=150, head_dim=16),  # read in several rounds
    ],
)
def test_attention_equals_masked_attention(shape: RingShape) -> None:
    behind = (*BEHIND, shape.capacity - 1, shape.capacity, 2 * shape.capacity + 3)
    actual, expected = (attend(kind, filled_ring(shape, behind), len(behind)) for kind in (RingKernel, MaskedAttention))
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_attention_of_a_row_does_not_depend_on_the_others() -> None:
    whole, _ = attend(RingKernel, filled_ring(RING, BEHIND), len(BEHIND))
    few, slots = attend(RingKernel, filled_ring(RING, BEHIND), 5)
    assert torch.equal(few, whole[: len(few)])
    assert torch.equal(slots[:, 5:], filled_ring(RING, BEHIND).slots[:, 5:])


def run_windows(kind: Windows, shape: WindowShape, step: int, with_update: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x, update = torch.randn(2, 3, step, shape.channels, generator=generator).to(DEVICE)
    state = torch.randn(4, shape.past * shape.channels + 5, generator=generator).to(DEVICE)
    fresh = torch.zeros(3, state.shape[1] - 1, device=DEVICE)
    past, kept = state[:3, 2:-3], fresh[:, 1:-3]  # slices, as among other convolutions
    return kind(x, update if with_update else None, past, kept, shape), fresh


@pytest.mark.parametrize("with_update", [False, True])
@pytest.mark.parametrize(
    ("shape", "step"),
    [
        (WindowShape(taps=7, dilation=1, channels=5, elu=False), 2),  # the past reaches back several frames
        (WindowShape(taps=2, dilation=1, channels=16, elu=True), 1),
        (WindowShape(taps=3, dilation=4, channels=6, elu=True), 3),
        (WindowShape(taps=3, dilation=2, channels=33, elu=True), 40),  # several programs
    ],
)
def test_windows_equal_unfolded_ones(shape: WindowShape, step: int, with_update: bool) -> None:
    actual, expected = (run_windows(kind, shape, step, with_update) for kind in (windows, unfolded_windows))
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_the_whole_decoder_agrees() -> None:
    from engine.codec.fused import TOLERANCE, kernel_operators, operators_error
    from tests.engine.codec_decoder import tiny_decoder

    assert operators_error(tiny_decoder(DEVICE, codec_num_filters=2), kernel_operators()) <= TOLERANCE / 10
