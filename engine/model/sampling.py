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
class SamplingMode:
    """What the rows of a step need between them: decides which work is done, never what a row gets.

    top_k: at least the largest of any row. sampled: some row is not greedy. guided: some row has guidance.
    """

    top_k: int
    sampled: bool
    guided: bool


@dataclass(frozen=True)
class SamplingInputs:
    """What the draws of one frame need, worked out once for all of its codebooks."""

    noise: Tensor  # float32 (rows, codebooks, vocab), times the row's temperature: nothing where a row is greedy
    edge: Tensor  # int64 (rows, 1): which of the largest logits is the last that a row draws from
    largest: int  # how many of the largest logits are looked at

    @staticmethod
    def of(state: SamplingState, mode: SamplingMode, codebooks: int, vocab: int) -> SamplingInputs:
        noise = gumbel_noise(state.seed, state.frame, codebooks, vocab)
        noise[:, 0] *= state.temperature_first[:, None]
        noise[:, 1:] *= state.temperature[:, None, None]
        largest = min(mode.top_k, vocab)
        return SamplingInputs(noise, state.top_k.clamp(max=largest)[:, None] - 1, largest)


def gumbel_noise(seed: Tensor, frame: Tensor, codebooks: int, vocab: int) -> Tensor:
    """Gumbel noise, float32 (rows, codebooks, vocab), a pure function of (seed, frame, codebook, token).

    A counter-based generator. The row's key goes through the finalizer of splitmix64 (Steele, Lea & Flood, 2014);
    each token then through two rounds of multiplying and folding the high half into the low, which needs no shift:
    the halves are views. This is the largest arithmetic of a frame beside its matrix products, so all is in place.
    Adding it to logits and taking the largest samples from their softmax (Gumbel-max).
    """
    token = torch.arange(codebooks * vocab, device=seed.device).view(1, codebooks, vocab) * _GOLDEN
    bits = _mix(_mix(seed) + frame)[:, None, None] + token
    halves = bits.view(torch.int32).view(*bits.shape, 2)  # low, high: every machine that runs this begins low
    for _ in range(2):
        halves[..., 0] ^= halves[..., 1]
        bits *= _FOLD
    uniform = halves[..., 1].float().mul_(_JUST_UNDER_HALF * 2.0**-31).add_(0.5)  # in (0, 1), never either
    noise: Tensor = uniform.log_().neg_().log_().neg_()
    return noise


_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FOLD = 0xD6E8FEB86659FD93 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_JUST_UNDER_HALF = 0.5 - 2.0**-24  # so that what is rounded to float32 stays under 1


def _mix(x: Tensor) -> Tensor:
    x = x + _GOLDEN
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _MIX_1  # int64 shifts keep the sign: mask it away
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def sample(
    logits: Tensor, state: SamplingState, mode: SamplingMode, inputs: SamplingInputs | None, codebook: int
) -> Tensor:
    """logits (rows, vocab) of one codebook -> tokens int64 (rows,). inputs: None where all rows are greedy.

    Guidance first: cond + w * (cond - uncond). Then top-k, ties at its edge kept, then the draw: the largest of
    logits + temperature * noise, which is the largest of logits / temperature + noise, and greedy at 0.
    """
    logits = logits.float()
    if mode.guided:
        logits = logits + state.guidance[:, None] * (logits - logits[state.unconditional])
    if inputs is not None:
        edge = logits.topk(inputs.largest).values.gather(1, inputs.edge)
        logits = (logits + inputs.noise[:, codebook]).masked_fill(logits < edge, -torch.inf)
    tokens = logits.argmax(-1)
    return tokens[state.sampler] if mode.guided else tokens
