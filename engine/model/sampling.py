"""One token per row: temperature, top-k, and noise that depends on seed, frame and codebook alone."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass
class SamplingState:
    """Per row, at fixed addresses. A step reads the first rows of it."""

    seed: Tensor  # int64 (rows,)
    frame: Tensor  # int64 (rows,): counts what the row has spoken
    temperature_first: Tensor  # float32 (rows,): of codebook 0; 0 is greedy
    temperature: Tensor  # float32 (rows,): of the others
    top_k: Tensor  # int64 (rows,)
    guidance: Tensor  # float32 (rows,): 0 for a row without
    unconditional: Tensor  # int64 (rows,): the row that speaks the same without its text; itself if there is none
    sampler: Tensor  # int64 (rows,): the row whose codes this one takes; itself but for an unconditional row

    @staticmethod
    def allocate(rows: int, device: torch.device) -> SamplingState:
        itself = torch.arange(rows, device=device)
        integers = torch.zeros(rows, dtype=torch.int64, device=device)
        floats = torch.zeros(rows, device=device)
        return SamplingState(
            integers.clone(), integers.clone(), floats.clone(), floats.clone(), integers + 1, floats.clone(),
            itself.clone(), itself.clone(),
        )  # fmt: skip

    def first(self, rows: int) -> SamplingState:
        return SamplingState(*(getattr(self, field.name)[:rows] for field in fields(self)))


@dataclass(frozen=True)
class StepKind:
    """What the rows of a step need between them: decides which work is done, never what a row gets.

    top_k: at least the largest of any row. sampled: some row is not greedy. guided: some row has guidance.
    """

    top_k: int
    sampled: bool
    guided: bool


def gumbel_noise(seed: Tensor, frame: Tensor, codebooks: int, vocab: int) -> Tensor:
    """Gumbel noise, float32 (rows, codebooks, vocab), a pure function of (seed, frame, codebook, token).

    A counter-based generator: the finalizer of splitmix64 (Steele, Lea & Flood, 2014) over a mixed counter.
    Adding it to logits and taking the largest samples from their softmax (Gumbel-max).
    """
    device = seed.device
    token = torch.arange(codebooks * vocab, device=device).view(1, codebooks, vocab)
    row = _mix(_mix(seed) + frame)[:, None, None]
    bits = (_mix(row + token * _GOLDEN) >> 40) & 0xFFFFFF
    uniform = (bits.float() + 0.5) * 2.0**-24  # in (0, 1), never either
    return -torch.log(-torch.log(uniform))


_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def _mix(x: Tensor) -> Tensor:
    x = x + _GOLDEN
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _MIX_1  # int64 shifts keep the sign: mask it away
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def sample(logits: Tensor, state: SamplingState, kind: StepKind, temperature: Tensor, noise: Tensor | None) -> Tensor:
    """logits (rows, vocab), temperature (rows,), noise (rows, vocab) -> tokens int64 (rows,).

    Guidance first: cond + w * (cond - uncond). Then top-k, ties at its edge kept, then the draw.
    """
    logits = logits.float()
    if kind.guided:
        logits = logits + state.guidance[:, None] * (logits - logits[state.unconditional])
    if noise is not None:
        count = min(kind.top_k, logits.shape[-1])
        largest = logits.topk(count).values
        edge = largest.gather(1, (state.top_k.clamp(max=count) - 1)[:, None])
        draws = temperature > 0
        scores = logits / torch.where(draws, temperature, 1.0)[:, None] + noise
        drawn = torch.where(logits < edge, -torch.inf, scores)
        logits = torch.where(draws[:, None], drawn, logits)
    tokens = logits.argmax(-1)
    return tokens[state.sampler] if kind.guided else tokens
