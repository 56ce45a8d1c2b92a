"""What the fused kernels share: the residual stream, sums in a fixed order, and programmatic dependent launch.

A residual stream is three tensors, so that a norm costs no kernel of its own. `weighted` and `squares` are left by
whoever writes `x`; the product behind the norm multiplies `weighted` and scales its result by 1 / rms from `squares`:

    x         (tokens, size)       what the layers add to
    weighted  (tokens, size)       x times the weight of the norm that reads it next
    squares   (tokens, size / 16)  float32: sums of x^2 over 16 neighbours each

With programmatic dependent launch (PDL) a kernel lets the next one start at once, asks for its weights, and only then
waits until the kernel in front has ended. Every program of every kernel waits, so whatever went before has ended too.
Before the wait nothing is read that the chain writes, and nothing is written.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

SQUARED = 16  # neighbours of one sum in `squares`
_SECTOR = tl.constexpr(32)  # bytes


@triton.jit
def let_next_start(PDL: tl.constexpr) -> None:
    if PDL:
        gdc_launch_dependents()


@triton.jit
def wait_for_previous(PDL: tl.constexpr) -> None:
    if PDL:
        gdc_wait()


@triton.jit
def prefetch(first: tl.tensor, row_bytes: tl.constexpr, ROWS: tl.constexpr, BYTES: tl.constexpr) -> None:
    """Ask the L2 cache for the first BYTES (a power of two) of ROWS rows."""
    row, sector = tl.arange(0, ROWS)[:, None], tl.arange(0, BYTES // _SECTOR)[None, :]
    address = first.to(tl.int64) + row * row_bytes + sector * _SECTOR
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [address], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def sum_neighbours(x: tl.tensor, SIZE: tl.constexpr, HALVINGS: tl.constexpr) -> tl.tensor:
    """(rows, SIZE) -> (rows, SIZE / 2**HALVINGS): sums of neighbours, pair by pair.

    tl.sum adds in an order that follows from how a tile is spread over threads, which may differ between tile sizes.
    """
    for halving in tl.static_range(HALVINGS):
        left, right = tl.split(tl.reshape(x, [x.shape[0], SIZE >> (halving + 1), 2]))
        x = left + right
    return x


@triton.jit
def inverse_rms(
    squares: tl.tensor, token: tl.tensor, there: tl.tensor, SIZE: tl.constexpr, SUMS: tl.constexpr,
    HALVINGS: tl.constexpr, EPS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """(BLOCK_M,). SUMS: size / 16, rounded up to 2**HALVINGS."""
    part = tl.arange(0, SUMS)[None, :]
    mask = there[:, None] & (part < SIZE // 16)
    parts = tl.load(squares + token[:, None] * (SIZE // 16) + part, mask=mask, other=0.0)
    total = tl.reshape(sum_neighbours(parts, SUMS, HALVINGS), [token.shape[0]])
    return tl.rsqrt(total / SIZE + EPS)


@triton.jit
def store_residual(
    new: tl.tensor, x: tl.tensor, weighted: tl.tensor, squares: tl.tensor, gain: tl.tensor, token: tl.tensor,
    there: tl.tensor, first: tl.tensor, SIZE: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    """Write columns `first` to `first` + COLUMNS of the residual stream. new: (COLUMNS, BLOCK_M), in x's dtype."""
    column = first + tl.arange(0, COLUMNS)
    at = token[None, :] * SIZE + column[:, None]
    wide = new.to(tl.float32)
    tl.store(x + at, new, mask=there[None, :])
    tl.store(weighted + at, (wide * gain[:, None]).to(new.dtype), mask=there[None, :])
    sums = sum_neighbours(tl.trans(wide * wide), COLUMNS, 4)
    part = first // 16 + tl.arange(0, COLUMNS // 16)
    tl.store(squares + token[:, None] * (SIZE // 16) + part[None, :], sums, mask=there[:, None])
