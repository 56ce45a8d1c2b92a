"""Matrix products with what surrounds them: norm, rotary and cache write, SwiGLU, residual addition.

Every product is weights times activations: the weights' rows lie on the tensor cores' first axis, a block of BLOCK_M
tokens on the second. The order in which an output's terms are added follows from the weight's shape alone (CHAINS,
SPLITS, the kind of instruction), so a token's result is bit-identical among any number of tokens and for any BLOCK_M.
Fused multiply-add is off for the same reason: the compiler may contract one tile size's epilogue and not another's.

Weights are read in their own type: int8 weights are converted in registers, and a scale per output is applied to the
sum. `scale` is None for others. Activations, (tokens, K), are read as OPERANDS.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .kernel_parts import inverse_rms, let_next_start, prefetch, store_residual, wait_for_previous

_HALF = tl.constexpr(8)  # of the columns of a program of `qkv_kernel`: they are rotated with those of the other half


@triton.jit
def _multiply(
    weight: tl.tensor, row: tl.tensor, activation: tl.tensor, token: tl.tensor, there: tl.tensor, K: tl.constexpr,
    CHUNK: tl.constexpr, STAGES: tl.constexpr, OPERANDS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """weight[row] @ activation[token].T, float32 (rows, tokens).

    In four chains: each is a sequence of instructions that wait for one another, and with few columns there is nothing
    else to do meanwhile.
    """
    QUARTER: tl.constexpr = K // 4
    k = tl.arange(0, CHUNK)[None, :]
    w = weight + row[:, None] * K + k
    a = activation + token[:, None] * K + k
    sum0 = tl.zeros([row.shape[0], token.shape[0]], tl.float32)
    sum1 = tl.zeros([row.shape[0], token.shape[0]], tl.float32)
    sum2 = tl.zeros([row.shape[0], token.shape[0]], tl.float32)
    sum3 = tl.zeros([row.shape[0], token.shape[0]], tl.float32)
    for start in tl.range(0, QUARTER, CHUNK, num_stages=STAGES):
        w0 = tl.load(w + start).to(OPERANDS)
        w1 = tl.load(w + start + QUARTER).to(OPERANDS)
        w2 = tl.load(w + start + 2 * QUARTER).to(OPERANDS)
        w3 = tl.load(w + start + 3 * QUARTER).to(OPERANDS)
        a0 = tl.load(a + start, mask=there[:, None], other=0.0).to(OPERANDS)
        a1 = tl.load(a + start + QUARTER, mask=there[:, None], other=0.0).to(OPERANDS)
        a2 = tl.load(a + start + 2 * QUARTER, mask=there[:, None], other=0.0).to(OPERANDS)
        a3 = tl.load(a + start + 3 * QUARTER, mask=there[:, None], other=0.0).to(OPERANDS)
        sum0 = tl.dot(w0, tl.trans(a0), sum0, input_precision="ieee")
        sum1 = tl.dot(w1, tl.trans(a1), sum1, input_precision="ieee")
        sum2 = tl.dot(w2, tl.trans(a2), sum2, input_precision="ieee")
        sum3 = tl.dot(w3, tl.trans(a3), sum3, input_precision="ieee")
    return (sum0 + sum1) + (sum2 + sum3)


@triton.jit
def _scaled(y: tl.tensor, scale: tl.tensor, row: tl.tensor) -> tl.tensor:
    """Apply the scale of int8 weights to sums (rows, tokens)."""
    if scale is not None:
        y = y * tl.load(scale + row).to(tl.float32)[:, None]
    return y


@triton.jit(do_not_specialize=["tokens", "rows", "start"])
def qkv_kernel(
    weighted: tl.tensor,
    squares: tl.tensor,
    weight: tl.tensor,  # ((heads + 2 * kv_heads) * head_dim, K)
    scale: tl.tensor,
    cos: tl.tensor,  # (positions, head_dim)
    sin: tl.tensor,  # the same; the first half is negated
    positions: tl.tensor,  # int64 (tokens,); None: `start` and what follows, `rows` tokens each
    cache_rows: tl.tensor,  # int64 (tokens,); None: the first `rows`, again and again
    q: tl.tensor,  # (tokens, heads, head_dim)
    keys: tl.tensor,  # (rows, kv_heads, POSITIONS, head_dim)
    values: tl.tensor,
    tokens: tl.tensor,
    rows: tl.tensor,
    start: tl.tensor,
    EPS: tl.constexpr,
    K: tl.constexpr,
    SUMS: tl.constexpr,
    HALVINGS: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    POSITIONS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    CHUNK: tl.constexpr,
    STAGES: tl.constexpr,
    OPERANDS: tl.constexpr,
    AHEAD: tl.constexpr,  # bytes of each row of weights that are asked for before the wait
    PDL: tl.constexpr,
) -> None:
    """Norm, product, rotary: queries go to q, keys and values into the cache."""
    PER_HEAD: tl.constexpr = HEAD_DIM // 2 // _HALF
    head, part = tl.program_id(0) // PER_HEAD, tl.program_id(0) % PER_HEAD
    both = tl.arange(0, 2 * _HALF)
    row = head * HEAD_DIM + part * _HALF + both % _HALF + (both // _HALF) * (HEAD_DIM // 2)
    dim = part * _HALF + tl.arange(0, _HALF)
    token = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    there = token < tokens
    let_next_start(PDL)
    if PDL:
        first = weight + (head * HEAD_DIM + part * _HALF) * K
        prefetch(first, K * weight.dtype.element_ty.primitive_bitwidth // 8, _HALF, AHEAD)
        prefetch(first + HEAD_DIM // 2 * K, K * weight.dtype.element_ty.primitive_bitwidth // 8, _HALF, AHEAD)
    wait_for_previous(PDL)
    if positions is None:
        position = start + token // rows
    else:
        position = tl.load(positions + token, mask=there, other=0).to(tl.int32)
    if cache_rows is None:  # noqa: SIM108 (the other branch must not be compiled)
        cache_row = (token % rows).to(tl.int64)
    else:
        cache_row = tl.load(cache_rows + token, mask=there, other=0)
    turned = head < HEADS + KV_HEADS
    angle = position[None, :] * HEAD_DIM + dim[:, None]
    c = tl.load(cos + angle, mask=there[None, :] & turned, other=1.0).to(tl.float32)
    s = tl.load(sin + angle + HEAD_DIM // 2, mask=there[None, :] & turned, other=0.0).to(tl.float32)
    factor = inverse_rms(squares, token, there, K, SUMS, HALVINGS, EPS)
    y = _scaled(_multiply(weight, row, weighted, token, there, K, CHUNK, STAGES, OPERANDS), scale, row)
    kind = q.dtype.element_ty
    y = (y * factor[None, :]).to(kind).to(tl.float32)
    left, right = tl.split(tl.permute(tl.reshape(y, [2, _HALF, BLOCK_M]), [1, 2, 0]))
    new_left = (left * c - right * s).to(kind)
    new_right = (right * c + left * s).to(kind)
    if head < HEADS:
        at = q + (token[None, :] * HEADS + head) * HEAD_DIM + dim[:, None]
        tl.store(at, new_left, mask=there[None, :])
        tl.store(at + HEAD_DIM // 2, new_right, mask=there[None, :])
    else:
        kv_head = (head - HEADS) % KV_HEADS
        place = ((cache_row * KV_HEADS + kv_head) * POSITIONS + position) * HEAD_DIM
        slot = place[None, :] + dim[:, None]
        if turned:
            tl.store(keys + slot, new_left, mask=there[None, :])
            tl.store(keys + slot + HEAD_DIM // 2, new_right, mask=there[None, :])
        else:
            tl.store(values + slot, new_left, mask=there[None, :])
            tl.store(values + slot + HEAD_DIM // 2, new_right, mask=there[None, :])


@triton.jit(do_not_specialize=["tokens"])
def add_kernel(
    activation: tl.tensor,  # (tokens, K)
    squares_in: tl.tensor,  # of the norm in front; None: none is
    weight: tl.tensor,  # (SIZE, K)
    scale: tl.tensor,
    gain: tl.tensor,  # (SIZE,): weight of the norm behind
    x: tl.tensor,
    weighted: tl.tensor,
    squares: tl.tensor,
    tokens: tl.tensor,
    EPS: tl.constexpr,  # of the norm in front
    K: tl.constexpr,
    SUMS: tl.constexpr,
    HALVINGS: tl.constexpr,
    SIZE: tl.constexpr,
    ADDED: tl.constexpr,  # to the residual stream; otherwise the product begins it
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,
    STAGES: tl.constexpr,
    OPERANDS: tl.constexpr,
    AHEAD: tl.constexpr,  # bytes of each row of weights that are asked for before the wait
    PDL: tl.constexpr,
) -> None:
    """Product into the residual stream: an attention's output, or the projection into the depth decoder."""
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    token = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    there = token < tokens
    let_next_start(PDL)
    gains = tl.load(gain + row).to(tl.float32)
    if PDL:
        first = weight + tl.program_id(0) * BLOCK_N * K
        prefetch(first, K * weight.dtype.element_ty.primitive_bitwidth // 8, BLOCK_N, AHEAD)
    wait_for_previous(PDL)
    kind = x.dtype.element_ty
    y = _scaled(_multiply(weight, row, activation, token, there, K, CHUNK, STAGES, OPERANDS), scale, row)
    if squares_in is not None:
        y = y * inverse_rms(squares_in, token, there, K, SUMS, HALVINGS, EPS)[None, :]
    new = y.to(kind)
    if ADDED:
        old = tl.load(x + token[None, :] * SIZE + row[:, None], mask=there[None, :], other=0.0)
        new = (old.to(tl.float32) + new.to(tl.float32)).to(kind)
    store_residual(new, x, weighted, squares, gains, token, there, tl.program_id(0) * BLOCK_N, SIZE, BLOCK_N)


@triton.jit(do_not_specialize=["tokens"])
def gate_up_kernel(
    weighted: tl.tensor,
    squares: tl.tensor,
    weight: tl.tensor,  # (2 * SIZE, K): gate, then up
    scale: tl.tensor,
    gated: tl.tensor,  # (tokens, SIZE)
    tokens: tl.tensor,
    EPS: tl.constexpr,
    K: tl.constexpr,
    SUMS: tl.constexpr,
    HALVINGS: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,
    STAGES: tl.constexpr,
    OPERANDS: tl.constexpr,
    AHEAD: tl.constexpr,  # bytes of each row of weights that are asked for before the wait
    PDL: tl.constexpr,
) -> None:
    """Norm, product, SwiGLU."""
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    token = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    there = token < tokens
    let_next_start(PDL)
    if PDL:
        first = weight + tl.program_id(0) * BLOCK_N * K
        prefetch(first, K * weight.dtype.element_ty.primitive_bitwidth // 8, BLOCK_N, AHEAD)
        prefetch(first + SIZE * K, K * weight.dtype.element_ty.primitive_bitwidth // 8, BLOCK_N, AHEAD)
    wait_for_previous(PDL)
    factor = inverse_rms(squares, token, there, K, SUMS, HALVINGS, EPS)[None, :]
    k = tl.arange(0, CHUNK)[None, :]
    gate_at = weight + row[:, None] * K + k
    up_at = gate_at + SIZE * K
    a = weighted + token[:, None] * K + k
    gate_sum = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    up_sum = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for start in tl.range(0, K, CHUNK, num_stages=STAGES):
        inputs = tl.trans(tl.load(a + start, mask=there[:, None], other=0.0).to(OPERANDS))
        gate_sum = tl.dot(tl.load(gate_at + start).to(OPERANDS), inputs, gate_sum, input_precision="ieee")
        up_sum = tl.dot(tl.load(up_at + start).to(OPERANDS), inputs, up_sum, input_precision="ieee")
    kind = gated.dtype.element_ty
    gate = (_scaled(gate_sum, scale, row) * factor).to(kind).to(tl.float32)
    up = (_scaled(up_sum, scale, row + SIZE) * factor).to(kind).to(tl.float32)
    gate = (gate / (1.0 + tl.exp(-gate))).to(kind).to(tl.float32)
    tl.store(gated + token[None, :] * SIZE + row[:, None], (gate * up).to(kind), mask=there[None, :])


@triton.jit(do_not_specialize=["tokens"])
def down_kernel(
    gated: tl.tensor,  # (tokens, K)
    weight: tl.tensor,  # (SIZE, K)
    scale: tl.tensor,
    gain: tl.tensor,  # (SIZE,): weight of the norm behind
    x: tl.tensor,
    weighted: tl.tensor,
    squares: tl.tensor,
    partial: tl.tensor,  # float32 (token blocks, tiles, SPLITS, BLOCK_N, BLOCK_M)
    counters: tl.tensor,  # int32 (token blocks, tiles), zeros: how many splits of a tile are there
    tokens: tl.tensor,
    K: tl.constexpr,
    SIZE: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,
    STAGES: tl.constexpr,
    OPERANDS: tl.constexpr,
    AHEAD: tl.constexpr,  # bytes of each row of weights that are asked for before the wait
    PDL: tl.constexpr,
) -> None:
    """Product and residual, split over K: the last program of a tile adds all splits up, in their order."""
    LENGTH: tl.constexpr = K // SPLITS
    tile, split = tl.program_id(0), tl.program_id(2)
    row = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    token = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    there = token < tokens
    let_next_start(PDL)
    gains = tl.load(gain + row).to(tl.float32)
    if PDL:
        first = weight + tile * BLOCK_N * K + split * LENGTH
        prefetch(first, K * weight.dtype.element_ty.primitive_bitwidth // 8, BLOCK_N, AHEAD)
    wait_for_previous(PDL)
    k = split * LENGTH + tl.arange(0, CHUNK)[None, :]
    w = weight + row[:, None] * K + k
    a = gated + token[:, None] * K + k
    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for start in tl.range(0, LENGTH, CHUNK, num_stages=STAGES):
        inputs = tl.trans(tl.load(a + start, mask=there[:, None], other=0.0).to(OPERANDS))
        total = tl.dot(tl.load(w + start).to(OPERANDS), inputs, total, input_precision="ieee")
    mine = tl.program_id(1) * tl.num_programs(0) + tile
    within = tl.arange(0, BLOCK_N)[:, None] * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    at = partial + mine.to(tl.int64) * (SPLITS * BLOCK_N * BLOCK_M) + within
    last = True
    if SPLITS > 1:
        tl.store(at + split * (BLOCK_N * BLOCK_M), total)
        tl.debug_barrier()  # all of this program's stores come before its count
        last = tl.atomic_add(counters + mine, 1, sem="acq_rel", scope="gpu") == SPLITS - 1
    if last:
        if SPLITS > 1:
            tl.store(counters + mine, 0)
            total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
            for part in tl.static_range(SPLITS):
                total += tl.load(at + part * (BLOCK_N * BLOCK_M), cache_modifier=".cg")
        kind = x.dtype.element_ty
        old = tl.load(x + token[None, :] * SIZE + row[:, None], mask=there[None, :], other=0.0)
        new = (old.to(tl.float32) + _scaled(total, scale, row).to(kind).to(tl.float32)).to(kind)
        store_residual(new, x, weighted, squares, gains, token, there, tile * BLOCK_N, SIZE, BLOCK_N)


@triton.jit(do_not_specialize=["tokens", "first"])
def head_kernel(
    weighted: tl.tensor,
    squares: tl.tensor,
    weight: tl.tensor,  # (SIZE, K)
    scale: tl.tensor,
    logits: tl.tensor,  # (tokens, SIZE)
    tokens: tl.tensor,
    first: tl.tensor,  # the first token that is read
    EPS: tl.constexpr,
    K: tl.constexpr,
    SUMS: tl.constexpr,
    HALVINGS: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,
    STAGES: tl.constexpr,
    OPERANDS: tl.constexpr,
    AHEAD: tl.constexpr,  # bytes of each row of weights that are asked for before the wait
    PDL: tl.constexpr,
) -> None:
    """Final norm and product."""
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.minimum(column, SIZE - 1)  # the vocabulary is no multiple of BLOCK_N
    token = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    there = token < tokens
    let_next_start(PDL)
    if PDL:
        at = weight + tl.program_id(0) * BLOCK_N * K
        prefetch(at, K * weight.dtype.element_ty.primitive_bitwidth // 8, BLOCK_N, AHEAD)
    wait_for_previous(PDL)
    factor = inverse_rms(squares, first + token, there, K, SUMS, HALVINGS, EPS)
    y = _scaled(_multiply(weight, row, weighted, first + token, there, K, CHUNK, STAGES, OPERANDS), scale, row)
    y = (y * factor[None, :]).to(logits.dtype.element_ty)
    tl.store(logits + token[None, :] * SIZE + column[:, None], y, mask=there[None, :] & (column < SIZE)[:, None])
