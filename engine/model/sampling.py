"""Token sampling: temperature, top-k and guidance per row, with noise that depends only on seed, frame and codebook."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .row_record import RowTable


@dataclass
class SamplingState:
    """Sampling parameters of every row, as views of their records in a RowTable. A step reads the first rows."""

    seed: Tensor  # int64 (rows,)
    frame: Tensor  # int64 (rows,): number of frames the row has generated
    temperature_first: Tensor  # float32 (rows,): codebook 0; 0 is greedy
    temperature: Tensor  # float32 (rows,): all other codebooks
    top_k: Tensor  # int64 (rows,)
    guidance: Tensor  # float32 (rows,): classifier-free guidance weight; 0 is off
    unconditional: Tensor  # int64 (rows,): the request's row without its text; its own index without guidance
    sampler: Tensor  # int64 (rows,): the row whose codes this row takes; its own index unless unconditional

    @staticmethod
    def allocate(rows: int, device: torch.device) -> SamplingState:
        return SamplingState.of(RowTable(rows, device))

    @staticmethod
    def of(table: RowTable) -> SamplingState:
        """Views of the rows' records, of greedy rows without guidance."""
        state = SamplingState(*(table.field(field.name) for field in fields(SamplingState)))
        itself = torch.arange(len(state.seed), device=state.seed.device)
        state.top_k.fill_(1)
        state.unconditional.copy_(itself)
        state.sampler.copy_(itself)
        return state

    def first(self, rows: int) -> SamplingState:
        return SamplingState(*(getattr(self, field.name)[:rows] for field in fields(self)))


@dataclass(frozen=True)
class SamplingMode:
    """Which sampling work a step does for its rows. Chooses kernels only; no row's result depends on it.

    top_k: at least the largest top_k of any row. sampled: some row is not greedy. guided: some row uses guidance.
    """

    top_k: int
    sampled: bool
    guided: bool


@dataclass(frozen=True)
class SamplingInputs:
    """Sampling inputs of one frame, computed once for all codebooks."""

    noise: Tensor  # float32 (rows, codebooks, vocab), multiplied by the row's temperature: 0 for greedy rows
    kth: Tensor  # int64 (rows, 1): index of the row's k-th logit among the `max_top_k` largest
    max_top_k: int  # number of largest logits that are computed for every row

    @staticmethod
    def of(state: SamplingState, mode: SamplingMode, codebooks: int, vocab: int) -> SamplingInputs:
        noise = gumbel_noise(state.seed, state.frame, codebooks, vocab)
        noise[:, 0] *= state.temperature_first[:, None]
        noise[:, 1:] *= state.temperature[:, None, None]
        max_top_k = min(mode.top_k, vocab)
        return SamplingInputs(noise, state.top_k.clamp(max=max_top_k)[:, None] - 1, max_top_k)


def gumbel_noise(seed: Tensor, frame: Tensor, codebooks: int, vocab: int) -> Tensor:
    """Gumbel noise, float32 (rows, codebooks, vocab), a pure function of (seed, frame, codebook, token).

    Counter-based generator. The row's key is hashed with the splitmix64 finalizer (Steele, Lea & Flood, 2014); each
    token then takes two rounds of multiplying and XOR-ing the high half into the low one. The halves are views, so no
    shift is needed. Outside matrix products this is the most arithmetic of a frame, so everything is in place. The
    argmax of logits plus this noise is a sample from their softmax (Gumbel-max trick).
    """
    token = torch.arange(codebooks * vocab, device=seed.device).view(1, codebooks, vocab) * _GOLDEN
    bits = _mix(_mix(seed) + frame)[:, None, None] + token
    halves = bits.view(torch.int32).view(*bits.shape, 2)  # low, high: little-endian
    for _ in range(2):
        halves[..., 0] ^= halves[..., 1]
        bits *= _FOLD
    uniform = halves[..., 1].float().mul_(_JUST_UNDER_HALF * 2.0**-31).add_(0.5)  # in the open interval (0, 1)
    noise: Tensor = uniform.log_().neg_().log_().neg_()
    return noise


_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FOLD = 0xD6E8FEB86659FD93 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_JUST_UNDER_HALF = 0.5 - 2.0**-24  # keeps the float32 result below 1


def _mix(x: Tensor) -> Tensor:
    x = x + _GOLDEN
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _MIX_1  # int64 shifts are arithmetic: mask off the sign bits
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def sample(
    logits: Tensor, state: SamplingState, mode: SamplingMode, inputs: SamplingInputs | None, codebook: int
) -> Tensor:
    """logits (rows, vocab) of one codebook -> tokens int64 (rows,). inputs: None if all rows are greedy.

    Guidance comes first: cond + w * (cond - uncond). Then top-k, which keeps ties with the k-th logit, then the argmax
    of logits + temperature * noise: the argmax of logits / temperature + noise, and greedy at temperature 0.
    """
    logits = logits.float()
    if mode.guided:
        logits = logits + state.guidance[:, None] * (logits - logits[state.unconditional])
    if inputs is not None:
        threshold = logits.topk(inputs.max_top_k).values.gather(1, inputs.kth)
        logits = (logits + inputs.noise[:, codebook]).masked_fill(logits < threshold, -torch.inf)
    tokens = logits.argmax(-1)
    return tokens[state.sampler] if mode.guided else tokens
