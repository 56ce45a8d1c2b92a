"""Packs the prompts of several rows one behind the other into prefill passes, as arrays of tokens. Pure, no torch.

A prompt is cut only at multiples of CUT positions, so that how its attention is computed follows from the prompt alone
and not from the budget or from what else is packed with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .context import Prefill
from .model.prompt_tokens import CODES, IS_AUDIO, POSITION, ROW, Segment

CUT = 16  # positions


@dataclass(frozen=True)
class PromptPiece:
    """Positions of one row's prompt that one pass prefills."""

    row: int
    prefill: Prefill


@dataclass(frozen=True)
class PackedPrompts:
    """The tokens of one pass. tokens: int64 (tokens, CODES + codebooks), see model.prompt_tokens."""

    tokens: npt.NDArray[np.int64]
    segments: tuple[Segment, ...]

    def padded(self, size: int, scratch: int) -> npt.NDArray[np.int64]:
        """`tokens` with padding up to `size` tokens."""
        padding = np.zeros((size - len(self.tokens), self.tokens.shape[1]), np.int64)
        padding[:, POSITION] = scratch
        return np.concatenate((self.tokens, padding))


def take(pending: list[Prefill], budget: int) -> list[Prefill]:
    """Remove from `pending` what fits into `budget` positions, and return it."""
    taken = []
    while pending and (length := _cut(pending[0], budget)):
        now = pending.pop(0)
        if length < now.length:
            now, rest = now.split(length)
            pending.insert(0, rest)
        taken.append(now)
        budget -= length
    return taken


def _cut(prefill: Prefill, budget: int) -> int:
    """The most positions of a prefill, at most `budget`, after which it may be cut; 0 if there are none."""
    if prefill.length <= budget:
        return prefill.length
    return max((prefill.start + budget) // CUT * CUT - prefill.start, 0)


def pack(
    pieces: Iterable[PromptPiece], codebooks: int, max_tokens: int, scratch: int, align: int = 1
) -> Iterator[PackedPrompts]:
    """Pack pieces in order into as few passes of at most `max_tokens` tokens as possible.

    align: every segment begins at a multiple of this many tokens, and the tokens between two segments are padding.
    scratch: the position that padding is written to. max_tokens is a multiple of `align`, and at least CUT.
    """
    batch: list[PromptPiece] = []
    count = 0
    for piece in pieces:
        rest = [piece.prefill]
        while rest:
            for now in take(rest, max_tokens - count):
                batch.append(PromptPiece(piece.row, now))
                count += -(-now.length // align) * align
            if rest or count == max_tokens:
                yield _packed(batch, codebooks, count, scratch, align)
                batch, count = [], 0
    if batch:
        yield _packed(batch, codebooks, count, scratch, align)


def _packed(batch: list[PromptPiece], codebooks: int, count: int, scratch: int, align: int) -> PackedPrompts:
    tokens = np.zeros((count, CODES + codebooks), np.int64)
    tokens[:, POSITION] = scratch
    segments, first = [], 0
    for piece in batch:
        prefill = piece.prefill
        segments.append(Segment(piece.row, prefill.start, first, prefill.length))
        end = first + prefill.length
        tokens[first : first - (-prefill.length // align) * align, ROW] = piece.row
        tokens[first:end, POSITION] = np.arange(prefill.start, prefill.start + prefill.length)
        for span in prefill.spans:
            part = tokens[first : first + len(span)]
            if isinstance(span, list):
                part[:, CODES] = span
            else:
                part[:, IS_AUDIO], part[:, CODES:] = 1, span
            first += len(span)
        first = -(-end // align) * align
    return PackedPrompts(tokens, tuple(segments))
