"""The kernels of a frame beside its matrix products: embeddings, depth attention, sampling, the end of a step.

One row a program in all of them, with the same block sizes for any number of rows. Fields of SamplingState and
StepState are views of 8-byte words in records of RECORD words (see row_record), so float32 fields have twice that
stride.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .kernel_parts import let_next_start, sum_neighbours, wait_for_previous

if triton.knobs.runtime.interpret:

    @triton.jit
    def _log(x: tl.tensor) -> tl.tensor:
        return tl.log(x)

else:
    from triton.language.extra import libdevice

    @triton.jit
    def _log(x: tl.tensor) -> tl.tensor:
        return libdevice.log(x)  # as PyTorch computes it: tl.log is approximate


_GOLDEN = tl.constexpr(0x9E3779B97F4A7C15 - (1 << 64))
_FOLD = tl.constexpr(0xD6E8FEB86659FD93 - (1 << 64))
_MIX_1 = tl.constexpr(0xBF58476D1CE4E5B9 - (1 << 64))
_MIX_2 = tl.constexpr(0x94D049BB133111EB - (1 << 64))
_SPREAD = tl.constexpr((0.5 - 2.0**-24) * 2.0**-31)
_LOWEST = tl.constexpr(-(1 << 31))


@triton.jit
def _enter(
    row: tl.tensor, x: tl.tensor, weighted: tl.tensor, squares: tl.tensor, norm: tl.tensor, token: tl.tensor,
    SIZE: tl.constexpr, BLOCK_H: tl.constexpr,
) -> None:  # fmt: skip
    """Begin a token's residual stream with a row (BLOCK_H,), zeros from SIZE on."""
    h = tl.arange(0, BLOCK_H)
    wide = row.to(tl.float32)
    gain = tl.load(norm + h, mask=h < SIZE, other=0.0).to(tl.float32)
    tl.store(x + token * SIZE + h, row, mask=h < SIZE)
    tl.store(weighted + token * SIZE + h, (wide * gain).to(row.dtype), mask=h < SIZE)
    sums = tl.reshape(sum_neighbours(tl.reshape(wide * wide, [1, BLOCK_H]), BLOCK_H, 4), [BLOCK_H // 16])
    part = tl.arange(0, BLOCK_H // 16)
    tl.store(squares + token * (SIZE // 16) + part, sums, mask=part < SIZE // 16)


@triton.jit
def embed_kernel(
    output: tl.tensor,  # int64 (rows, CODEBOOKS + 1), see StepState
    active: tl.tensor,  # uint8 (rows,)
    starting: tl.tensor,  # uint8, of the record
    position: tl.tensor,  # int64, of the record
    audio: tl.tensor,  # (CODEBOOKS * AUDIO_VOCAB, SIZE)
    text: tl.tensor,  # (SIZE,): embedding of the end of text
    norm: tl.tensor,
    x: tl.tensor,
    weighted: tl.tensor,
    squares: tl.tensor,
    positions: tl.tensor,  # int64 (rows,), written: `position` of active rows, SCRATCH of others
    SCRATCH: tl.constexpr,
    CODEBOOKS: tl.constexpr,
    AUDIO_VOCAB: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_H: tl.constexpr,
    RECORD: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """The backbone's input: the sum of a frame's embeddings, or the end of text."""
    row = tl.program_id(0).to(tl.int64)
    h = tl.arange(0, BLOCK_H)
    let_next_start(PDL)
    wait_for_previous(PDL)
    going = tl.load(active + row) != 0
    tl.store(positions + row, tl.where(going, tl.load(position + row * RECORD), SCRATCH))
    total = tl.zeros([BLOCK_H], tl.float32)
    for codebook in tl.static_range(CODEBOOKS):
        code = tl.load(output + row * (CODEBOOKS + 1) + codebook)
        total += tl.load(audio + (code + codebook * AUDIO_VOCAB) * SIZE + h, mask=h < SIZE, other=0.0).to(tl.float32)
    summed = total.to(x.dtype.element_ty)
    ended = tl.load(text + h, mask=h < SIZE, other=0.0)
    begins = tl.load(starting + row * (8 * RECORD)) != 0
    _enter(tl.where(begins, ended, summed), x, weighted, squares, norm, row, SIZE, BLOCK_H)


@triton.jit
def embed_prompt_kernel(
    tokens: tl.tensor,  # int64 (tokens, COLUMNS), see prompt_tokens
    audio: tl.tensor,  # (CODEBOOKS * AUDIO_VOCAB, SIZE)
    text: tl.tensor,  # (text vocabulary, SIZE)
    norm: tl.tensor,
    x: tl.tensor,
    weighted: tl.tensor,
    squares: tl.tensor,
    rows: tl.tensor,  # int64 (tokens,), written
    positions: tl.tensor,  # int64 (tokens,), written
    COLUMNS: tl.constexpr,
    ROW: tl.constexpr,
    POSITION: tl.constexpr,
    IS_AUDIO: tl.constexpr,
    CODES: tl.constexpr,
    CODEBOOKS: tl.constexpr,
    AUDIO_VOCAB: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_H: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """A prompt's token: the embedding of a text token, or the sum of a frame's."""
    token = tl.program_id(0).to(tl.int64)
    h = tl.arange(0, BLOCK_H)
    let_next_start(PDL)
    wait_for_previous(PDL)
    at = tokens + token * COLUMNS
    tl.store(rows + token, tl.load(at + ROW))
    tl.store(positions + token, tl.load(at + POSITION))
    embedded = tl.zeros([BLOCK_H], tl.float32)
    if tl.load(at + IS_AUDIO) > 0:
        for codebook in tl.static_range(CODEBOOKS):
            code = tl.load(at + CODES + codebook) + codebook * AUDIO_VOCAB
            embedded += tl.load(audio + code * SIZE + h, mask=h < SIZE, other=0.0).to(tl.float32)
    else:
        embedded = tl.load(text + tl.load(at + CODES) * SIZE + h, mask=h < SIZE, other=0.0).to(tl.float32)
    _enter(embedded.to(x.dtype.element_ty), x, weighted, squares, norm, token, SIZE, BLOCK_H)


@triton.jit(do_not_specialize=["rows", "start"])
def depth_attention_kernel(
    q: tl.tensor,  # (tokens, HEADS, HEAD_DIM)
    keys: tl.tensor,  # (rows, KV_HEADS, POSITIONS, HEAD_DIM)
    values: tl.tensor,
    y: tl.tensor,  # as q
    rows: tl.tensor,
    start: tl.tensor,  # position of the first `rows` tokens
    SCALE: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    POSITIONS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """One query of one head a program, over the few positions of a frame."""
    token, head = tl.program_id(0), tl.program_id(1)
    dim, p = tl.arange(0, HEAD_DIM), tl.arange(0, BLOCK_P)
    there = p <= start + token // rows
    place = ((token % rows) * KV_HEADS + head // (HEADS // KV_HEADS)) * POSITIONS
    at = (place + p)[:, None] * HEAD_DIM + dim[None, :]
    let_next_start(PDL)
    wait_for_previous(PDL)
    query = tl.load(q + (token * HEADS + head) * HEAD_DIM + dim).to(tl.float32)
    key = tl.load(keys + at, mask=there[:, None], other=0.0).to(tl.float32)
    value = tl.load(values + at, mask=there[:, None], other=0.0).to(tl.float32)
    scores = tl.where(there, tl.sum(query[None, :] * key, axis=1) * SCALE, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, axis=0))
    mixed = tl.sum(weights[:, None] * value, axis=0) / tl.sum(weights, axis=0)
    tl.store(y + (token * HEADS + head) * HEAD_DIM + dim, mixed.to(y.dtype.element_ty))


@triton.jit
def _mix(x: tl.tensor) -> tl.tensor:
    x = x + _GOLDEN
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _MIX_1
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


@triton.jit
def _gumbel_noise(seed: tl.tensor, frame: tl.tensor, token: tl.tensor) -> tl.tensor:
    """sampling.gumbel_noise of the tokens, numbered through all codebooks, operation by operation."""
    bits = _mix(_mix(seed) + frame) + token.to(tl.int64) * _GOLDEN
    for _ in tl.static_range(2):
        bits = (bits ^ ((bits >> 32) & 0xFFFFFFFF)) * _FOLD
    uniform = (bits >> 32).to(tl.int32).to(tl.float32) * _SPREAD + 0.5
    return -_log(-_log(uniform))


@triton.jit
def _refine(ordered: tl.tensor, edge: tl.tensor, k: tl.tensor, HIGH: tl.constexpr, LOW: tl.constexpr) -> tl.tensor:
    """Find bits HIGH to LOW of the k-th largest, two at a time, given those above: a count replaces a sort."""
    for step in tl.static_range(HIGH - 1, LOW - 1, -2):
        unit = edge * 0 + (1 << step)
        one = (ordered >= edge + unit).to(tl.int64)
        two = (ordered >= edge + 2 * unit).to(tl.int64)
        three = (ordered >= edge + 3 * unit).to(tl.int64)
        counts = tl.sum(one + (two << 20) + (three << 40), axis=0)
        first = ((counts & 0xFFFFF) >= k).to(tl.int64)
        second = (((counts >> 20) & 0xFFFFF) >= k).to(tl.int64)
        third = ((counts >> 40) >= k).to(tl.int64)
        edge = edge + unit * (first + second + third)
    return edge


@triton.jit(do_not_specialize=["codebook", "token"])
def sample_kernel(
    logits: tl.tensor,  # (rows, VOCAB)
    seed: tl.tensor,  # this and the next six: fields of SamplingState
    frame: tl.tensor,
    top_k: tl.tensor,
    unconditional: tl.tensor,
    sampler: tl.tensor,
    temperature: tl.tensor,
    guidance: tl.tensor,
    codes: tl.tensor,  # int64 (rows, CODEBOOKS)
    inputs: tl.tensor,  # (CODEBOOKS - 1, AUDIO_VOCAB, SIZE), see CsmModel.depth_inputs
    norm: tl.tensor,
    x: tl.tensor,
    weighted: tl.tensor,
    squares: tl.tensor,
    codebook: tl.tensor,
    token: tl.tensor,  # of the first row's next input
    VOCAB: tl.constexpr,
    BLOCK_V: tl.constexpr,
    AUDIO_VOCAB: tl.constexpr,
    CODEBOOKS: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_H: tl.constexpr,
    RECORD: tl.constexpr,
    FINE: tl.constexpr,  # logits have more bits than a bfloat16's 16
    PDL: tl.constexpr,
) -> None:
    """sampling.sample of one row, and the depth decoder's next input: noise, guidance, top-k and argmax.

    A row with a sampler computes that row's code once more.
    """
    row = tl.program_id(0).to(tl.int64)
    n, h = tl.arange(0, BLOCK_V), tl.arange(0, BLOCK_H)
    there = n < VOCAB
    let_next_start(PDL)
    # The records change only between steps, and at a step's end: after the wait of the first kernel.
    drawn = tl.load(sampler + row * RECORD)
    at = drawn * RECORD
    noise = _gumbel_noise(tl.load(seed + at), tl.load(frame + at), codebook * VOCAB + n)
    noise = noise * tl.load(temperature + 2 * at)
    weight = tl.load(guidance + 2 * at)
    k = tl.minimum(tl.load(top_k + at), VOCAB)
    wait_for_previous(PDL)
    z = tl.load(logits + drawn * VOCAB + n, mask=there, other=float("-inf")).to(tl.float32)
    if weight != 0.0:
        other = tl.load(logits + tl.load(unconditional + at) * VOCAB + n, mask=there, other=0.0).to(tl.float32)
        z = tl.where(there, z + weight * (z - other), z)
    z = tl.where(z == 0.0, 0.0, z)  # -0.0 ties with 0.0
    raw = z.to(tl.int32, bitcast=True)
    ordered = (raw ^ ((raw >> 31) & 0x7FFFFFFF)).to(tl.int64)  # integers in the same order
    edge = _refine(ordered, k * 0 + _LOWEST, k, 31, 16)
    if FINE:  # noqa: SIM114 (decided by the compiler, the other by the row)
        edge = _refine(ordered, edge, k, 15, 0)
    elif weight != 0.0:
        edge = _refine(ordered, edge, k, 15, 0)
    chosen = tl.where(there & (ordered >= edge), z + noise, float("-inf"))
    code = tl.argmax(chosen, axis=0).to(tl.int64)
    tl.store(codes + row * CODEBOOKS + codebook, code)
    if codebook < CODEBOOKS - 1:
        given = tl.load(inputs + (codebook * AUDIO_VOCAB + code) * SIZE + h, mask=h < SIZE, other=0.0)
        _enter(given, x, weighted, squares, norm, row + token, SIZE, BLOCK_H)


@triton.jit
def finish_kernel(
    codes: tl.tensor,  # int64 (rows, CODEBOOKS)
    output: tl.tensor,  # int64 (rows, CODEBOOKS + 1)
    active: tl.tensor,  # uint8 (rows,)
    starting: tl.tensor,  # uint8, of the record
    position: tl.tensor,  # int64, of the record
    frame: tl.tensor,  # int64, of the record
    STOP: tl.constexpr,
    CODEBOOKS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    RECORD: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """The stop test and the step's state, of active rows."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, BLOCK_C)
    let_next_start(PDL)
    wait_for_previous(PDL)
    found = tl.load(codes + row * CODEBOOKS + n, mask=n < CODEBOOKS, other=0)
    speaking = tl.sum(((found != STOP) & (n < CODEBOOKS - 1)).to(tl.int32), axis=0) > 0
    going = tl.load(active + row) != 0
    at = output + row * (CODEBOOKS + 1)
    tl.store(at + n, found, mask=(n < CODEBOOKS) & going)
    tl.store(at + CODEBOOKS, (speaking & going).to(tl.int64))
    one = going.to(tl.int64)
    tl.store(starting + row * (8 * RECORD), 0, mask=going)
    tl.store(position + row * RECORD, tl.load(position + row * RECORD) + one)
    tl.store(frame + row * RECORD, tl.load(frame + row * RECORD) + one)
